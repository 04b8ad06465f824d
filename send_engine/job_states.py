"""The states of a send job: which may follow which, and the steps that take a job from one to the next.

Each step works in its caller's transaction, on a job that this transaction has locked.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final
from uuid import UUID

from send_engine.records import JobStatus
from send_engine.storage import Connection, batches, send_jobs
from servicekit.errors import MessmailError, Reason

TRANSITIONS: Final[Mapping[JobStatus, frozenset[JobStatus]]] = MappingProxyType(
    {
        JobStatus.SCHEDULED: frozenset({JobStatus.PLANNING, JobStatus.CANCELLED}),
        JobStatus.PLANNING: frozenset({JobStatus.SENDING, JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED}),
        JobStatus.SENDING: frozenset({JobStatus.COMPLETED, JobStatus.PAUSED, JobStatus.CANCELLED}),
        JobStatus.PAUSED: frozenset({JobStatus.SENDING, JobStatus.CANCELLED}),
        JobStatus.COMPLETED: frozenset({JobStatus.SENDING}),
        JobStatus.CANCELLED: frozenset(),
        JobStatus.FAILED: frozenset(),
    }
)
# In these nothing of the job is sent any more, though a retry may bring a completed one back.
ENDED: Final = frozenset({JobStatus.COMPLETED, JobStatus.CANCELLED, JobStatus.FAILED})
# What is open of such a job will never be sent.
STOPPED: Final = frozenset({JobStatus.CANCELLED, JobStatus.FAILED})


def may_become(status: JobStatus, following: JobStatus) -> bool:
    """Tells whether a job in one state may go to the other."""
    return following in TRANSITIONS[status]


def not_found() -> MessmailError:
    """Makes the error for a job that does not exist, or is another tenant's."""
    return MessmailError(Reason.ERROR_REASON_SEND_JOB_NOT_FOUND, "there is no such send job")


def wrong_state(status: JobStatus, wanted: str) -> MessmailError:
    """Makes the error for what a job in this state cannot be."""
    return MessmailError(
        Reason.ERROR_REASON_SEND_JOB_WRONG_STATE,
        f"the send job is {status.value} and cannot be {wanted}",
        status=status.value,
    )


def begin_planning(connection: Connection, tenant_id: UUID, job_id: UUID) -> bool:
    """Takes a scheduled job to planning; False when it is not to be planned (any more)."""
    status = send_jobs.lock(connection, tenant_id, job_id)
    if status is JobStatus.SCHEDULED:
        send_jobs.set_planning(connection, tenant_id, job_id)
    return status in (JobStatus.SCHEDULED, JobStatus.PLANNING)


def begin_sending(connection: Connection, tenant_id: UUID, job_id: UUID) -> None:
    """Takes a planned job to sending, or to its end when nobody is to be mailed."""
    planned = batches.make_ready(connection, tenant_id, job_id)
    send_jobs.set_sending(connection, tenant_id, job_id, planned)
    complete_when_done(connection, tenant_id, job_id)


def complete_when_done(connection: Connection, tenant_id: UUID, job_id: UUID) -> None:
    """Takes a sending job to completed when its last batch is closed."""
    if batches.all_closed(connection, tenant_id, job_id):
        send_jobs.set_ended(connection, tenant_id, job_id, JobStatus.COMPLETED)


def pause(connection: Connection, tenant_id: UUID, job_id: UUID, reason: str = "") -> bool:
    """Takes a sending job to paused, with a reason for its owner's eyes; False when it is not sending.

    Locks the job itself, so any code that has no batch of it locked may call this; once the transaction is committed,
    no group of the job is marked, and what is under way stops within a second. A worker that holds a batch calls it
    in a transaction of its own, not within record().
    """
    if send_jobs.lock(connection, tenant_id, job_id) is not JobStatus.SENDING:
        return False
    send_jobs.set_paused(connection, tenant_id, job_id, reason)
    batches.hold_back(connection, tenant_id, job_id)
    return True


def resume(connection: Connection, tenant_id: UUID, job_id: UUID) -> None:
    """Takes a paused job, locked by the caller, to sending, or to its end when nothing of it is left to send."""
    send_jobs.set_resumed(connection, tenant_id, job_id)
    batches.let_go(connection, tenant_id, job_id)
    complete_when_done(connection, tenant_id, job_id)


def fail(connection: Connection, tenant_id: UUID, job_id: UUID, reason: str) -> None:
    """Ends a job whose audience cannot be had."""
    batches.close_unclaimed(connection, tenant_id, job_id)
    send_jobs.set_ended(connection, tenant_id, job_id, JobStatus.FAILED, reason)
