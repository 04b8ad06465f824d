"""Statements on batches, the work table, in a tenant's transaction. How they are claimed is in claims.

What a claim writes names its fence, so that whoever lost the batch meanwhile changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import cache
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from send_engine.records import BatchStatus, Claim, DeliveryState, Lane
from send_engine.storage.tables import batches

_FENCED = "tenant_id = :tenant AND id = :batch AND fence = :fence"


def insert_plan(connection: Connection, tenant_id: UUID, batch_id: UUID, job_id: UUID) -> None:
    """Stores the plan of a new job, due at the job's time, and gives the tenant a turn if it has none."""
    connection.execute(
        sa.text("INSERT INTO tenant_turns (tenant_id) VALUES (:tenant) ON CONFLICT DO NOTHING"), {"tenant": tenant_id}
    )
    connection.execute(
        sa.text(
            "INSERT INTO batches (tenant_id, id, job_id, lane, status, due_at) "
            "SELECT tenant_id, :batch, id, 'plan', 'ready', scheduled_at FROM send_jobs "
            "WHERE tenant_id = :tenant AND id = :job"
        ),
        {"tenant": tenant_id, "batch": batch_id, "job": job_id},
    )


def insert_round(
    connection: Connection,
    tenant_id: UUID,
    batch_id: UUID,
    job_id: UUID,
    lane: Lane,
    status: BatchStatus,
    number: int,
) -> None:
    """Stores an empty batch of a later round: its plan, or one to be filled."""
    connection.execute(
        sa.insert(batches).values(
            tenant_id=tenant_id,
            id=batch_id,
            job_id=job_id,
            lane=lane.value,
            status=status.value,
            due_at=sa.text("messmail_now()"),
            round=number,
        )
    )


def fill(connection: Connection, tenant_id: UUID, batch_id: UUID, size: int) -> None:
    """Lets a batch that was empty be claimed, now that it has so many rows; without any it is closed."""
    connection.execute(
        sa.text(
            "UPDATE batches SET size = :size, status = CASE WHEN :size > 0 THEN 'ready' ELSE 'closed' END "
            "WHERE tenant_id = :tenant AND id = :batch"
        ),
        {"tenant": tenant_id, "batch": batch_id, "size": size},
    )


def insert_planned(connection: Connection, tenant_id: UUID, job_id: UUID, sizes: Mapping[UUID, int]) -> None:
    """Stores batches that wait until their job is sending."""
    connection.execute(
        sa.insert(batches).values(
            [
                {
                    "tenant_id": tenant_id,
                    "id": batch_id,
                    "job_id": job_id,
                    "lane": Lane.BULK.value,
                    "status": BatchStatus.PLANNED.value,
                    "due_at": sa.text("messmail_now()"),
                    "size": size,
                }
                for batch_id, size in sizes.items()
            ]
        )
    )


def insert_retry(
    connection: Connection,
    origin: Claim,
    batch_id: UUID,
    size: int,
    *,
    lane: Lane,
    delay: float,
    attempt: int,
    lapses: int,
    give_up_at: datetime | None,
    domain: str = "",
) -> None:
    """Stores a batch for those of a claimed batch that are tried again, delay seconds from now.

    Of a paused job it waits until the job is resumed. The job must be locked, the origin too. One of the lane held has
    a domain.
    """
    connection.execute(
        sa.text(
            "INSERT INTO batches "
            "(tenant_id, id, job_id, lane, status, due_at, size, attempt, lapses, round, give_up_at, domain) "
            "SELECT b.tenant_id, :batch, b.job_id, :lane, CASE j.status WHEN 'paused' THEN 'planned' ELSE 'ready' END, "
            "messmail_now() + make_interval(secs => :delay), :size, :attempt, :lapses, b.round, :give_up_at, "
            ":domain "
            "FROM batches b JOIN send_jobs j ON j.tenant_id = b.tenant_id AND j.id = b.job_id "
            "WHERE b.tenant_id = :tenant AND b.id = :origin"
        ).bindparams(sa.bindparam("give_up_at", give_up_at, sa.DateTime(timezone=True))),
        {
            "tenant": origin.tenant_id,
            "origin": origin.batch_id,
            "batch": batch_id,
            "lane": lane.value,
            "delay": delay,
            "size": size,
            "attempt": attempt,
            "lapses": lapses,
            "domain": domain,
        },
    )


