"""Deliveries whose fate is unknown, settled by what the ESP's own log says of them. Nothing is sent here."""

from __future__ import annotations

from collections.abc import Set
from uuid import UUID

from send_engine import job_states
from send_engine.records import CountedJob, DeliveryState
from send_engine.sending import delivery_id
from send_engine.storage import ended_deliveries, send_jobs
from servicekit.database import Database
from servicekit.rpc import time_left

# What the caller's deadline leaves for one more batch, and for the answer.
_RESERVE_SECONDS = 3.0


class Unknowns:
    """The unknown deliveries of all tenants' jobs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def resolve(
        self, tenant_id: UUID, job_id: UUID, outcome: DeliveryState, only: Set[UUID] | None
    ) -> tuple[int, CountedJob]:
        """Ends the unknown deliveries of a job, or only those with these delivery ids, as sent or failed.

        Goes batch by batch, and stops when the caller's deadline is near; a repeat goes on. Returns how many it ended,
        and the job. Raises SEND_JOB_NOT_FOUND.
        """
        resolved, after = 0, None
        while only is None or resolved < len(only):
            with self._database.tenant(tenant_id) as connection:
                sources = ended_deliveries.batches_with(
                    connection, tenant_id, job_id, [DeliveryState.UNKNOWN], after, limit=1
                )
                if not sources:
                    break
                after = sources[0][0]
                ordinals = [
                    ordinal
                    for ordinal, subscription_id in ended_deliveries.unknown(connection, tenant_id, after)
                    if only is None or UUID(delivery_id(job_id, subscription_id.bytes)) in only
                ]
                if ordinals:
                    ended_deliveries.resolve(connection, tenant_id, after, ordinals, outcome)
                    resolved += len(ordinals)
            if time_left() < _RESERVE_SECONDS:
                break
        with self._database.tenant(tenant_id) as connection:
            job = send_jobs.find(connection, tenant_id, job_id)
        if job is None:
            raise job_states.not_found()
        return resolved, job
