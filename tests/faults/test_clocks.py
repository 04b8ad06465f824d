"""D9: a worker whose clock is wrong, or jumps, neither loses nor doubles a mail, and sends nothing early."""

import os
import random
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.conftest import FAKETIME
from tests.faults.faults_table import FaultRow, hand_in, runs
from tests.rig.proving_ground import ProvingGround

# As libfaketime reads them: an hour and a day, both ways.
OFFSETS = ("+1h", "-1h", "+1d", "-1d", "+0")
PEOPLE_PER_JUMP = 300
DUE_SECONDS, LATEST_SECONDS = 6.0, 60.0

pytestmark = [pytest.mark.slow, pytest.mark.faketime, pytest.mark.timeout(1200)]


def wrong_clock(file: Path, offset: str) -> dict[str, str]:
    """Returns the environment of a worker whose clock is off by what the file says, now and later."""
    set_clock(file, offset)
    return {
        "LD_PRELOAD": next(path for path in FAKETIME if os.path.exists(path)),
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


def set_clock(file: Path, offset: str) -> None:
    """Moves the clock; all at once, for the worker may be reading."""
    fresh = file.with_suffix(".new")
    fresh.write_text(offset + "\n", encoding="ascii")
    fresh.replace(file)


def test_a_worker_whose_clock_jumps_loses_nobody(
    ground: ProvingGround, chance: random.Random, record_property: object, tmp_path: Path
) -> None:
    asked = 20
    jumps = runs(asked, 4)
    people = PEOPLE_PER_JUMP * jumps
    ground.sink.slow_down(0.02)
    with ground.crew(workers=1) as crew:
        crew.start(**wrong_clock(tmp_path / "clock", chance.choice(OFFSETS))).wait_ready()
        with ground.job(people) as job:
            for number in range(jumps):
                job.wait_sent(int(people * (number + chance.random()) / (jumps + 1)))
                set_clock(tmp_path / "clock", chance.choice(OFFSETS))
                job.fault()
            ground.sink.script()
            job.wait_completed()
            counted = job.recount()
        assert len(crew.running()) == 2
    hand_in(
        record_property,
        FaultRow(
            *("D9", "one worker's clock jumps by hours and days", asked, jumps, len(counted.lost), counted.duplicates),
            *(job.bound, counted.states["unknown"], counted.recovery),
        ),
        counted,
    )
    assert counted.lost == []
    assert set(counted.doubled) <= job.in_flight
    assert counted.states == {"sent": people}


@pytest.mark.claim("D9", "schedules by the database's clock, with a worker a day off: never early, at most 60 s late")
@pytest.mark.parametrize("offset", ["+1d", "-1d"])
def test_a_schedule_goes_by_the_database_clock(ground: ProvingGround, tmp_path: Path, offset: str) -> None:
    with ground.crew() as crew:
        crew.start(**wrong_clock(tmp_path / "clock", offset)).wait_ready()
        due = datetime.now(UTC) + timedelta(seconds=DUE_SECONDS)
        with ground.job(20, scheduled_at=due.isoformat()) as job:
            job.wait_completed(DUE_SECONDS + LATEST_SECONDS)
            assert job.recount().lost == []
            (began,) = ground.ledger.rows("SELECT extract(epoch FROM started_at) FROM send_jobs WHERE id = %s", job.id)
        assert due.timestamp() <= float(began[0]) <= due.timestamp() + LATEST_SECONDS
        assert time.time() <= due.timestamp() + LATEST_SECONDS