def grow(connection: Connection, tenant_id: UUID, batch_id: UUID, more: int) -> int | None:
    """Makes room for more rows in a batch that nobody has claimed yet, and returns its size before; else None."""
    size = connection.execute(
        sa.text(
            "UPDATE batches SET size = size + :more WHERE tenant_id = :tenant AND id = :batch AND status = 'ready' "
            "AND lease_until IS NULL AND marked_until = 0 RETURNING size"
        ),
        {"tenant": tenant_id, "batch": batch_id, "more": more},
    ).scalar()
    return None if size is None else int(size) - more


def join_held(connection: Connection, origin: Claim, domain: str, more: int, most: int) -> tuple[UUID, int] | None:
    """Makes room for more rows in a batch held for a domain, and returns it with its size before.

    None when there is none that nobody has claimed yet, with less than most rows.
    """
    row = connection.execute(
        sa.text(
            "UPDATE batches SET size = size + :more WHERE tenant_id = :tenant AND id = ("
            "SELECT b.id FROM batches b JOIN ("
            "SELECT tenant_id, id FROM batches WHERE tenant_id = :tenant AND domain = :domain AND status = 'ready' "
            "AND lane = 'held' ORDER BY due_at DESC, id DESC LIMIT 8) newest USING (tenant_id, id) "
            "WHERE b.job_id = :job AND b.status = 'ready' AND b.lease_until IS NULL AND b.marked_until = 0 "
            "AND b.size < :most AND b.attempt = :attempt AND b.lapses = :lapses "
            "LIMIT 1 FOR NO KEY UPDATE OF b SKIP LOCKED) RETURNING id, size"
        ),
        {
            "tenant": origin.tenant_id,
            "job": origin.job_id,
            "domain": domain,
            "attempt": origin.attempt,
            "lapses": origin.lapses,
            "more": more,
            "most": most,
        },
    ).first()
    return None if row is None else (row.id, row.size - more)


def make_ready(connection: Connection, tenant_id: UUID, job_id: UUID) -> int:
    """Lets the planned batches of a job be claimed, and returns how many deliveries the job has."""
    connection.execute(
        sa.text(
            "UPDATE batches SET status = 'ready', due_at = messmail_now() "
            "WHERE tenant_id = :tenant AND job_id = :job AND status = 'planned'"
        ),
        {"tenant": tenant_id, "job": job_id},
    )
    total = connection.execute(
        sa.text("SELECT coalesce(sum(size), 0) FROM batches WHERE tenant_id = :tenant AND job_id = :job"),
        {"tenant": tenant_id, "job": job_id},
    )
    return int(total.scalar_one())


def hold_back(connection: Connection, tenant_id: UUID, job_id: UUID) -> None:
    """Keeps the batches of a job that nobody has claimed from being claimed."""
    connection.execute(
        sa.text(
            "UPDATE batches SET status = 'planned' WHERE tenant_id = :tenant AND job_id = :job AND status = 'ready' "
            "AND lease_until IS NULL"
        ),
        {"tenant": tenant_id, "job": job_id},
    )


def let_go(connection: Connection, tenant_id: UUID, job_id: UUID) -> None:
    """Lets the batches of a job that were held back be claimed, each when it is due."""
    connection.execute(
        sa.text(
            "UPDATE batches SET status = 'ready' WHERE tenant_id = :tenant AND job_id = :job AND status = 'planned'"
        ),
        {"tenant": tenant_id, "job": job_id},
    )


def is_held(connection: Connection, held: Claim) -> bool:
    """Tells whether the claim still holds its batch, and if so, keeps it until this transaction ends."""
    found = connection.execute(sa.text(f"SELECT 1 FROM batches WHERE {_FENCED} FOR NO KEY UPDATE"), _fence(held))
    return found.first() is not None


def renew(connection: Connection, held: Claim, lease_seconds: float) -> bool:
    """Lengthens the lease; False when the batch is lost."""
    return _change(
        connection, held, "lease_until = messmail_now() + make_interval(secs => :lease)", lease=lease_seconds
    )


