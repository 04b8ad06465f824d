"""Statements on send jobs, and their counters, which are sums over batches.

Whoever locks a job and a batch locks the job first.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from functools import cache
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from send_engine.records import (
    Cancellation,
    CountedJob,
    Counters,
    DeliveryState,
    JobStatus,
    NewJob,
    PlanProgress,
    SendJob,
    SendOrder,
    UnknownPolicy,
)
from send_engine.storage.tables import send_jobs

_NOW = sa.text("messmail_now()")
_JOB = """
    j.tenant_id, j.id, j.list_id, j.name, j.subject, j.status, j.status_reason,
    j.scheduled_at, j.created_at, j.started_at, j.ended_at, j.on_unknown, j.give_up_seconds, j.round
"""
# One statement is one snapshot: the job and all its batches at the same moment.
_COUNTED = f"""
    SELECT {_JOB}, c.* FROM send_jobs j CROSS JOIN LATERAL (
        SELECT
            coalesce(sum(size - moved), 0) AS total,
            coalesce(sum(size - marked_until) FILTER (WHERE lease_until IS NULL AND lane <> 'retry'), 0) AS pending,
            coalesce(sum(size - marked_until) FILTER (WHERE lease_until IS NOT NULL), 0) AS claimed,
            coalesce(sum(marked_until - recorded_until), 0) AS sending,
            coalesce(sum(size - marked_until) FILTER (WHERE lease_until IS NULL AND lane = 'retry'), 0) AS deferred,
            coalesce(sum(sent), 0) AS sent,
            coalesce(sum(failed), 0) AS failed,
            coalesce(sum(suppressed), 0) AS suppressed,
            coalesce(sum(cancelled), 0) AS cancelled,
            coalesce(sum(unknown), 0) AS unknown
        FROM batches b WHERE b.tenant_id = j.tenant_id AND b.job_id = j.id
    ) c
