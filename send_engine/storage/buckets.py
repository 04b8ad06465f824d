"""Statements on token buckets: how many mails a second a tenant, an ESP account or a recipient domain may get.

Buckets fill by the database's clock, at their pace: the limit that was set, or what throttling has slowed it to,
whichever is less. What was slowed doubles again every DOUBLING_SECONDS.
"""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

import orjson
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from send_engine.records import Grant, LimitScope, SendLimit

# What a bucket holds at most: this long at its pace, and one.
BURST_SECONDS = 1.5
DOUBLING_SECONDS = 30.0
# Recovered beyond this many mails a second, what was slowed is free again.
FREE_PACE = 10_000.0
SLOWEST_PACE = 0.1
# Replies to mails that were under way when a domain was slowed do not slow it again.
_SAME_THROTTLE_SECONDS = 2.0

# The exponent is bounded, because power() fails where a double ends.
_SLOWED = (
    "b.slowed_to * power(2, least(40, greatest(0, extract(epoch FROM (SELECT messmail_now()) - b.slowed_at)) "
    f"/ {DOUBLING_SECONDS}))"
)
_RECOVERING = f"CASE WHEN {_SLOWED} < {FREE_PACE} THEN {_SLOWED} END"
_PACE = f"least(b.rate, {_RECOVERING})"

_PACED = sa.text(f"SELECT b.scope, b.domain FROM buckets b WHERE b.tenant_id = :tenant AND {_PACE} IS NOT NULL")
# Locked in one order, so that two workers cannot wait for each other. Who waited for the lock has a clock older than
# the bucket's, hence greatest().
_TAKE = sa.text(
    f"""
    WITH taken AS MATERIALIZED (
        SELECT scope, domain, pace, least(
            permits + pace * greatest(0, extract(epoch FROM (SELECT messmail_now()) - filled_at)),
            1 + pace * {BURST_SECONDS}
        ) AS permits
        FROM (
            SELECT b.scope, b.domain, {_PACE} AS pace, b.filled_at, b.permits
            FROM json_to_recordset(CAST(:asked AS json)) AS a (scope text, domain text)
            JOIN buckets b ON b.tenant_id = :tenant AND b.scope = a.scope AND b.domain = a.domain
            ORDER BY b.scope, b.domain FOR NO KEY UPDATE OF b
        ) held WHERE pace IS NOT NULL
    )
    UPDATE buckets b
    SET permits = t.permits - floor(t.permits), filled_at = greatest(b.filled_at, (SELECT messmail_now()))
    FROM taken t WHERE b.tenant_id = :tenant AND b.scope = t.scope AND b.domain = t.domain
    RETURNING b.scope, b.domain, floor(t.permits) AS granted, greatest(
        (1 - b.permits) / t.pace, extract(epoch FROM b.filled_at - (SELECT messmail_now()))
    ) AS next_after
    """
)
_SLOW = sa.text(
    f"""
    INSERT INTO buckets AS b (tenant_id, scope, domain, slowed_to, slowed_at, filled_at)
    SELECT :tenant, 'domain', domain, greatest({SLOWEST_PACE}, pace / 2), messmail_now(),
        messmail_now() + make_interval(secs => rest)
    FROM json_to_recordset(CAST(:throttled AS json)) AS r (domain text, pace float8, rest float8)
    ORDER BY domain
    ON CONFLICT (tenant_id, scope, domain) DO UPDATE
    SET slowed_to = greatest({SLOWEST_PACE}, coalesce({_PACE} / 2, excluded.slowed_to)), slowed_at = excluded.slowed_at,
        permits = 0, filled_at = greatest(b.filled_at, excluded.filled_at)
    WHERE b.slowed_at IS NULL OR b.slowed_at < messmail_now() - make_interval(secs => {_SAME_THROTTLE_SECONDS})
    """
)
_PUT = sa.text(
    """
    INSERT INTO buckets (tenant_id, scope, domain, rate, filled_at)
    VALUES (:tenant, :scope, :domain, :rate, messmail_now())
    ON CONFLICT (tenant_id, scope, domain) DO UPDATE SET rate = excluded.rate
    """
)
_REMOVE_UNUSED = sa.text(f"DELETE FROM buckets b WHERE b.tenant_id = :tenant AND {_PACE} IS NULL")
_LIST = sa.text(
    f"""
    SELECT b.scope, b.domain, b.rate, {_RECOVERING} AS slowed_to FROM buckets b
    WHERE b.tenant_id = :tenant AND {_PACE} IS NOT NULL AND (b.scope, b.domain) > (:scope, :domain)
    ORDER BY b.scope, b.domain LIMIT :most
    """
)


def paced(connection: Connection, tenant_id: UUID) -> list[tuple[LimitScope, str]]:
    """Reads which of a tenant's buckets limit anything at present: scope and domain."""
    return [(LimitScope(row.scope), row.domain) for row in connection.execute(_PACED, {"tenant": tenant_id})]


def take(connection: Connection, tenant_id: UUID, asked: Iterable[tuple[LimitScope, str]]) -> list[Grant]:
    """Takes all permits that these buckets of a tenant hold; no grant comes from one that limits nothing."""
    wanted = [{"scope": scope.value, "domain": domain} for scope, domain in asked]
    rows = connection.execute(_TAKE, {"tenant": tenant_id, "asked": orjson.dumps(wanted).decode()})
    return [Grant(LimitScope(row.scope), row.domain, int(row.granted), float(row.next_after)) for row in rows]


def slow(connection: Connection, tenant_id: UUID, throttled: Iterable[tuple[str, float, float]]) -> int:
    """Slows domains to half their pace, and returns how many: those slowed a moment ago are not slowed again.

    throttled has (domain, mails a second that it was sent where it had no pace, seconds that it is to rest).
    """
    rows = [{"domain": domain, "pace": pace, "rest": rest} for domain, pace, rest in throttled]
    return connection.execute(_SLOW, {"tenant": tenant_id, "throttled": orjson.dumps(rows).decode()}).rowcount


def put(connection: Connection, tenant_id: UUID, scope: LimitScope, domain: str, rate: float | None) -> None:
    """Sets a limit in mails a second, or takes it away. What throttling has slowed stays slowed."""
    connection.execute(_PUT, {"tenant": tenant_id, "scope": scope.value, "domain": domain, "rate": rate})
    connection.execute(_REMOVE_UNUSED, {"tenant": tenant_id})


def page(connection: Connection, tenant_id: UUID, after: tuple[str, str], most: int) -> list[SendLimit]:
    """Reads a tenant's limits in the order of scope and domain, from the one after these on."""
    scope, domain = after
    rows = connection.execute(_LIST, {"tenant": tenant_id, "scope": scope, "domain": domain, "most": most})
    return [SendLimit(LimitScope(row.scope), row.domain, row.rate, row.slowed_to) for row in rows]
