"""The statement that lists the deliveries of a job, page by page.

Pages go by (batch, ordinal), so each costs the same however long the list. A batch's counters tell whether it can have
any delivery in the state that is asked for; the others are not looked into.
"""

from __future__ import annotations

from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from send_engine.records import Delivery, DeliveryPlace, ShownState

_STATE = """
    CASE
        WHEN d.state <> 'pending' THEN d.state
        WHEN b.status = 'closed' THEN 'cancelled'
        WHEN d.ordinal < b.marked_until THEN 'sending'
        WHEN j.status IN ('cancelled', 'failed') THEN 'cancelled'
        WHEN b.lease_until IS NOT NULL THEN 'claimed'
        WHEN b.lane = 'retry' THEN 'deferred'
        ELSE 'pending'
    END
"""
_MAY_HOLD = {
    ShownState.PENDING: "b.size > b.marked_until",
    ShownState.CLAIMED: "b.size > b.marked_until",
    ShownState.DEFERRED: "b.size > b.marked_until",
    ShownState.SENDING: "b.marked_until > b.recorded_until",
    ShownState.SENT: "b.sent > 0",
    ShownState.FAILED: "b.failed > 0",
    ShownState.SUPPRESSED: "b.suppressed > 0",
    ShownState.CANCELLED: "(b.cancelled > 0 OR b.size > b.marked_until)",
    ShownState.UNKNOWN: "b.unknown > 0",
}


def read(
    connection: Connection,
    tenant_id: UUID,
    job_id: UUID,
    limit: int,
    after: DeliveryPlace | None,
    state: ShownState | None,
) -> list[Delivery]:
    """Reads so many deliveries of a job, from the one after a place on, in that state or in any."""
    place = after or DeliveryPlace(UUID(int=0), -1)
    may_hold, is_in_state = ("true", "true") if state is None else (_MAY_HOLD[state], f"{_STATE} = :state")
    rows = connection.execute(
        sa.text(
            f"""
            SELECT b.id AS batch_id, d.*
            FROM send_jobs j JOIN batches b ON b.tenant_id = j.tenant_id AND b.job_id = j.id
            CROSS JOIN LATERAL (
                SELECT d.ordinal, d.subscription_id, d.domain, {_STATE} AS state, d.reason, d.last_reply, d.attempts,
                    d.recorded_at
                FROM deliveries d
                WHERE d.tenant_id = b.tenant_id AND d.batch_id = b.id
                    AND (b.id > :batch OR d.ordinal > :ordinal) AND {is_in_state}
                ORDER BY d.ordinal LIMIT :limit
            ) d
            WHERE j.tenant_id = :tenant AND j.id = :job AND b.id >= :batch AND {may_hold}
            ORDER BY b.id, d.ordinal LIMIT :limit
            """
        ),
        {"tenant": tenant_id, "job": job_id, "limit": limit, "batch": place.batch_id, "ordinal": place.ordinal}
        | ({} if state is None else {"state": state.value}),
    )
    return [
        Delivery(
            place=DeliveryPlace(row.batch_id, row.ordinal),
            subscription_id=row.subscription_id,
            domain=row.domain,
            state=ShownState(row.state),
            reason=row.reason,
            last_reply=row.last_reply,
            attempts=row.attempts,
            recorded_at=row.recorded_at,
        )
        for row in rows
    ]
