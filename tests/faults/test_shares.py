"""Nobody waits for somebody else's large job: neither a confirmation mail nor a small job of another tenant.

The claim is about 200,000 recipients and 200 confirmations; that is what `make faults` counts, in its share. The short
run has fewer of both.
"""

from __future__ import annotations

import json
import math
import statistics
import time

import pytest

from tests.faults.faults_table import runs
from tests.recount import Sink
from tests.rig.proving_ground import ProvingGround
from tests.stack import Newsletter, unique_address, wait_until

LARGE = runs(200_000, 60_000)
CONFIRMATIONS = runs(200, 20)
SMALL = 100


class Wanderers:
    """When each person's confirmation was at the sink, read from its record as it grows."""

    def __init__(self, sink: Sink) -> None:
        self._record = sink.record
        self._read = sink.record.stat().st_size
        self._at: dict[str, float] = {}

    def arrival(self, address: str) -> float | None:
        """Returns when (time.time()) a person's confirmation came; None as long as it has not."""
        with self._record.open("rb") as record:
            record.seek(self._read)
            fresh = record.read()
        self._read += fresh.rfind(b"\n") + 1
        for line in fresh[: fresh.rfind(b"\n") + 1].splitlines():
            if b"wanderer" in line:
                entry = json.loads(line)
                self._at[entry["recipient"]] = entry["at"]
        return self._at.get(address)


def time_of_a_small_job(ground: ProvingGround) -> float:
    """Sends a small job of another tenant and returns how long it took, from its creation to its end."""
    began_at = time.monotonic()
    with ground.job(SMALL) as job:
        job.wait_completed(60)
        return time.monotonic() - began_at


def confirm(ground: ProvingGround, newsletter: Newsletter, wanderers: Wanderers) -> float:
    """Subscribes somebody and returns after how many seconds the confirmation mail was at the sink."""
    address, began_at = unique_address("wanderer"), time.time()
    body = {"list_id": newsletter.list_id, "email": address}
    answer = ground.stack.site.post_json("/newsletter/subscribe", body)
    assert answer.status in (200, 201), answer.answer
    return wait_until(lambda: wanderers.arrival(address), "the confirmation", poll=0.01) - began_at


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_large_job_delays_neither_confirmations_nor_a_small_job_of_another_tenant(ground: ProvingGround) -> None:
    ground.audience(LARGE)
    others = ground.stack.make_newsletter()
    wanderers = Wanderers(ground.sink)
    with ground.crew(2):
        alone = statistics.median(time_of_a_small_job(ground) for _ in range(3))
        with ground.job(LARGE) as large:
            large.wait_sent(1)
            beside = time_of_a_small_job(ground)
            took = [confirm(ground, others, wanderers) for _ in range(CONFIRMATIONS)]
            again = time_of_a_small_job(ground)
            assert large.sent < LARGE, "the large job ended before the others: make it larger"
            token = ground.stack.access_token(large.newsletter.client)
            assert ground.stack.site.post_json(f"/api/send-jobs/{large.id}/cancel", {}, token).status == 200
    median, slowest = statistics.median(took), sorted(took)[math.ceil(0.99 * len(took)) - 1]
    print(
        f"beside {LARGE:,} recipients: {len(took)} confirmations took {median:.2f} s (median), {slowest:.2f} s (p99); "
        f"{SMALL} recipients took {beside:.2f} and {again:.2f} s, alone {alone:.2f} s"
    )
    assert median <= 2
    assert slowest <= 5
    assert max(beside, again) <= max(2 * alone, alone + 2)
