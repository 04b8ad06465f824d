"""Writes down the audience of a job, page by page, and then lets sending begin.

Pages come from Member Center, outside any transaction; each is stored together with the cursor, so that planning goes
on where it stopped, whoever goes on with it. The plan is itself a batch, with lease and fence. Those of later rounds
are carried out by `rounds`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from uuid import UUID

import structlog

from send_engine import job_states
from send_engine.deliveries import HeldBatch
from send_engine.recipients import Recipients
from send_engine.records import AudiencePage, Claim, Lane, PlanProgress
from send_engine.rounds import Rounds
from send_engine.storage import batches, deliveries, send_jobs
from servicekit.database import Database
from servicekit.errors import MessmailError, Reason
from servicekit.identifiers import uuid7

PAGE_SIZE = 5000
# Large enough that claims cost little, small enough that workers and tenants share a job evenly.
BATCH_SIZE = 1000
_LONGEST_REST_SECONDS = 60.0
_MOST_RINGS = 8

_log = structlog.get_logger()


class Planning:
    """Carries out plans for one worker process."""

    def __init__(
        self,
        database: Database,
        recipients: Recipients,
        rounds: Rounds,
        lease_seconds: float,
        ring: Callable[[Lane], object],
        stopping: threading.Event,
    ) -> None:
        self._database = database
        self._recipients = recipients
        self._rounds = rounds
        self._lease_seconds = lease_seconds
        self._ring = ring
        self._stopping = stopping

    def carry_out(self, held: HeldBatch) -> None:
        """Plans a job until it is planned, or its turn is over. Raises MessmailError when the database is away."""
        claim = held.claim
        if claim.round > 1:
            self._rounds.carry_out(held, self._lease_seconds, self._stopping)
            return
        progress = self._begin(held)
        if progress is None:
            return
        # Member Center reads a page while the one before it is stored.
        with ThreadPoolExecutor(1, "audience") as ahead:
            asked: Future[AudiencePage] | None = ahead.submit(self._ask, claim, progress)
            while asked is not None:
                try:
                    page = asked.result()
                except MessmailError as error:
                    self._stop_without_audience(held, error)
                    return
                goes_on = not self._stopping.is_set() and not held.turn_is_over
                stored = PlanProgress(progress.list_id, page.as_of, _last(page))
                asked = ahead.submit(self._ask, claim, stored) if page.more and goes_on else None
                if not self._store(held, progress, page):
                    return
                progress = stored
        held.release()

    def _ask(self, claim: Claim, progress: PlanProgress) -> AudiencePage:
        return self._recipients.audience_page(
            claim.tenant_id, progress.list_id, progress.as_of, progress.after, PAGE_SIZE
        )

    def _begin(self, held: HeldBatch) -> PlanProgress | None:
        claim = held.claim
        with self._database.tenant(claim.tenant_id) as connection:
            if job_states.begin_planning(connection, claim.tenant_id, claim.job_id):
                return send_jobs.find_progress(connection, claim.tenant_id, claim.job_id)
            batches.close(connection, claim)
        return None

    def _store(self, held: HeldBatch, progress: PlanProgress, page: AudiencePage) -> bool:
        """Stores a page with the cursor; False when planning is over."""
        claim = held.claim
        with self._database.tenant(claim.tenant_id) as connection:
            if not job_states.begin_planning(connection, claim.tenant_id, claim.job_id):
                batches.close(connection, claim)
                return False
            if not batches.renew(connection, claim, self._lease_seconds):
                return False
            after = _last(page)
            if after is not None:
                starts = range(0, len(page.domains), BATCH_SIZE)
                sizes = {uuid7(): min(BATCH_SIZE, len(page.domains) - start) for start in starts}
                batches.insert_planned(connection, claim.tenant_id, claim.job_id, sizes)
                deliveries.insert(connection, claim.tenant_id, list(sizes), BATCH_SIZE, page)
                send_jobs.set_progress(connection, claim.tenant_id, claim.job_id, page.as_of, after)
            if page.more:
                return True
            batches.close(connection, claim)
            job_states.begin_sending(connection, claim.tenant_id, claim.job_id)
        _log.info("job.planned", job=str(claim.job_id))
        # A slot for each batch hears it at once; the sweepers find what these rings do not wake.
        pages_before = 0 if progress.after is None else _MOST_RINGS
        for _ in range(min(pages_before + len(page.domains) // BATCH_SIZE + 1, _MOST_RINGS)):
            self._ring(Lane.BULK)
        return False

    def _stop_without_audience(self, held: HeldBatch, error: MessmailError) -> None:
        claim = held.claim
        if error.reason not in (Reason.ERROR_REASON_LIST_NOT_FOUND, Reason.ERROR_REASON_TENANT_NOT_FOUND):
            _log.warning("plan.no_audience_answer", job=str(claim.job_id), reason=error.status.name)
            held.release(min(_LONGEST_REST_SECONDS, 2.0 ** min(claim.attempt, 10)), claim.attempt + 1)
            return
        with self._database.tenant(claim.tenant_id) as connection:
            if job_states.begin_planning(connection, claim.tenant_id, claim.job_id) and batches.is_held(
                connection, claim
            ):
                batches.close(connection, claim)
                job_states.fail(connection, claim.tenant_id, claim.job_id, "the list no longer exists")


def _last(page: AudiencePage) -> UUID | None:
    return UUID(bytes=page.subscription_ids[-16:]) if page.subscription_ids else None