def mark(connection: Connection, held: Claim, start: int, until: int, lease_seconds: float) -> bool:
    """Marks rows start to until as being sent and lengthens the lease; False when the batch is lost."""
    return _change(
        connection,
        held,
        "marked_until = :until, lease_until = messmail_now() + make_interval(secs => :lease)",
        "recorded_until = :start AND marked_until IN (:start, :until)",
        start=start,
        until=until,
        lease=lease_seconds,
    )


def advance(
    connection: Connection, held: Claim, start: int, until: int, moved: int, counts: Mapping[DeliveryState, int]
) -> bool:
    """Counts the results of rows start to until, and closes the batch with its last row.

    False when the batch is lost, or these rows have been counted already.
    """
    return _change(
        connection,
        held,
        _ADVANCE,
        "recorded_until = :start AND marked_until = :until",
        start=start,
        until=until,
        moved=moved,
        **{state.value: counts.get(state, 0) for state in _FINAL},
    )


def recorded_until(connection: Connection, held: Claim) -> int | None:
    """Reads how far the batch is counted; None when it is lost."""
    found = connection.execute(sa.text(f"SELECT recorded_until FROM batches WHERE {_FENCED}"), _fence(held)).scalar()
    return None if found is None else int(found)


def release(connection: Connection, held: Claim, delay: float | None, attempt: int, status: BatchStatus) -> bool:
    """Gives the batch back, nothing of it marked; due after delay seconds, or as before. A closed one stays closed."""
    return _change(
        connection,
        held,
        "lease_until = NULL, marked_until = recorded_until, attempt = :attempt, status = :status, "
        "due_at = coalesce(messmail_now() + make_interval(secs => CAST(:delay AS float8)), due_at)",
        "status <> 'closed'",
        delay=delay,
        attempt=attempt,
        status=status.value,
    )


def close(connection: Connection, held: Claim) -> bool:
    """Closes the claimed batch; what is not recorded of it counts as cancelled."""
    return _change(connection, held, _CLOSED, "status <> 'closed'")


def close_unclaimed(connection: Connection, tenant_id: UUID, job_id: UUID) -> None:
    """Closes the batches of a job that nobody has claimed; what is not recorded of them counts as cancelled."""
    connection.execute(
        sa.text(
            f"UPDATE batches SET {_CLOSED} WHERE tenant_id = :tenant AND job_id = :job AND status <> 'closed' "
            "AND lease_until IS NULL"
        ),
        {"tenant": tenant_id, "job": job_id},
    )


def all_closed(connection: Connection, tenant_id: UUID, job_id: UUID) -> bool:
    """Tells whether every batch of a job is closed."""
    found = connection.execute(
        sa.text("SELECT 1 FROM batches WHERE tenant_id = :tenant AND job_id = :job AND status <> 'closed' LIMIT 1"),
        {"tenant": tenant_id, "job": job_id},
    )
    return found.first() is None


def now(connection: Connection) -> datetime:
    """Reads the database's clock."""
    moment = connection.execute(sa.text("SELECT messmail_now()")).scalar_one()
    assert isinstance(moment, datetime)
    return moment


_CLOSED = (
    "status = 'closed', lease_until = NULL, cancelled = cancelled + size - recorded_until, "
    "recorded_until = size, marked_until = size"
)


# Always the same text, so that it is compiled once and planned once.
_FINAL = tuple(state for state in DeliveryState if state is not DeliveryState.PENDING)
_ADVANCE = (
    "recorded_until = :until, moved = moved + :moved, "
    "status = CASE WHEN size = :until THEN 'closed' ELSE status END, "
    "lease_until = CASE WHEN size = :until THEN NULL ELSE lease_until END"
    + "".join(f", {state.value} = {state.value} + :{state.value}" for state in _FINAL)
)


def _change(connection: Connection, held: Claim, change: str, condition: str = "true", **values: Any) -> bool:
    done = connection.execute(_update(change, condition), _fence(held) | values)
    return done.rowcount == 1


@cache
def _update(change: str, condition: str) -> sa.TextClause:
    return sa.text(f"UPDATE batches SET {change} WHERE {_FENCED} AND {condition}")


def _fence(held: Claim) -> dict[str, Any]:
    return {"tenant": held.tenant_id, "batch": held.batch_id, "fence": held.fence}
