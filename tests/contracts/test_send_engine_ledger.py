"""The ledger on a real PostgreSQL: in whatever order workers act, its sums hold and what is decided stays so."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any, ClassVar

import hypothesis.strategies as st
import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from send_engine import job_states
from send_engine.deliveries import BatchLostError, HeldBatch, Ledger, LedgerTerms
from send_engine.records import AudienceMember, DeliveryState, JobStatus, Lane, NewJob, Result, UnknownPolicy
from send_engine.storage import batches, deliveries, send_jobs
from servicekit.database import Database
from servicekit.identifiers import uuid7
from tests.send_engine_fixtures import Engines, Ledgerbase, send_engine_engines

__all__ = ["send_engine_engines"]

LEASE, SIZES = 60.0, (7, 5, 1)
AUDIENCE = sum(SIZES)
OUTCOMES = (DeliveryState.SENT, DeliveryState.FAILED, DeliveryState.SUPPRESSED, DeliveryState.UNKNOWN)


@pytest.fixture(scope="module")
def base(send_engine_engines: Engines) -> Ledgerbase:
    return send_engine_engines.database()


@pytest.fixture(scope="module")
def database(base: Ledgerbase) -> Iterator[Database]:
    made = Database(base.app_url)
    yield made
    made.close()


def make_job(database: Database, policy: UnknownPolicy) -> tuple[uuid.UUID, uuid.UUID]:
    """Makes a job that is sending, with batches of SIZES."""
    tenant_id, job_id = uuid.uuid4(), uuid.uuid4()
    new = NewJob(uuid.uuid4(), "", "x", None, "x", False, policy, {}, None)
    with database.tenant(tenant_id) as connection:
        send_jobs.insert(connection, tenant_id, job_id, new)
        connection.exec_driver_sql("INSERT INTO tenant_turns (tenant_id) VALUES (%s)", (tenant_id,))
        send_jobs.set_planning(connection, tenant_id, job_id)
        parts = [(uuid7(), [AudienceMember(uuid.uuid4(), "x") for _ in range(size)]) for size in SIZES]
        batches.insert_planned(connection, tenant_id, job_id, {batch: len(part) for batch, part in parts})
        deliveries.insert(connection, tenant_id, parts)
        job_states.begin_sending(connection, tenant_id, job_id)
    return tenant_id, job_id


class LedgerMachine(RuleBasedStateMachine):
    """Workers that claim, mark, record, release, die and wake up again, while time passes and somebody cancels."""

    base: ClassVar[Ledgerbase]
    database: ClassVar[Database]

    @initialize(policy=st.sampled_from(UnknownPolicy))
    def begin(self, policy: UnknownPolicy) -> None:
        self.eye = psycopg.connect(self.base.superuser_url, autocommit=True)
        self.eye.execute("DELETE FROM deliveries")
        self.eye.execute("DELETE FROM batches")
        self.eye.execute("DELETE FROM send_jobs")
        self.eye.execute("UPDATE messmail_clock SET ahead = '0'")
        self.policy = policy
        self.ledger = Ledger(self.database, LedgerTerms("worker", LEASE, give_up_seconds=4 * 3600))
        self.tenant_id, self.job_id = make_job(self.database, policy)
        self.held: list[tuple[HeldBatch, list[int]]] = []
        self.decided: dict[uuid.UUID, str] = {}
        self.cancelled = False

    def teardown(self) -> None:
        if hasattr(self, "eye"):
            self.eye.close()

    @rule(lane=st.sampled_from([Lane.BULK, Lane.RETRY]))
    def claim(self, lane: Lane) -> None:
        held = self.ledger.claim(lane)
        if held is not None:
            held.settle_lapse(self.policy)
            self.held.append((held, []))

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0), count=st.integers(1, 4))
    def mark(self, which: int, count: int) -> None:
        held, group = self.held[which % len(self.held)]
        if group or held.is_done:
            return
        with self.unchanged_when_lost(held):
            marked = held.mark(count)
            assert not (marked and self.cancelled), "no mail of a cancelled job is begun"
            group.extend(row.ordinal for row in marked)

    @precondition(lambda self: any(group for _, group in self.held))
    @rule(which=st.integers(0), outcomes=st.lists(st.sampled_from((*OUTCOMES, None, "unsent")), min_size=4, max_size=4))
    def record(self, which: int, outcomes: list[Any]) -> None:
        marked = [(held, group) for held, group in self.held if group]
        held, group = marked[which % len(marked)]
        results = [
            Result(ordinal, outcome if isinstance(outcome, DeliveryState) and outcome in OUTCOMES
                   else DeliveryState.PENDING, "why", "reply", tried=outcome != "unsent")
            for ordinal, outcome in zip(group, outcomes, strict=False)
        ]  # fmt: skip
        with self.unchanged_when_lost(held):
            held.record(results, self.policy)
            held.look()
        group.clear()

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0))
    def release(self, which: int) -> None:
        held, _ = self.held.pop(which % len(self.held))
        held.release()

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0))
    def die(self, which: int) -> None:
        self.held.pop(which % len(self.held))

    @rule(seconds=st.sampled_from([LEASE + 1, 3700.0]))
    def pass_time(self, seconds: float) -> None:
        self.eye.execute("UPDATE messmail_clock SET ahead = ahead + make_interval(secs => %s)", [seconds])

    @precondition(lambda self: not self.cancelled)
    @rule(dice=st.integers(0, 5))
    def cancel(self, dice: int) -> None:
        if dice:
            return
        with self.database.tenant(self.tenant_id) as connection:
            status = send_jobs.lock(connection, self.tenant_id, self.job_id)
            assert status is not None
            if not job_states.may_become(status, JobStatus.CANCELLED):
                return
            send_jobs.set_cancelled(connection, self.tenant_id, self.job_id, 0, 0)
            batches.close_unclaimed(connection, self.tenant_id, self.job_id)
        self.cancelled = True

    @invariant()
    def sums_hold(self) -> None:
        with self.database.tenant(self.tenant_id) as connection:
            found = send_jobs.find(connection, self.tenant_id, self.job_id)
        assert found is not None
        c = found.counters
        parts = (c.pending, c.claimed, c.sending, c.deferred, c.sent, c.failed, c.suppressed, c.cancelled, c.unknown)
        assert sum(parts) == c.total == AUDIENCE
        assert min(parts) >= 0
        states = Counter(row[1] for row in self.rows())
        assert states.total() == AUDIENCE
        for state in OUTCOMES:
            assert states[state.value] == getattr(c, state.value)
        if found.job.status is JobStatus.COMPLETED:
            assert c.pending + c.claimed + c.sending + c.deferred + c.cancelled == 0

    @invariant()
    def what_is_decided_stays_decided(self) -> None:
        now = {subscription: state for subscription, state in self.rows() if state != "pending"}
        assert {subscription: now.get(subscription) for subscription in self.decided} == self.decided
        self.decided = now

    def rows(self) -> list[tuple[uuid.UUID, str]]:
        return self.eye.execute("SELECT subscription_id, state FROM deliveries").fetchall()

    def unchanged_when_lost(self, held: HeldBatch) -> _UnchangedWhenLost:
        return _UnchangedWhenLost(self, held)


class _UnchangedWhenLost:
    """Lets a worker find out that its batch is lost, and checks that it was, and that nothing was written."""

    def __init__(self, machine: LedgerMachine, held: HeldBatch) -> None:
        self._machine, self._held = machine, held

    def __enter__(self) -> None:
        self._before = self._snapshot()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        if kind is not BatchLostError:
            return False
        fence, status = self._machine.eye.execute(
            "SELECT fence, status FROM batches WHERE id = %s", [self._held.claim.batch_id]
        ).fetchone() or (None, None)
        assert fence != self._held.claim.fence or status == "closed" or self._was_released()
        assert self._snapshot() == self._before
        self._machine.held = [(held, group) for held, group in self._machine.held if held is not self._held]
        return True

    def _was_released(self) -> bool:
        row = self._machine.eye.execute(
            "SELECT lease_until FROM batches WHERE id = %s", [self._held.claim.batch_id]
        ).fetchone()
        return row == (None,)

    def _snapshot(self) -> list[str]:
        eye = self._machine.eye
        return sorted(map(str, eye.execute("SELECT * FROM deliveries").fetchall())) + sorted(
            map(str, eye.execute("SELECT * FROM batches").fetchall())
        )


def test_sums_hold_in_whatever_order_workers_claim_mark_record_die_and_wake(
    base: Ledgerbase, database: Database
) -> None:
    LedgerMachine.base, LedgerMachine.database = base, database
    run_state_machine_as_test(
        LedgerMachine,
        settings=settings(
            max_examples=30, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
