"""Ids that sort by time, on which the partitions of the ledger rest."""

from __future__ import annotations

import time
import uuid
from datetime import UTC, datetime, timedelta

from send_engine.sending import delivery_id
from servicekit.identifiers import least_uuid7, uuid7


def test_an_id_is_of_version_7_and_says_when_it_was_made() -> None:
    before = time.time_ns() // 1_000_000
    made = uuid7()
    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert before <= made.int >> 80 <= time.time_ns() // 1_000_000


def test_no_id_is_made_twice() -> None:
    assert len({uuid7() for _ in range(10_000)}) == 10_000


def test_the_least_id_of_a_moment_parts_earlier_ids_from_later_ones() -> None:
    now = datetime.now(UTC)
    made = uuid7()
    assert least_uuid7(now - timedelta(seconds=1)) < made < least_uuid7(now + timedelta(seconds=10))
    assert least_uuid7(now).version == 7


def test_the_id_of_a_delivery_is_that_of_its_subscription_in_the_job() -> None:
    for _ in range(100):
        job, subscription = uuid.uuid4(), uuid.uuid4()
        assert delivery_id(job, subscription.bytes) == str(uuid.uuid5(job, subscription.hex))
