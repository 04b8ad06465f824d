"""Reads who may be mailed: pages of the confirmed, and groups at the moment of sending."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from member_center.records.mailing import AudiencePage, Group, Refusal
from member_center.storage.suppressions import HASH, lookup
from servicekit.database import Run
from servicekit.statements import Statement

_FIRST = UUID(int=0)
_ID_BYTES = 16
_Now = sa.DateTime(timezone=True)


def read_now(connection: Connection) -> datetime:
    """Reads the time."""
    now: datetime = connection.execute(sa.select(sa.func.messmail_now(type_=_Now))).scalar_one()
    return now


def read_confirmed(
    connection: Connection, tenant_id: UUID, list_id: UUID, as_of: datetime, after: UUID | None, size: int
) -> AudiencePage:
    """Reads a page of those who had confirmed by a time and still stand so, ordered by id."""
    parameters = {
        "tenant_id": tenant_id,
        "list_id": list_id,
        "as_of": as_of,
        "after": after or _FIRST,
        "limit": size + 1,
    }
    ids, domains = connection.execute(_CONFIRMED, parameters).one()
    more = len(ids) > size * _ID_BYTES
    return AudiencePage(as_of, ids[: size * _ID_BYTES], domains.split("\n")[:size] if ids else [], more)


def read_group(
    run: Run, tenant_id: UUID, list_id: UUID, ids: Sequence[bytes], *, hash_inner: bytes, hash_outer: bytes
) -> Group:
    """Reads subscriptions in one snapshot, and a time that is not later than it.

    The time is the transaction's, which is before any snapshot of it. messmail_now() would not do: PostgreSQL takes the
    snapshot when a statement is bound, and sets the statement's time once more when it is executed.
    """
    # The text of the array is written here: thousands of ids would each be looked at for quoting.
    wanted = f"{{{b''.join(ids).hex(',', _ID_BYTES)}}}"
    parameters = {"tenant_id": tenant_id, "list_id": list_id, "ids": wanted}
    (row,) = run(_GROUP, parameters | {"hash_inner": hash_inner, "hash_outer": hash_outer})
    mailable = _ids(row.mailable)
    addresses, preferences = (_lines(column, len(mailable)) for column in (row.addresses, row.preferences))
    refused = _ids(row.refused)
    reasons = map(Refusal, _lines(row.reasons, len(refused)))
    return Group(row.now, mailable, addresses, preferences, dict(zip(refused, reasons, strict=True)))


def _ids(column: bytes) -> list[bytes]:
    return [column[start : start + _ID_BYTES] for start in range(0, len(column), _ID_BYTES)]


def _lines(column: str, count: int) -> list[str]:
    lines = column.split("\n") if count else []
    if len(lines) != count:
        raise ValueError("a line break in a column that has none")
    return lines


# One row, not thousands: a row costs more to read than to find. No domain has a line break in it, nor has an address,
# or the text of JSON.
_CONFIRMED = sa.text(
    """
    SELECT coalesce(string_agg(uuid_send(id), '' ORDER BY id), ''), coalesce(string_agg(domain, E'\\n' ORDER BY id), '')
    FROM (
        SELECT id, split_part(address, '@', -1) AS domain FROM subscriptions
        WHERE tenant_id = :tenant_id AND list_id = :list_id AND standing = 'confirmed' AND confirmed_at <= :as_of
            AND id > :after
        ORDER BY id LIMIT :limit
    ) page
    """
)

# The state as consent.status_at() tells it: what is pending lies over the standing until it expires. Each id is looked
# up by itself (LATERAL with LIMIT): as long as a table has no statistics, the planner would rather read the whole list
# than look for 500 ids, and take 40 ms instead of 2 in a list of 100,000. Whether a tenant suppresses anybody is asked
# once, so one that does not pays for no look-up; OFFSET keeps the planner from asking again for each aggregate. Who was
# erased can have confirmed only anew, by a mailed link.
_GROUP = Statement(
    f"""
    SELECT messmail_now() - (statement_timestamp() - transaction_timestamp()) AS now,
        coalesce(string_agg(uuid_send(id), '') FILTER (WHERE refusal IS NULL), '') AS mailable,
        string_agg(address, E'\\n') FILTER (WHERE refusal IS NULL) AS addresses,
        string_agg(preferences::text, E'\\n') FILTER (WHERE refusal IS NULL) AS preferences,
        coalesce(string_agg(uuid_send(id), '') FILTER (WHERE refusal IS NOT NULL), '') AS refused,
        string_agg(refusal, E'\\n') FILTER (WHERE refusal IS NOT NULL) AS reasons
    FROM (
        SELECT member.id, address, preferences,
            CASE
                WHEN standing = 'confirmed' THEN CASE
                    WHEN NOT (SELECT EXISTS (SELECT FROM suppressions WHERE tenant_id = :tenant_id)) THEN NULL
                    WHEN {lookup(HASH, ":list_id", "suppression.reason <> 'erased'")} THEN 'suppressed'
                END
                WHEN pending_expires_at > (SELECT messmail_now()) OR standing = 'unconfirmed' THEN 'not_confirmed'
                ELSE standing
            END AS refusal
        FROM unnest(CAST(:ids AS uuid[])) AS wanted (id)
        CROSS JOIN LATERAL (
            SELECT id, address, address_key, preferences, standing, pending_expires_at FROM subscriptions
            WHERE tenant_id = :tenant_id AND list_id = :list_id AND id = wanted.id LIMIT 1
        ) member
        OFFSET 0
    ) found
    """
)
