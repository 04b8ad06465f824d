"""The ledger on a real PostgreSQL: in whatever order workers act, its sums hold and what is decided stays so."""

from __future__ import annotations

import os
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

import hypothesis.strategies as st
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings

from send_engine import job_states
from send_engine.deliveries import BatchLostError, HeldBatch, Ledger, LedgerTerms
from send_engine.records import (
    AudiencePage,
    DeliveryState,
    JobStatus,
    Lane,
    NewJob,
    Result,
    SendOrder,
    UnknownPolicy,
)
from send_engine.storage import batches, deliveries, send_jobs
from servicekit.database import Database
from servicekit.identifiers import uuid7
from tests.send_engine_fixtures import Engines, Ledgerbase, send_engine_engines

__all__ = ["send_engine_engines"]

LEASE, SIZES = 60.0, (24, 17, 1)
AUDIENCE = sum(SIZES)


@pytest.fixture(scope="module")
def base(send_engine_engines: Engines) -> Ledgerbase:
    return send_engine_engines.database()


@pytest.fixture(scope="module")
def database(base: Ledgerbase) -> Iterator[Database]:
    made = Database(base.app_url)
    yield made
    made.close()


@pytest.fixture
def eye(base: Ledgerbase) -> Iterator[psycopg.Connection]:
    """Sees every row, on an empty ledger whose clock is right."""
    with psycopg.connect(base.superuser_url, autocommit=True) as connection:
        for table in ("error_windows", "held_domains", "deliveries", "batches", "send_jobs", "tenant_turns"):
            connection.execute(f"DELETE FROM {table}".encode())
        connection.execute("UPDATE messmail_clock SET ahead = '0'")
        yield connection


def make_job(
    database: Database, policy: UnknownPolicy, sizes: Sequence[int] = SIZES, tenant_id: uuid.UUID | None = None
) -> tuple[uuid.UUID, uuid.UUID]:
    """Makes a job that is sending, with batches of these sizes."""
    tenant_id, job_id = tenant_id or uuid.uuid4(), uuid.uuid4()
    new = NewJob(uuid.uuid4(), "", "x", None, "x", False, policy, None, {}, None)
    with database.tenant(tenant_id) as connection:
        send_jobs.insert(connection, tenant_id, job_id, new)
        connection.exec_driver_sql(
            "INSERT INTO tenant_turns (tenant_id) VALUES (%s) ON CONFLICT DO NOTHING", (tenant_id,)
        )
        send_jobs.set_planning(connection, tenant_id, job_id)
        planned = {uuid7(): size for size in sizes}
        batches.insert_planned(connection, tenant_id, job_id, planned)
        for batch, size in planned.items():
            page = AudiencePage(datetime.now(UTC), os.urandom(16 * size), ["x"] * size, more=False)
            deliveries.insert(connection, tenant_id, [batch], size, page)
        job_states.begin_sending(connection, tenant_id, job_id)
    return tenant_id, job_id


def order(policy: UnknownPolicy = UnknownPolicy.RESEND, give_up_seconds: float | None = None) -> SendOrder:
    """What the ledger needs to know of a job."""
    nobody = uuid.UUID(int=0)
    return SendOrder(nobody, nobody, nobody, "x", None, "x", False, policy, give_up_seconds, {})


@dataclass
class Worker:
    """A worker that may hold a batch, and the rows of it that it has marked."""

    held: HeldBatch | None = None
    marked: list[int] = field(default_factory=list)


