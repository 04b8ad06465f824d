"""D10 and D11: a worker that comes back from the dead changes nothing, and one that is asked to end doubles nobody."""

import random
import signal
import time
import uuid
from typing import Any

import pytest

from tests.faults.faults_table import FaultRow, hand_in, runs
from tests.rig.proving_ground import LEASE_SECONDS, ProvingGround
from tests.rig.workers import WorkerProcess
from tests.stack import wait_until

CONNECTIONS = 4
END_SECONDS = 60.0
PEOPLE_PER_END = 150
PEOPLE_OF_A_ZOMBIE = 600

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_a_worker_that_comes_back_from_the_dead_writes_nothing_and_begins_no_mail(
    ground: ProvingGround, record_property: object
) -> None:
    asked = 5
    zombies = runs(asked, 1)
    done = [zombie(ground) for _ in range(zombies)]
    lost, duplicates, bound, late = (sum(numbers) for numbers in zip(*done, strict=True))
    hand_in(
        record_property,
        FaultRow("D10", "worker stopped for 3 leases, then continued", asked, zombies, lost, duplicates, bound, 0),
    )
    assert lost == 0
    assert duplicates <= bound
    assert late <= CONNECTIONS * zombies


def zombie(ground: ProvingGround) -> tuple[int, int, int, int]:
    """Stops a worker until another has done its work, and lets it go on.

    Returns how many were lost, doubled and marked when it was stopped, and how many mails came after it went on.
    """
    ground.sink.slow_down(0.05)
    with ground.crew(workers=1) as crew, ground.job(PEOPLE_OF_A_ZOMBIE) as job:
        (stopped,) = crew.running()
        job.wait_sent(50)
        stop(stopped)
        while not job.fault(stopped):
            # Between two groups it had nothing under way.
            stopped.send(signal.SIGCONT)
            job.wait_sent(job.sent + 20)
            stop(stopped)
        assert job.sent < PEOPLE_OF_A_ZOMBIE, "the stop came after the job: slow the sink further"
        time.sleep(3 * LEASE_SECONDS)
        ground.sink.script()
        crew.start()
        job.wait_completed()
        before, mails = ledger_of(ground, job.id), sum(ground.sink.deliveries().values())
        stopped.send(signal.SIGCONT)
        wait_until(lambda: stopped.has_logged("batch.lost"), "the zombie's discovery")
        stopped.send(signal.SIGTERM)
        assert stopped.wait_end(END_SECONDS) == 0
        late = sum(ground.sink.deliveries().values()) - mails
        assert ledger_of(ground, job.id) == before, "the fence keeps what it writes out"
        counted = job.recount()
    assert set(counted.doubled) <= job.in_flight
    assert not any(counted.violations.values()), counted.violations
    return len(counted.lost), counted.duplicates, job.bound, late


def test_a_worker_that_is_asked_to_end_ends_in_time_and_doubles_nobody(
    ground: ProvingGround, chance: random.Random, record_property: object
) -> None:
    asked = 100
    ends = runs(asked, 4)
    people = PEOPLE_PER_END * ends
    slowest = 0.0
    ground.sink.slow_down(0.03)
    with ground.crew(workers=2) as crew, ground.job(people) as job:
        for number in range(ends):
            job.wait_sent(int(people * (number + chance.random()) / (ends + 1)))
            victim = chance.choice(wait_until(crew.ready, "a worker that is ready", 60))
            job.faults.append(time.time())
            began = time.monotonic()
            victim.send(signal.SIGTERM)
            crew.start()
            assert victim.wait_end(END_SECONDS) == 0
            slowest = max(slowest, time.monotonic() - began)
            assert job.sent < people, "the end came after the job: slow the sink further"
        ground.sink.script()
        job.wait_completed()
        counted = job.recount()
    hand_in(
        record_property,
        FaultRow(
            *("D11", f"worker asked to end (took at most {slowest:.1f} s)", asked, ends, len(counted.lost)),
            *(counted.duplicates, 0, counted.states["unknown"], counted.recovery),
        ),
        counted,
    )
    assert (counted.lost, counted.duplicates) == ([], 0)
    assert counted.states == {"sent": people}


def stop(worker: WorkerProcess) -> None:
    """Stops a worker where it is, as if its machine were suspended."""
    worker.send(signal.SIGSTOP)
    wait_until(lambda: is_stopped(worker), "the stop")


def is_stopped(worker: WorkerProcess) -> bool:
    """Tells whether every thread of a worker stands still."""
    with open(f"/proc/{worker.process.pid}/stat", encoding="utf-8") as stat:
        return stat.read().rpartition(")")[2].split()[0] == "T"


def ledger_of(ground: ProvingGround, job_id: str) -> list[tuple[Any, ...]]:
    """Returns all that the ledger says of a job: its batches and its deliveries."""
    job = uuid.UUID(job_id)
    batches = ground.ledger.rows("SELECT b::text FROM batches b WHERE job_id = %s ORDER BY id", job)
    deliveries = ground.ledger.rows(
        "SELECT d::text FROM deliveries d JOIN batches b ON b.tenant_id = d.tenant_id AND b.id = d.batch_id"
        " WHERE b.job_id = %s ORDER BY d.batch_id, d.ordinal",
        job,
    )
    return batches + deliveries
