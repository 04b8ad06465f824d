"""Statements on deliveries that have ended and whose end changes: a new round sends them again, a resolve settles them.

The batch that counts them is always locked first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.engine import Connection

from send_engine.records import DeliveryState

_MOVE = sa.text(
    "UPDATE deliveries d SET batch_id = :target, ordinal = :first + e.place, state = 'pending', reason = '' "
    "FROM (SELECT ordinal, state, row_number() OVER (ORDER BY ordinal) - 1 AS place FROM deliveries "
    "WHERE tenant_id = :tenant AND batch_id = :source AND state = ANY(:states)) e "
    "WHERE d.tenant_id = :tenant AND d.batch_id = :source AND d.ordinal = e.ordinal RETURNING e.state"
).bindparams(sa.bindparam("states", type_=ARRAY(sa.Text)))


def batches_with(
    connection: Connection,
    tenant_id: UUID,
    job_id: UUID,
    states: Sequence[DeliveryState],
    after: UUID | None,
    limit: int,
    before_round: int | None = None,
) -> list[tuple[UUID, int]]:
    """Locks the next batches of a job that have deliveries in these states, and returns each with their number.

    After this batch, by id; only of rounds before this one, if it is given. One whose deliveries are kept no longer
    still counts them, and is left out.
    """
    count = " + ".join(state.value for state in states)
    rows = connection.execute(
        sa.text(
            f"SELECT id, {count} AS ended FROM batches b WHERE tenant_id = :tenant AND job_id = :job AND {count} > 0 "
            "AND id > :after AND round < :round AND EXISTS ("
            "SELECT FROM deliveries d WHERE d.tenant_id = b.tenant_id AND d.batch_id = b.id) "
            "ORDER BY id LIMIT :limit FOR NO KEY UPDATE OF b"
        ),
        {
            "tenant": tenant_id,
            "job": job_id,
            "after": after or UUID(int=0),
            "round": 2**15 - 1 if before_round is None else before_round,
            "limit": limit,
        },
    )
    return [(row.id, row.ended) for row in rows]


def move(
    connection: Connection,
    tenant_id: UUID,
    source: UUID,
    states: Sequence[DeliveryState],
    target: UUID,
    first: int,
) -> int:
    """Moves the deliveries of a batch that ended in these states, pending again, to another; returns how many."""
    moved = Counter(
        connection.execute(
            _MOVE,
            {
                "tenant": tenant_id,
                "source": source,
                "states": [state.value for state in states],
                "target": target,
                "first": first,
            },
        ).scalars()
    )
    fewer = "".join(f"{state} = {state} - {count}, " for state, count in moved.items())
    connection.execute(
        sa.text(f"UPDATE batches SET {fewer}moved = moved + :count WHERE tenant_id = :tenant AND id = :source"),
        {"tenant": tenant_id, "source": source, "count": moved.total()},
    )
    return moved.total()


def unknown(connection: Connection, tenant_id: UUID, batch_id: UUID) -> list[tuple[int, UUID]]:
    """Reads ordinal and subscription of the unknown deliveries of a batch."""
    rows = connection.execute(
        sa.text(
            "SELECT ordinal, subscription_id FROM deliveries "
            "WHERE tenant_id = :tenant AND batch_id = :batch AND state = 'unknown'"
        ),
        {"tenant": tenant_id, "batch": batch_id},
    )
    return [(row.ordinal, row.subscription_id) for row in rows]


def resolve(
    connection: Connection, tenant_id: UUID, batch_id: UUID, ordinals: Sequence[int], state: DeliveryState
) -> None:
    """Ends unknown deliveries of a batch in this state."""
    connection.execute(
        sa.text(
            "UPDATE deliveries SET state = :state, reason = 'resolved', recorded_at = (SELECT messmail_now()) "
            "WHERE tenant_id = :tenant AND batch_id = :batch AND ordinal = ANY(:ordinals)"
        ).bindparams(sa.bindparam("ordinals", list(ordinals), ARRAY(sa.Integer))),
        {"tenant": tenant_id, "batch": batch_id, "state": state.value},
    )
    connection.execute(
        sa.text(
            f"UPDATE batches SET unknown = unknown - :count, {state.value} = {state.value} + :count "
            "WHERE tenant_id = :tenant AND id = :batch"
        ),
        {"tenant": tenant_id, "batch": batch_id, "count": len(ordinals)},
    )