class Story:
    """Workers that claim, mark, record, release, die, freeze and wake up, while time passes and somebody cancels."""

    def __init__(self, database: Database, eye: psycopg.Connection, policy: UnknownPolicy) -> None:
        self.database, self.eye, self.policy = database, eye, policy
        for table in ("error_windows", "held_domains", "deliveries", "batches", "send_jobs", "tenant_turns"):
            eye.execute(f"DELETE FROM {table}".encode())
        eye.execute("UPDATE messmail_clock SET ahead = '0'")
        self.ledger = Ledger(database, LedgerTerms("worker", LEASE, give_up_seconds=4 * 3600))
        self.tenant_id, self.job_id = make_job(database, policy)
        self.workers = [Worker(), Worker()]
        self.frozen: list[Worker] = []
        self.decided: dict[uuid.UUID, str] = {}
        self.cancelled = self.paused = False

    def work(self, who: int, lane: Lane, outcomes: list[str]) -> None:
        """Lets a worker take its next step."""
        self._step(self.workers[who], lane, outcomes)

    def wake(self, releases: bool, outcomes: list[str]) -> None:
        """Lets a worker that was frozen take its next step, or give up; neither may matter if its batch was taken."""
        if not self.frozen:
            return
        worker = self.frozen.pop(0)
        if worker.held is not None and releases:
            worker.held.release()
        elif worker.held is not None:
            self._step(worker, Lane.BULK, outcomes)

    def freeze(self, who: int) -> None:
        """Replaces a worker by a new one; the old one may wake up."""
        self.frozen.append(self.workers[who])
        self.workers[who] = Worker()

    def release(self, who: int) -> None:
        """Lets a worker give its batch back, which it may only when it has begun no mail."""
        worker = self.workers[who]
        if worker.held is not None:
            worker.held.release()
            self.workers[who] = Worker()

    def pass_time(self, seconds: float) -> None:
        """Moves the database's clock."""
        self.eye.execute("UPDATE messmail_clock SET ahead = ahead + make_interval(secs => %s)", [seconds])

    def cancel(self) -> None:
        """Cancels the job if that is possible."""
        with self.database.tenant(self.tenant_id) as connection:
            status = send_jobs.lock(connection, self.tenant_id, self.job_id)
            assert status is not None
            if job_states.may_become(status, JobStatus.CANCELLED):
                send_jobs.set_cancelled(connection, self.tenant_id, self.job_id, 0, 0)
                batches.close_unclaimed(connection, self.tenant_id, self.job_id)
                self.cancelled = True

    def pause(self) -> None:
        """Pauses the job if that is possible."""
        with self.database.tenant(self.tenant_id) as connection:
            self.paused |= job_states.pause(connection, self.tenant_id, self.job_id)

    def resume(self) -> None:
        """Resumes the job if it is paused."""
        with self.database.tenant(self.tenant_id) as connection:
            if send_jobs.lock(connection, self.tenant_id, self.job_id) is JobStatus.PAUSED:
                job_states.resume(connection, self.tenant_id, self.job_id)
        self.paused = False

    def check(self) -> None:
        """Looks whether the sums hold and what was decided has stayed so."""
        with self.database.tenant(self.tenant_id) as connection:
            found = send_jobs.find(connection, self.tenant_id, self.job_id)
        assert found is not None
        c = found.counters
        parts = (c.pending, c.claimed, c.sending, c.deferred, c.sent, c.failed, c.suppressed, c.cancelled, c.unknown)
        assert sum(parts) == c.total == AUDIENCE
        assert min(parts) >= 0
        if found.job.status is JobStatus.COMPLETED:
            assert c.pending + c.claimed + c.sending + c.deferred + c.cancelled == 0
        rows = self.eye.execute("SELECT subscription_id, state FROM deliveries").fetchall()
        states = Counter(state for _, state in rows)
        assert states.total() == AUDIENCE
        for state in (DeliveryState.SENT, DeliveryState.FAILED, DeliveryState.SUPPRESSED, DeliveryState.UNKNOWN):
            assert states[state.value] == getattr(c, state.value)
        now = {subscription: state for subscription, state in rows if state != "pending"}
        assert {subscription: now.get(subscription) for subscription in self.decided} == self.decided
        self.decided = now

    def _step(self, worker: Worker, lane: Lane, outcomes: list[str]) -> None:
        if worker.held is None:
            worker.held = self.ledger.claim(lane)
            if worker.held is not None:
                worker.held.settle_lapse(order(self.policy))
            return
        held = worker.held
        with self._nothing_written_when_lost(held):
            if worker.marked:
                results = [RESULTS[outcome](row) for row, outcome in zip(worker.marked, outcomes, strict=False)]
                worker.marked = []
                held.record(results, order(self.policy))
            elif not held.is_done:
                worker.marked = [row.ordinal for row in held.mark(len(outcomes))]
                assert not (worker.marked and (self.cancelled or self.paused)), "no mail of a stopped job is begun"
        if held.is_done or (not worker.marked and held.must_stop()):
            worker.held = None

    @contextmanager
    def _nothing_written_when_lost(self, held: HeldBatch) -> Iterator[None]:
        before = self._snapshot()
        try:
            yield
        except BatchLostError:
            row = self.eye.execute(
                "SELECT fence, status, lease_until FROM batches WHERE id = %s", [held.claim.batch_id]
            ).fetchone()
            assert row is not None
            fence, status, lease_until = row
            assert fence != held.claim.fence or status == "closed" or lease_until is None, "it was not lost at all"
            assert self._snapshot() == before
            for worker in self.workers:
                if worker.held is held:
                    worker.held, worker.marked = None, []

    def _snapshot(self) -> object:
        return [
            self.eye.execute(f"SELECT md5(string_agg(t::text, '' ORDER BY t)) FROM {table} t".encode()).fetchone()
            for table in ("deliveries", "batches")
        ]


