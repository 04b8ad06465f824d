"""D1: kill -9 of workers all through a job loses nobody, and only what was in flight may arrive twice."""

import random
import signal

import pytest

from tests.faults.faults_table import FaultRow, hand_in, runs
from tests.rig.proving_ground import ProvingGround
from tests.stack import wait_until

PEOPLE_PER_KILL = 500


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("on_unknown", "asked", "short"), [("resend", 100, 4), ("hold", 100, 2)])
def test_kills_of_a_worker_lose_nobody_and_double_only_what_was_in_flight(
    ground: ProvingGround, chance: random.Random, record_property: object, on_unknown: str, asked: int, short: int
) -> None:
    kills = runs(asked, short)
    people = PEOPLE_PER_KILL * kills
    ground.sink.slow_down(0.03)
    with ground.crew(workers=2) as crew, ground.job(people, on_unknown=on_unknown) as job:
        for kill in range(kills):
            # Spread over the whole job: each kill waits until its share has an end.
            job.wait_settled(int(people * (kill + chance.random()) / (kills + 1)))
            # One that has nothing under way when it dies puts nothing to the test, and does not count.
            hurt = False
            while not hurt:
                victim = chance.choice(wait_until(crew.ready, "a worker that is ready", 60))
                victim.send(signal.SIGKILL)
                hurt = job.fault(victim) > 0
                assert job.settled < people, "the kill came after the job: slow the sink further"
                crew.start()
        ground.sink.slow_down(0.002)
        job.wait_completed()
        counted = job.recount()
    unknown = counted.states["unknown"]
    hand_in(
        record_property,
        FaultRow(
            *("D1", f"worker killed, {on_unknown}", asked, kills, len(counted.lost), counted.duplicates, job.bound),
            *(unknown, counted.recovery),
        ),
        counted,
    )
    assert counted.lost == []
    assert set(counted.doubled) <= job.in_flight
    if on_unknown == "hold":
        assert counted.duplicates == 0
        assert unknown <= job.bound
    else:
        assert counted.duplicates <= job.bound
        assert counted.states == {"sent": people}