"""
_STOPPED = (JobStatus.CANCELLED, JobStatus.FAILED)


def insert(connection: Connection, tenant_id: UUID, job_id: UUID, job: NewJob) -> None:
    """Stores a new job, scheduled for its time or, when that has passed, for now."""
    connection.execute(
        sa.insert(send_jobs).values(
            tenant_id=tenant_id,
            id=job_id,
            list_id=job.list_id,
            name=job.name,
            subject=job.subject,
            body_html=job.body_html,
            body_text=job.body_text,
            template=job.template,
            on_unknown=job.on_unknown.value,
            give_up_seconds=job.give_up_seconds,
            profile=dict(job.profile),
            status=JobStatus.SCHEDULED.value,
            scheduled_at=sa.func.greatest(sa.bindparam("at", job.scheduled_at, send_jobs.c.scheduled_at.type), _NOW),
            created_at=_NOW,
        )
    )


def find(connection: Connection, tenant_id: UUID, job_id: UUID) -> CountedJob | None:
    """Reads a job with its counters."""
    row = connection.execute(
        sa.text(_COUNTED + " WHERE j.tenant_id = :tenant AND j.id = :job"), {"tenant": tenant_id, "job": job_id}
    ).first()
    return None if row is None else _counted(row)


def newest(
    connection: Connection, tenant_id: UUID, limit: int, before: tuple[datetime, UUID] | None
) -> list[CountedJob]:
    """Reads jobs, newest first, from the one after (created_at, id) on."""
    older = "" if before is None else " AND (j.created_at, j.id) < (:created_at, :id)"
    created_at, job_id = before or (None, None)
    rows = connection.execute(
        sa.text(f"{_COUNTED} WHERE j.tenant_id = :tenant{older} ORDER BY j.created_at DESC, j.id DESC LIMIT :limit"),
        {"tenant": tenant_id, "limit": limit} | ({"created_at": created_at, "id": job_id} if before else {}),
    )
    return [_counted(row) for row in rows]


def find_order(connection: Connection, tenant_id: UUID, job_id: UUID) -> SendOrder | None:
    """Reads what the batches of a job need to know."""
    c = send_jobs.c
    row = connection.execute(
        sa.select(
            c.list_id,
            c.subject,
            c.body_html,
            c.body_text,
            c.template,
            c.on_unknown,
            c.give_up_seconds,
            c.profile,
        ).where(c.tenant_id == tenant_id, c.id == job_id)
    ).first()
    if row is None:
        return None
    return SendOrder(
        tenant_id=tenant_id,
        job_id=job_id,
        list_id=row.list_id,
        subject=row.subject,
        body_html=row.body_html,
        body_text=row.body_text,
        template=row.template,
        on_unknown=UnknownPolicy(row.on_unknown),
        give_up_seconds=row.give_up_seconds,
        profile=row.profile,
    )


def status(connection: Connection, tenant_id: UUID, job_id: UUID) -> JobStatus | None:
    """Reads the state, without a lock."""
    return _status(connection, tenant_id, job_id, "")


def hold_status(connection: Connection, tenant_id: UUID, job_id: UUID) -> JobStatus | None:
    """Reads the state, which nobody can change before this transaction ends; others may hold it too."""
    return _status(connection, tenant_id, job_id, "FOR SHARE")


def lock(connection: Connection, tenant_id: UUID, job_id: UUID) -> JobStatus | None:
    """Reads the state and keeps everybody else from reading it with a lock until this transaction ends."""
    return _status(connection, tenant_id, job_id, "FOR NO KEY UPDATE")


def set_planning(connection: Connection, tenant_id: UUID, job_id: UUID) -> None:
    """Notes that planning has begun."""
    _update(connection, tenant_id, job_id, status=JobStatus.PLANNING.value)


def set_sending(connection: Connection, tenant_id: UUID, job_id: UUID, planned: int) -> None:
    """Notes that the audience is complete, and that sending begins."""
    _update(connection, tenant_id, job_id, status=JobStatus.SENDING.value, planned_count=planned, started_at=_NOW)


def set_paused(connection: Connection, tenant_id: UUID, job_id: UUID, reason: str) -> None:
    """Notes that the job is held, and why."""
    _update(connection, tenant_id, job_id, status=JobStatus.PAUSED.value, status_reason=reason)


def set_resumed(connection: Connection, tenant_id: UUID, job_id: UUID) -> None:
    """Notes that a paused job is sending again."""
    _update(connection, tenant_id, job_id, status=JobStatus.SENDING.value, status_reason="")


def set_round(connection: Connection, tenant_id: UUID, job_id: UUID, states: Iterable[DeliveryState]) -> int:
    """Notes that a new round has begun for the deliveries in these states, and returns its number."""
    return int(
        connection.execute(
            sa.text(
                "UPDATE send_jobs SET status = 'sending', ended_at = NULL, round = round + 1, retried_states = :states "
                "WHERE tenant_id = :tenant AND id = :job RETURNING round"
            ),
            {"tenant": tenant_id, "job": job_id, "states": ",".join(sorted(states))},
        ).scalar_one()
    )


def find_round(connection: Connection, tenant_id: UUID, job_id: UUID) -> tuple[int, frozenset[DeliveryState]]:
    """Reads the number of the last round, and for the deliveries in which states it is; the first is for all."""
    c = send_jobs.c
    row = connection.execute(sa.select(c.round, c.retried_states).where(c.tenant_id == tenant_id, c.id == job_id)).one()
    return row.round, frozenset(DeliveryState(state) for state in row.retried_states.split(",") if state)


def set_ended(connection: Connection, tenant_id: UUID, job_id: UUID, status: JobStatus, reason: str = "") -> None:
    """Notes that the job has ended, and why."""
    _update(connection, tenant_id, job_id, status=status.value, status_reason=reason, ended_at=_NOW)


def set_cancelled(connection: Connection, tenant_id: UUID, job_id: UUID, sent: int, sending: int) -> None:
    """Notes that the job was cancelled, and how far it had got."""
    _update(
        connection,
        tenant_id,
        job_id,
        status=JobStatus.CANCELLED.value,
        status_reason="",
        ended_at=_NOW,
        cancelled_sent=sent,
        cancelled_sending=sending,
    )


def find_cancellation(connection: Connection, tenant_id: UUID, job_id: UUID) -> Cancellation:
    """Reads how far a cancelled job had got."""
    c = send_jobs.c
    row = connection.execute(
        sa.select(c.ended_at, c.cancelled_sent, c.cancelled_sending).where(c.tenant_id == tenant_id, c.id == job_id)
    ).one()
    return Cancellation(job_id, row.ended_at, row.cancelled_sent, row.cancelled_sending)


def find_progress(connection: Connection, tenant_id: UUID, job_id: UUID) -> PlanProgress:
    """Reads how far planning has got."""
    c = send_jobs.c
    row = connection.execute(
        sa.select(c.list_id, c.audience_as_of, c.planned_after).where(c.tenant_id == tenant_id, c.id == job_id)
    ).one()
    return PlanProgress(row.list_id, row.audience_as_of, row.planned_after)


def set_progress(connection: Connection, tenant_id: UUID, job_id: UUID, as_of: datetime, after: UUID) -> None:
    """Notes how far planning has got."""
    _update(connection, tenant_id, job_id, audience_as_of=as_of, planned_after=after)


def _status(connection: Connection, tenant_id: UUID, job_id: UUID, locking: str) -> JobStatus | None:
    found = connection.execute(_status_text(locking), {"tenant": tenant_id, "job": job_id}).scalar()
    return None if found is None else JobStatus(found)


@cache
def _status_text(locking: str) -> sa.TextClause:
    return sa.text(f"SELECT status FROM send_jobs WHERE tenant_id = :tenant AND id = :job {locking}")


def _update(connection: Connection, tenant_id: UUID, job_id: UUID, **values: Any) -> None:
    c = send_jobs.c
    connection.execute(sa.update(send_jobs).where(c.tenant_id == tenant_id, c.id == job_id).values(**values))


def _counted(row: Row[Any]) -> CountedJob:
    job = SendJob(
        tenant_id=row.tenant_id,
        id=row.id,
        list_id=row.list_id,
        name=row.name,
        subject=row.subject,
        status=JobStatus(row.status),
        status_reason=row.status_reason,
        scheduled_at=row.scheduled_at,
        created_at=row.created_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
        on_unknown=UnknownPolicy(row.on_unknown),
        give_up_seconds=row.give_up_seconds,
        round=row.round,
    )
    waiting = {name: int(getattr(row, name)) for name in ("pending", "claimed", "deferred")}
    done = {name: int(getattr(row, name)) for name in ("total", "sending", "sent", "failed", "suppressed", "unknown")}
    cancelled = int(row.cancelled)
    if job.status in _STOPPED:
        # What has not begun never will, whether or not its batch has been closed yet.
        cancelled += sum(waiting.values())
        waiting = {}
    return CountedJob(job, Counters(cancelled=cancelled, **waiting, **done))