def finish(story: Story) -> None:
    """Lets time pass and one worker work until nothing is left."""
    worker = story.workers[0]
    story.resume()
    for _ in range(100):
        story.pass_time(3700)
        for lane in (Lane.BULK, Lane.RETRY):
            story.work(0, lane, ["sent"] * 8)
            while worker.held is not None:
                story.work(0, lane, ["sent"] * 8)
        if not story.eye.execute("SELECT 1 FROM batches WHERE status <> 'closed'").fetchone():
            return
    pytest.fail("the job does not end")


RESULTS = {
    "sent": lambda row: Result(row, DeliveryState.SENT, "", "250 kept"),
    "failed": lambda row: Result(row, DeliveryState.FAILED, "mailbox", "550 gone"),
    "suppressed": lambda row: Result(row, DeliveryState.SUPPRESSED, "unsubscribed", tried=False),
    "unknown": lambda row: Result(row, DeliveryState.UNKNOWN, "network", "cut"),
    "deferred": lambda row: Result(row, DeliveryState.PENDING, "network", "451 later"),
    "unsent": lambda row: Result(row, DeliveryState.PENDING, tried=False),
}
WHO = st.integers(0, 1)
OUTCOMES = st.lists(st.sampled_from(sorted(RESULTS)), min_size=4, max_size=4)
WORK = st.tuples(st.just("work"), WHO, st.sampled_from([Lane.BULK, Lane.BULK, Lane.RETRY]), OUTCOMES)
TROUBLE = st.one_of(
    st.tuples(st.just("freeze"), WHO),
    st.tuples(st.just("wake"), st.booleans(), OUTCOMES),
    st.tuples(st.just("release"), WHO),
    st.tuples(st.sampled_from(["pause", "resume"])),
    st.tuples(st.just("pass_time"), st.sampled_from([LEASE + 1, 3700.0])),
)
ACTIONS = st.lists(st.one_of(WORK, WORK, WORK, TROUBLE, TROUBLE), min_size=30, max_size=50)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(actions=ACTIONS, policy=st.sampled_from(UnknownPolicy), cancel_at=st.one_of(st.none(), st.integers(5, 30)))
def test_sums_hold_in_whatever_order_workers_claim_mark_record_die_and_wake(
    base: Ledgerbase,
    database: Database,
    actions: list[tuple[str, ...]],
    policy: UnknownPolicy,
    cancel_at: int | None,
) -> None:
    with psycopg.connect(base.superuser_url, autocommit=True) as eye:
        story = Story(database, eye, policy)
        for number, (name, *arguments) in enumerate(actions):
            getattr(story, name)(*arguments)
            story.check()
            if number == cancel_at:
                story.cancel()
                story.check()
        finish(story)
        story.check()


# ---- single facts


def claimed(ledger: Ledger, lane: Lane = Lane.BULK) -> HeldBatch:
    held = ledger.claim(lane)
    assert held is not None
    held.settle_lapse(order())
    return held


def lapse(eye: psycopg.Connection, seconds: float = LEASE + 1) -> None:
    eye.execute("UPDATE messmail_clock SET ahead = ahead + make_interval(secs => %s)", [seconds])


def results(held: HeldBatch, count: int, outcome: str = "sent") -> list[Result]:
    return [RESULTS[outcome](row.ordinal) for row in held.mark(count)]


LATE_WRITES: dict[str, Callable[[HeldBatch, list[Result]], object]] = {
    "mark": lambda held, late: held.mark(1),
    "record": lambda held, late: held.record(late, order()),
    "release": lambda held, late: held.release(),
    "look": lambda held, late: held.look(),
    "settle": lambda held, late: held.settle_lapse(order()),
}


@pytest.mark.parametrize("write", LATE_WRITES)
@pytest.mark.parametrize("had_marked", [False, True])
def test_whoever_has_lost_its_batch_writes_nothing(
    eye: psycopg.Connection, database: Database, write: str, had_marked: bool
) -> None:
    make_job(database, UnknownPolicy.RESEND, [6])
    ledger = Ledger(database, LedgerTerms("worker", LEASE))
    late = claimed(ledger)
    old_results = results(late, 3) if had_marked else []
    lapse(eye)
    current = claimed(ledger)
    fresh = results(current, 2)
    snapshot = (
        "SELECT md5(string_agg(t::text, '' ORDER BY t)) FROM (SELECT batches::text AS t FROM batches "
        "UNION ALL SELECT deliveries::text FROM deliveries) t"
    )
    before = eye.execute(snapshot).fetchone()
    with suppress(BatchLostError):
        LATE_WRITES[write](late, old_results)
    assert eye.execute(snapshot).fetchone() == before
    current.record(fresh, order())


