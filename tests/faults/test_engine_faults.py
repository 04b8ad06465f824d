"""D4 and D5: the broker is only a doorbell, and PostgreSQL may restart under a job: nobody is lost, workers go on."""

import os
import random
import signal
import time

import psycopg
import pytest

from tests.faults.faults_table import FaultRow, hand_in, runs, share
from tests.rig.proving_ground import ProvingGround, WatchedJob
from tests.stack import wait_until

RESUMES_WITHIN_SECONDS = 30.0
PEOPLE_PER_FAULT = 400

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]


def flush(ground: ProvingGround) -> None:
    ground.broker.flush()


def restart_empty(ground: ProvingGround) -> None:
    ground.broker.restart_empty()


FAULTS = {"broker flushed": flush, "broker restarted empty": restart_empty}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broker_that_forgets_costs_nobody_a_mail(
    ground: ProvingGround, chance: random.Random, record_property: object, fault: str
) -> None:
    asked = 30
    faults = runs(asked, 2)
    people = PEOPLE_PER_FAULT * faults
    ground.sink.slow_down(0.02)
    with ground.crew(workers=2), ground.job(people) as job:
        for number in range(faults):
            job.wait_sent(int(people * (number + chance.random()) / (faults + 1)))
            job.faults.append(time.time())
            FAULTS[fault](ground)
            assert job.sent < people, "the fault came after the job: slow the sink further"
        ground.sink.script()
        job.wait_completed()
        finish(record_property, job, "D4", fault, asked, faults)


# In parts, which can run side by side: a silence is long.
@pytest.mark.parametrize("part", range(3))
@pytest.mark.timeout(4800)
def test_a_broker_that_falls_silent_costs_nobody_a_mail(
    ground: ProvingGround, record_property: object, part: int
) -> None:
    asked, workers, connections = 10, 2, 4
    faults = runs(asked, 1)
    # Longer than the broker's heartbeat of 20 s; in the short run longer than its time-outs. Sending goes on meanwhile,
    # so the sink is slowed, and there are more people than it can take in this time.
    seconds, answer_seconds = (4.0, 0.1) if share() is None else (90.0, 0.5)
    people = int(1.1 * faults * seconds * workers * connections / answer_seconds)
    ground.sink.slow_down(answer_seconds)
    with ground.crew(workers=workers), ground.job(people) as job:
        for _ in range(faults):
            job.wait_sent(job.sent + 1)
            job.faults.append(time.time())
            with ground.broker.silent():
                time.sleep(seconds)
            assert job.sent < people, "the silence outlasted the job: slow the sink further"
        ground.sink.script()
        job.wait_completed()
        finish(record_property, job, "D4", f"broker silent for {seconds:.0f} s", asked, faults)


def test_a_job_completes_with_the_broker_down_all_the_while(ground: ProvingGround, record_property: object) -> None:
    with ground.crew(workers=1) as crew:
        ground.broker.stop()
        try:
            # A worker that starts while there is no broker works as well.
            crew.start()
            with ground.job(PEOPLE_PER_FAULT) as job:
                job.wait_completed()
                finish(record_property, job, "D4", "broker down for the whole job", 1, 1)
        finally:
            ground.broker.start()


def test_restarts_of_postgresql_lose_nobody_and_double_only_what_was_in_flight(
    ground: ProvingGround, chance: random.Random, record_property: object
) -> None:
    asked = 20
    faults = runs(asked, 2)
    people = PEOPLE_PER_FAULT * 2 * faults
    postmaster = ground.stack.data_dir / "postgres/cluster/postmaster.pid"
    ground.sink.slow_down(0.02)
    with ground.crew(workers=2) as crew, ground.job(people) as job:
        workers = crew.running()
        for number in range(faults):
            job.wait_sent(int(people * (number + chance.random()) / (faults + 1)))
            job.fault()
            # What `pg_ctl stop -m immediate` sends; the stack starts it again.
            os.kill(int(postmaster.read_text().splitlines()[0]), signal.SIGQUIT)
            wait_until(lambda: note_marked_again(job), "PostgreSQL", 60)
            assert job.sent < people, "the fault came after the job: slow the sink further"
        ground.sink.script()
        job.wait_completed()
        assert crew.running() == workers, "workers reconnect without a restart"
        finish(record_property, job, "D5", "PostgreSQL stopped at once and started", asked, faults)


def note_marked_again(job: WatchedJob) -> bool:
    """Notes what is still marked as soon as PostgreSQL answers again: a group may have been marked just before."""
    try:
        marked = job.ground.ledger.marked(job.id)
    except (psycopg.OperationalError, FileNotFoundError, IndexError):
        return False
    job.bound += len(marked - job.in_flight)
    job.in_flight |= marked
    return True


def finish(record_property: object, job: WatchedJob, claim: str, fault: str, asked: int, made: int) -> None:
    """Recounts, hands in the row, and asserts what the claims say."""
    counted = job.recount()
    hand_in(
        record_property,
        FaultRow(
            *(claim, fault, asked, made, len(counted.lost), counted.duplicates, job.bound),
            *(counted.states["unknown"], counted.recovery),
        ),
        counted,
    )
    assert counted.lost == []
    assert set(counted.doubled) <= job.in_flight
    assert counted.duplicates <= job.bound
    assert counted.states == {"sent": len(job.audience)}
    assert counted.recovery <= RESUMES_WITHIN_SECONDS
