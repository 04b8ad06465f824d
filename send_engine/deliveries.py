"""The ledger: claiming a batch, marking a group of it, recording what became of it.

The order is the promise. A row is marked, and the mark committed, before Member Center is asked about it, so a mail is
begun only for a marked row. Whoever loses the batch finds its fence changed and writes nothing. What a lost worker had
marked and not recorded is tried again or held as unknown, as the job says; its row stays.

Nothing is sent here and nobody is asked: that is `sending`.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

import structlog

from send_engine import job_states
from send_engine.error_budget import NOTHING, ErrorBudget
from send_engine.records import (
    Addressee,
    BatchStatus,
    Claim,
    DeliveryState,
    JobStatus,
    Lane,
    Result,
    SendOrder,
    UnknownPolicy,
)
from send_engine.storage import Connection, batches, claims, send_jobs, turns
from send_engine.storage import deliveries as rows
from servicekit.database import Database
from servicekit.failpoints import reached
from servicekit.identifiers import uuid7

GIVE_UP_SECONDS = 24 * 3600.0
FIRST_RETRY_SECONDS = 30.0
LONGEST_RETRY_SECONDS = 3600.0
TURN_SECONDS = 0.5
# A job may be stopped for so long before the next look at it tells.
BLIND_SECONDS = 0.9
# About as large as those that are planned.
HELD_BATCH_SIZE = 1000
# Recipients over whom a worker was lost are tried in a smaller group, and after a second loss each alone, in a process
# of its own: see `trials`. What nevertheless takes worker after worker with it is set aside in the end.
_GROUP_AFTER_LAPSES = {0: 2000, 1: 32}
SUSPECT_LAPSES = len(_GROUP_AFTER_LAPSES)
POISON_LAPSES = SUSPECT_LAPSES + 3

_log = structlog.get_logger()


class BatchLostError(Exception):
    """The batch belongs to somebody else by now: nothing may be written and no mail begun."""


@dataclass(frozen=True, slots=True)
class LedgerTerms:
    """How long a claim holds, for how long a delivery is tried, and how many may be refused."""

    worker: str
    lease_seconds: float = 60.0
    give_up_seconds: float = GIVE_UP_SECONDS
    budget: ErrorBudget = field(default_factory=ErrorBudget)


def retry_delay(attempt: int) -> float:
    """Returns the seconds to wait after that many attempts."""
    return float(min(FIRST_RETRY_SECONDS * 2 ** min(attempt - 1, 20), LONGEST_RETRY_SECONDS))


def settle(
    result: Result, status: JobStatus, on_unknown: UnknownPolicy, attempt: int, now: datetime, give_up_at: datetime
) -> Result:
    """Decides what a result means for the ledger: an end, or PENDING when the mail is tried again.

    What is not tried again because its job was stopped is cancelled, except an unknown one: it may have arrived.
    """
    if result.state is DeliveryState.UNKNOWN and status not in job_states.STOPPED:
        gives_up = now + timedelta(seconds=retry_delay(attempt)) > give_up_at
        if on_unknown is UnknownPolicy.RESEND and not gives_up:
            return result._replace(state=DeliveryState.PENDING)
    if result.state is DeliveryState.PENDING:
        if status in job_states.STOPPED:
            return result._replace(state=DeliveryState.CANCELLED)
        if result.tried and not result.domain and now + timedelta(seconds=retry_delay(attempt)) > give_up_at:
            return result._replace(state=DeliveryState.FAILED, reason="gave_up")
    return result


class Ledger:
    """The ledger of one worker process."""

    def __init__(self, database: Database, terms: LedgerTerms) -> None:
        self._database = database
        self._terms = terms

    def claim(self, lane: Lane, passed_by: Collection[UUID] = ()) -> HeldBatch | None:
        """Takes the next due or lapsed batch of a lane, of the tenant served longest ago; None when there is none.

        Tenants passed by have none, except in the lane of plans.
        """
        claimed_at = time.monotonic()
        with self._database.dispatch() as connection:
            claim = claims.take(connection, lane, self._terms.worker, self._terms.lease_seconds, passed_by)
        if claim is None:
            return None
        reached("claimed")
        return HeldBatch(self._database, self._terms, claim, claimed_at)

    def count_due(self, lane: Lane, most: int, passed_by: Collection[UUID] = ()) -> int:
        """Counts batches of a lane that could be claimed now, up to most."""
        with self._database.dispatch() as connection:
            return claims.count_due(connection, lane, most, passed_by)

    def order(self, claim: Claim) -> SendOrder:
        """Reads what is to be sent."""
        with self._database.tenant(claim.tenant_id) as connection:
            order = send_jobs.find_order(connection, claim.tenant_id, claim.job_id)
        assert order is not None, "a batch has a job"
        return order


class HeldBatch:
    """A batch that this worker holds, until it is closed, released or lost."""

    def __init__(self, database: Database, terms: LedgerTerms, claim: Claim, claimed_at: float) -> None:
        self.claim = claim
        self._database = database
        self._terms = terms
        self._turn_ends = claimed_at + TURN_SECONDS
        self._leased_until = claimed_at + terms.lease_seconds
        self._looked_at = claimed_at
        self._stopped = False
        self._marked_until = claim.marked_until
        self._position = claim.recorded_until
        self._retry_batch: UUID | None = None
        self._window = NOTHING

    @property
    def is_done(self) -> bool:
        """Whether every row has its result."""
        return self._position == self.claim.size

    @property
    def turn_is_over(self) -> bool:
        """Whether it is time to give the batch back although it is not done, so that the next tenant gets its turn."""
        return time.monotonic() >= self._turn_ends

    @property
    def most_at_once(self) -> int:
        """The most rows that may be marked at once."""
        return _GROUP_AFTER_LAPSES.get(self.claim.lapses, 1)

    @property
    def is_suspect(self) -> bool:
        """Whether each of its mails may be what workers were lost over, and is to be tried in a process of its own."""
        return self.claim.lapses >= SUSPECT_LAPSES

    @property
    def lease_is_over(self) -> bool:
        """Whether somebody else may hold the batch by now."""
        return time.monotonic() >= self._leased_until

    def must_stop(self) -> bool:
        """Tells whether no further mail may be begun: the job was stopped, the lease is over, or nobody could look.

        Costs nothing. Without a look the job may have been stopped, and that must bite within a second.
        """
        return self._stopped or self.lease_is_over or time.monotonic() > self._looked_at + BLIND_SECONDS

    def settle_lapse(self, order: SendOrder) -> None:
        """Settles the rows that a lost worker left marked. Raises BatchLostError.

        They are tried again, or unknown when the job holds such mails or was stopped. One that was alone in its group
        each time a worker was lost is set aside as failed.
        """
        claim, start, until = self.claim, self._position, self._marked_until
        if start == until:
            return
        with self._database.tenant(claim.tenant_id) as connection:
            status = send_jobs.lock(connection, claim.tenant_id, claim.job_id)
            resend = order.on_unknown is UnknownPolicy.RESEND and status not in job_states.STOPPED
            poison = resend and until - start == 1 and claim.lapses + 1 >= POISON_LAPSES
            end = DeliveryState.FAILED if poison else DeliveryState.UNKNOWN
            moves = resend and not poison
            counts = {} if moves else {end: until - start}
            if not batches.advance(connection, claim, start, until, until - start if moves else 0, counts):
                raise BatchLostError
            if moves:
                retry = uuid7()
                batches.insert_retry(
                    connection,
                    claim,
                    retry,
                    until - start,
                    lane=Lane.RETRY,
                    delay=0.0,
                    attempt=claim.attempt,
                    lapses=claim.lapses + 1,
                    give_up_at=self._give_up_at(order, batches.now(connection)),
                )
                rows.move(connection, claim.tenant_id, claim.batch_id, range(start, until), retry, 0, more_attempts=1)
            else:
                reason = "poison" if poison else "worker_lost"
                rows.give_up(connection, claim.tenant_id, claim.batch_id, start, until, end, reason)
            self._finish(connection, status, until)
        _log.warning("batch.lapse_settled", batch=str(claim.batch_id), rows=until - start, resend=resend)
        self._position = until

    def mark(self, count: int) -> list[Addressee]:
        """Marks the next rows as being sent and returns them; none when the batch is not to be sent (any more).

        Raises BatchLostError. The mark is committed when this returns.
        """
        claim, start, asked_at = self.claim, self._position, time.monotonic()
        until = min(start + count, claim.size)
        with self._database.tenant(claim.tenant_id) as connection:
            status = send_jobs.hold_status(connection, claim.tenant_id, claim.job_id)
            if status is not JobStatus.SENDING:
                self._stopped = True
                done = (
                    batches.close(connection, claim)
                    if status in job_states.ENDED
                    else batches.release(connection, claim, None, claim.attempt, BatchStatus.PLANNED)
                )
                if not done:
                    raise BatchLostError
                return []
            if not batches.mark(connection, claim, start, until, self._terms.lease_seconds):
                raise BatchLostError
            group = rows.find(connection, claim.tenant_id, claim.batch_id, start, until)
        reached("marked")
        self._marked_until = until
        self._looked_at = asked_at
        self._leased_until = asked_at + self._terms.lease_seconds
        return group

    def look(self, least_age: float = 0.0) -> None:
        """Looks whether the job is still sending and the batch still held, and renews the lease when it is due.

        Afterwards must_stop() tells. Does nothing when the last look was less than least_age seconds ago.
        """
        claim, now = self.claim, time.monotonic()
        if now - self._looked_at < least_age:
            return
        renews = now > self._leased_until - self._terms.lease_seconds * 2 / 3
        with self._database.tenant(claim.tenant_id) as connection:
            if renews and not batches.renew(connection, claim, self._terms.lease_seconds):
                self._stopped = True
            if send_jobs.status(connection, claim.tenant_id, claim.job_id) is not JobStatus.SENDING:
                self._stopped = True
        self._looked_at = now
        if renews and not self._stopped:
            self._leased_until = now + self._terms.lease_seconds

    def record(self, results: Sequence[Result], order: SendOrder) -> None:
        """Records the results of the marked rows, all of them, in one transaction. Raises BatchLostError.

        Those that are tried again move to a batch of the retry lane. With the last row of the last batch, the job is
        completed. Repeating it after a commit whose answer was lost changes nothing.
        """
        claim, start, until = self.claim, self._position, self._marked_until
        with self._database.tenant(claim.tenant_id) as connection:
            # The last row may end the job, which needs the job to itself; the job is always locked before a batch.
            self._window = NOTHING
            take = send_jobs.lock if until == claim.size else send_jobs.hold_status
            status = take(connection, claim.tenant_id, claim.job_id)
            assert status is not None
            now = batches.now(connection)
            give_up_at = self._give_up_at(order, now)
            settled = [settle(result, status, order.on_unknown, claim.attempt, now, give_up_at) for result in results]
            again = [result for result in settled if result.state is DeliveryState.PENDING]
            counts = Counter[DeliveryState](result.state for result in settled)
            del counts[DeliveryState.PENDING]
            if batches.advance(connection, claim, start, until, len(again), counts):
                told = [result for result in settled if result.tried or result.state is not DeliveryState.PENDING]
                rows.record(connection, claim.tenant_id, claim.batch_id, told)
                free = [result for result in again if not result.domain]
                self._put_off(connection, [result.ordinal for result in free if result.tried], give_up_at)
                self._put_back(connection, [result.ordinal for result in free if not result.tried])
                self._hold(connection, [result for result in again if result.domain])
                self._finish(connection, status, until)
                if status is JobStatus.SENDING:
                    self._window = self._terms.budget.count(connection, claim, settled)
            elif (batches.recorded_until(connection, claim) or 0) < until:
                raise BatchLostError
        reached("recorded")
        if until == claim.size:
            reached("closed")
        self._position = until

    def heed_budget(self) -> None:
        """Pauses the job if what was recorded last has spent its error budget. May be repeated. Raises UNAVAILABLE."""
        if self._terms.budget.is_spent(self._window):
            self._terms.budget.pause(self._database, self.claim, self._window)

    def release(self, delay: float | None = None, attempt: int | None = None) -> None:
        """Gives the batch back with nothing of it marked: to be called only when no mail of the group was begun.

        It is due as before, or after delay seconds. A batch that was lost meanwhile is not touched.
        """
        with self._database.tenant(self.claim.tenant_id) as connection:
            batches.release(connection, self.claim, delay, attempt or self.claim.attempt, BatchStatus.READY)

    def rest_tenant(self, seconds: float) -> None:
        """Gives the batch back as release does, and lets nothing of its tenant be sent for so long."""
        with self._database.tenant(self.claim.tenant_id) as connection:
            turns.rest_tenant(connection, self.claim.tenant_id, seconds)
        self.release()

    def rest_domain(self, seconds: float) -> None:
        """Gives a held batch back as release does, and lets nothing held for its domain be sent for so long."""
        with self._database.tenant(self.claim.tenant_id) as connection:
            turns.rest_domain(connection, self.claim.tenant_id, self.claim.domain, seconds)
        self.release()

    def _put_off(self, connection: Connection, ordinals: Sequence[int], give_up_at: datetime) -> None:
        """Moves rows to a batch for later; what one claim puts off shares a batch as long as nobody has taken it.

        The worker has survived them, so they are suspect no longer.
        """
        if not ordinals:
            return
        claim = self.claim
        target, first = self._retry_batch, None
        if target is not None:
            first = batches.grow(connection, claim.tenant_id, target, len(ordinals))
        if target is None or first is None:
            target, first = uuid7(), 0
            batches.insert_retry(
                connection,
                claim,
                target,
                len(ordinals),
                lane=Lane.RETRY,
                delay=retry_delay(claim.attempt),
                attempt=claim.attempt + 1,
                lapses=0,
                give_up_at=give_up_at,
            )
        rows.move(connection, claim.tenant_id, claim.batch_id, ordinals, target, first)
        self._retry_batch = target

    def _put_back(self, connection: Connection, ordinals: Sequence[int]) -> None:
        """Moves rows of which no mail was begun to a batch that is due at once, and stands as this one does."""
        if not ordinals:
            return
        claim, target = self.claim, uuid7()
        batches.insert_retry(
            connection,
            claim,
            target,
            len(ordinals),
            lane=claim.lane,
            delay=0.0,
            attempt=claim.attempt,
            lapses=claim.lapses,
            give_up_at=claim.give_up_at,
            domain=claim.domain,
        )
        rows.move(connection, claim.tenant_id, claim.batch_id, ordinals, target, 0)

    def _hold(self, connection: Connection, waiting: Sequence[Result]) -> None:
        """Moves rows to batches held for their domains."""
        claim = self.claim
        by_domain = defaultdict[str, list[int]](list)
        for result in waiting:
            by_domain[result.domain].append(result.ordinal)
        # In one order, so that two workers cannot wait for each other's turns.
        for domain in sorted(by_domain):
            ordinals = by_domain[domain]
            turns.give_turn(connection, claim.tenant_id, domain)
            joined = batches.join_held(connection, claim, domain, len(ordinals), HELD_BATCH_SIZE)
            target, first = joined or (uuid7(), 0)
            if joined is None:
                # Nobody is given up while waiting: what has not been tried since begins anew.
                batches.insert_retry(
                    connection,
                    claim,
                    target,
                    len(ordinals),
                    lane=Lane.HELD,
                    domain=domain,
                    delay=0.0,
                    attempt=claim.attempt,
                    lapses=claim.lapses,
                    give_up_at=None,
                )
            rows.move(connection, claim.tenant_id, claim.batch_id, ordinals, target, first)

    def _give_up_at(self, order: SendOrder, now: datetime) -> datetime:
        after = self._terms.give_up_seconds if order.give_up_seconds is None else order.give_up_seconds
        return self.claim.give_up_at or now + timedelta(seconds=after)

    def _finish(self, connection: Connection, status: JobStatus | None, until: int) -> None:
        if until == self.claim.size and status is JobStatus.SENDING:
            job_states.complete_when_done(connection, self.claim.tenant_id, self.claim.job_id)