def test_recording_again_after_a_commit_whose_answer_was_lost_changes_nothing(
    eye: psycopg.Connection, database: Database
) -> None:
    tenant_id, job_id = make_job(database, UnknownPolicy.RESEND, [3])
    held = claimed(Ledger(database, LedgerTerms("worker", LEASE)))
    sent = results(held, 2)
    held.record(sent, order())
    held._position = 0
    held.record(sent, order())
    with database.tenant(tenant_id) as connection:
        found = send_jobs.find(connection, tenant_id, job_id)
    assert found is not None
    assert (found.counters.sent, found.counters.claimed) == (2, 1)


def test_a_batch_that_is_done_stays_closed_when_it_is_given_back_after_all(
    eye: psycopg.Connection, database: Database
) -> None:
    make_job(database, UnknownPolicy.RESEND, [2])
    held = claimed(Ledger(database, LedgerTerms("worker", LEASE)))
    held.record(results(held, 2), order())
    # As after a commit whose answer was lost: the worker does not know that it is done.
    held.release()
    assert eye.execute("SELECT status FROM batches WHERE size = 2").fetchall() == [("closed",)]
    assert eye.execute("SELECT status FROM send_jobs").fetchall() == [("completed",)]


def test_two_workers_never_hold_the_same_batch(eye: psycopg.Connection, database: Database) -> None:
    make_job(database, UnknownPolicy.RESEND, [1] * 40)
    ledger = Ledger(database, LedgerTerms("worker", LEASE))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: ledger.claim(Lane.BULK), range(60)))
    ids = [held.claim.batch_id for held in found if held is not None]
    assert len(ids) == len(set(ids)) <= 40
    while (held := ledger.claim(Lane.BULK)) is not None:
        ids.append(held.claim.batch_id)
    assert len(ids) == len(set(ids)) == 40


def test_tenants_are_served_in_turn_however_much_one_has(eye: psycopg.Connection, database: Database) -> None:
    (large, _), (small, _) = (
        make_job(database, UnknownPolicy.RESEND, [1] * 9),
        make_job(database, UnknownPolicy.RESEND, [1] * 3),
    )
    ledger = Ledger(database, LedgerTerms("worker", LEASE))
    served = [claimed(ledger).claim.tenant_id for _ in range(8)]
    assert Counter(served[:6]) == {large: 3, small: 3}
    assert served[6:] == [large, large]


def test_what_one_claim_puts_off_shares_a_batch_until_somebody_takes_it(
    eye: psycopg.Connection, database: Database
) -> None:
    make_job(database, UnknownPolicy.RESEND, [8])
    ledger = Ledger(database, LedgerTerms("worker", LEASE))
    held = claimed(ledger)
    retries = "SELECT size, attempt FROM batches WHERE lane = 'retry' ORDER BY id"
    for size in (2, 4):
        held.record(results(held, 2, "deferred"), order())
        assert eye.execute(retries).fetchall() == [(size, 2)]
    lapse(eye, 31)
    assert claimed(ledger, Lane.RETRY).claim.size == 4
    held.record(results(held, 2, "deferred"), order())
    assert sorted(eye.execute(retries).fetchall()) == [(2, 2), (4, 2)]


def test_a_recipient_over_whom_every_worker_is_lost_is_set_aside_and_the_rest_goes_on(
    eye: psycopg.Connection, database: Database
) -> None:
    tenant_id, job_id = make_job(database, UnknownPolicy.RESEND, [100])
    poison = eye.execute("SELECT subscription_id FROM deliveries WHERE ordinal = 70").fetchone()
    assert poison is not None
    ledger = Ledger(database, LedgerTerms("worker", LEASE))
    for _ in range(60):
        held = ledger.claim(Lane.BULK) or ledger.claim(Lane.RETRY)
        if held is None:
            break
        held.settle_lapse(order())
        while not held.is_done:
            group = held.mark(min(64, held.most_at_once))
            if any(row.subscription_id == poison[0].bytes for row in group):
                lapse(eye)
                break
            held.record([RESULTS["sent"](row.ordinal) for row in group], order())
    rows = eye.execute("SELECT subscription_id, state, reason, attempts FROM deliveries WHERE state <> 'sent'")
    # In the first group, in a smaller one, and three times alone.
    assert rows.fetchall() == [(poison[0], "failed", "poison", 5)]
    with database.tenant(tenant_id) as connection:
        assert send_jobs.status(connection, tenant_id, job_id) is JobStatus.COMPLETED
