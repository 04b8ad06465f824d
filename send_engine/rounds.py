"""Rounds: sending a completed job again to those whose delivery failed, or whose fate is unknown.

A retry only begins the round, whose plan is a batch like that of the first; a worker then takes the deliveries of
earlier rounds up, some batches at a time, so that a round of a million asks nobody to wait. What ends in the new round
is not taken up by it again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from uuid import UUID

import structlog

from send_engine import job_states
from send_engine.deliveries import HeldBatch
from send_engine.records import BatchStatus, CountedJob, DeliveryState, JobStatus, Lane
from send_engine.storage import batches, ended_deliveries, send_jobs
from servicekit.database import Database
from servicekit.identifiers import uuid7

# One batch of the new round takes up at most so many deliveries, of at most so many batches.
_DELIVERIES = 1000
_SOURCES = 100

_log = structlog.get_logger()


class Rounds:
    """The rounds of all tenants' jobs."""

    def __init__(self, database: Database, ring: Callable[[Lane], object]) -> None:
        self._database = database
        self._ring = ring

    def begin(self, tenant_id: UUID, job_id: UUID, states: Sequence[DeliveryState]) -> CountedJob:
        """Begins a round for the deliveries in these states, and rings; does nothing when there are none.

        Neither when such a round is under way. Raises SEND_JOB_NOT_FOUND or SEND_JOB_WRONG_STATE.
        """
        with self._database.tenant(tenant_id) as connection:
            status = send_jobs.lock(connection, tenant_id, job_id)
            found = send_jobs.find(connection, tenant_id, job_id)
            if status is None or found is None:
                raise job_states.not_found()
            if status is JobStatus.SENDING and send_jobs.find_round(connection, tenant_id, job_id)[1] == set(states):
                return found
            if status is not JobStatus.COMPLETED:
                raise job_states.wrong_state(status, "retried")
            if not any(getattr(found.counters, state.value) for state in states):
                return found
            number = send_jobs.set_round(connection, tenant_id, job_id, states)
            batches.insert_round(connection, tenant_id, uuid7(), job_id, Lane.PLAN, BatchStatus.READY, number)
            begun = send_jobs.find(connection, tenant_id, job_id)
        assert begun is not None
        self._ring(Lane.PLAN)
        return begun

    def carry_out(self, held: HeldBatch, lease_seconds: float, stopping: threading.Event) -> None:
        """Takes up what a round is for, until that is done or the plan's turn is over."""
        after: UUID | None = None
        while not (stopping.is_set() or held.turn_is_over):
            progress = self._take_up(held, lease_seconds, after)
            if progress is None:
                return
            after = progress
        held.release()

    def _take_up(self, held: HeldBatch, lease_seconds: float, after: UUID | None) -> UUID | None:
        """Takes up the deliveries of some batches, and returns the last of these; None when the plan is done."""
        claim = held.claim
        with self._database.tenant(claim.tenant_id) as connection:
            # The plan may be the last of the job to end.
            status = send_jobs.lock(connection, claim.tenant_id, claim.job_id)
            if status is not JobStatus.SENDING:
                if status is JobStatus.PAUSED:
                    batches.release(connection, claim, None, claim.attempt, BatchStatus.PLANNED)
                else:
                    batches.close(connection, claim)
                return None
            if not batches.renew(connection, claim, lease_seconds):
                return None
            number, states = send_jobs.find_round(connection, claim.tenant_id, claim.job_id)
            sources = ended_deliveries.batches_with(
                connection, claim.tenant_id, claim.job_id, sorted(states), after, _SOURCES, before_round=number
            )
            if not sources:
                batches.close(connection, claim)
                job_states.complete_when_done(connection, claim.tenant_id, claim.job_id)
                return None
            target, size = uuid7(), 0
            batches.insert_round(
                connection, claim.tenant_id, target, claim.job_id, Lane.BULK, BatchStatus.PLANNED, number
            )
            for source, count in sources:
                if size and size + count > _DELIVERIES:
                    break
                size += ended_deliveries.move(connection, claim.tenant_id, source, sorted(states), target, size)
                after = source
            batches.fill(connection, claim.tenant_id, target, size)
        _log.info("round.taken_up", job=str(claim.job_id), rows=size)
        self._ring(Lane.BULK)
        return after
