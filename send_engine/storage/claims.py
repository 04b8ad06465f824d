"""Statements that find work, for the dispatch role: taking the next batch of a lane, counting those that are due."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from send_engine.records import Claim, Lane

_IS_DUE = """
    lane = :lane AND status = 'ready' AND due_at <= (SELECT messmail_now())
    AND (lease_until IS NULL OR lease_until <= (SELECT messmail_now()))
"""
# Whose turn it is, and the batches among which each chooses. A tenant or domain without permits rests, and with it all
# of its batches, without a look at any; so does a tenant that the process asking passes by.
_IS_AWAKE = (
    "(:sends_nothing OR rests_until <= (SELECT messmail_now()) AND tenant_id <> ALL (CAST(:passed_by AS uuid[])))"
)
_TENANTS = (
    f"(SELECT tenant_id FROM tenant_turns WHERE {_IS_AWAKE} ORDER BY served_at)",
    "tenant_id = t.tenant_id",
    "UPDATE tenant_turns t SET served_at = clock_timestamp() FROM due WHERE t.tenant_id = due.tenant_id",
)
_HELD_DOMAINS = (
    "(SELECT tenant_id, h.domain FROM held_domains h JOIN tenant_turns USING (tenant_id) "
    f"WHERE h.due_at <= (SELECT messmail_now()) AND {_IS_AWAKE} ORDER BY h.due_at)",
    "tenant_id = t.tenant_id AND domain = t.domain",
    "UPDATE held_domains h SET due_at = messmail_now() FROM due WHERE h.tenant_id = due.tenant_id "
    "AND h.domain = due.domain",
)


def _claim_by(turns: str, theirs: str, pass_on: str) -> sa.TextClause:
    """The one served longest ago comes first; the subquery's order holds because a lateral join asks for one row of it
    after the other, and stops at the first that has work.
    """
    return sa.text(
        f"""
        WITH due AS MATERIALIZED (
            SELECT b.tenant_id, b.id, b.domain
            FROM {turns} t CROSS JOIN LATERAL (
                SELECT tenant_id, id, domain FROM batches WHERE {theirs} AND {_IS_DUE}
                ORDER BY due_at, id LIMIT 1 FOR UPDATE SKIP LOCKED
            ) b LIMIT 1
        ), turn AS ({pass_on})
        UPDATE batches b
        SET fence = fence + 1, worker = :worker, lease_until = messmail_now() + make_interval(secs => :lease)
        FROM due WHERE b.tenant_id = due.tenant_id AND b.id = due.id
        RETURNING b.tenant_id, b.id, b.job_id, b.lane, b.fence, b.attempt, b.lapses, b.size, b.marked_until,
            b.recorded_until, b.give_up_at, b.round, b.domain
        """
    )


def _due_by(turns: str, theirs: str) -> sa.TextClause:
    return sa.text(
        f"""
        SELECT count(*) FROM (
            SELECT FROM {turns} t CROSS JOIN LATERAL (
                SELECT FROM batches WHERE {theirs} AND {_IS_DUE} LIMIT :most
            ) b LIMIT :most
        ) due
        """
    )


_CLAIM, _CLAIM_HELD = _claim_by(*_TENANTS), _claim_by(*_HELD_DOMAINS)
_DUE, _DUE_HELD = _due_by(*_TENANTS[:2]), _due_by(*_HELD_DOMAINS[:2])


def take(
    connection: Connection, lane: Lane, worker: str, lease_seconds: float, passed_by: Collection[UUID]
) -> Claim | None:
    """Takes the next due or lapsed batch of a lane, of no tenant passed by; None when there is none."""
    query = _CLAIM_HELD if lane is Lane.HELD else _CLAIM
    row = connection.execute(query, _lane(lane, passed_by) | {"worker": worker, "lease": lease_seconds}).first()
    if row is None:
        return None
    return Claim(
        tenant_id=row.tenant_id,
        batch_id=row.id,
        job_id=row.job_id,
        lane=Lane(row.lane),
        fence=row.fence,
        attempt=row.attempt,
        lapses=row.lapses,
        size=row.size,
        marked_until=row.marked_until,
        recorded_until=row.recorded_until,
        give_up_at=row.give_up_at,
        round=row.round,
        domain=row.domain,
    )


def count_due(connection: Connection, lane: Lane, most: int, passed_by: Collection[UUID]) -> int:
    """Counts due or lapsed batches of a lane, of no tenant passed by, up to most."""
    query = _DUE_HELD if lane is Lane.HELD else _DUE
    return int(connection.execute(query, _lane(lane, passed_by) | {"most": most}).scalar_one())


def _lane(lane: Lane, passed_by: Collection[UUID]) -> dict[str, Any]:
    # Planning sends nothing, so it goes on while its tenant rests.
    return {"lane": lane.value, "sends_nothing": lane is Lane.PLAN, "passed_by": list(passed_by)}
