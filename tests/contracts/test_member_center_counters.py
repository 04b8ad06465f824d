"""The limiter's store, on a real Valkey: what is counted, and what is not."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import redis

from local_stack.ports import free_address
from member_center.storage.windows import Counters, Window
from tests.member_center_fixtures import Engines
from tests.member_center_fixtures import engines as engines


@pytest.fixture
def counters(engines: Engines) -> Iterator[Counters]:
    store = Counters(engines.valkey.url)
    yield store
    store.close()


def window(limit: int, seconds: int = 60, name: str = "calls") -> Window:
    return Window(name, os.urandom(16), limit, seconds)


def test_a_window_admits_its_limit_and_tells_when_it_ends(counters: Counters) -> None:
    calls = window(3)
    assert [counters.admit([calls]) for _ in range(3)] == [None] * 3
    full = counters.admit([calls])
    assert full is not None
    assert full[0] == calls
    assert 55 < full[1] <= 60


def test_a_window_begins_anew_when_it_has_ended(counters: Counters) -> None:
    calls = window(1, seconds=1)
    assert counters.admit([calls]) is None
    full = counters.admit([calls])
    assert full is not None
    deadline = time.monotonic() + 10
    while counters.admit([calls]) is not None:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_call_is_counted_in_all_windows_or_in_none(counters: Counters) -> None:
    wide, narrow = window(100), window(1)
    assert counters.admit([wide, narrow]) is None
    for _ in range(5):
        full = counters.admit([wide, narrow])
        assert full is not None
        assert full[0] == narrow
    left = Window(wide.name, wide.key, 2, wide.seconds)
    assert counters.admit([left]) is None
    assert counters.admit([left]) is not None


def test_a_window_that_is_only_looked_at_refuses_when_it_is_full_and_is_never_filled_by_it(counters: Counters) -> None:
    failures, calls = window(2), window(100)
    looked_at = replace(failures, is_counted=False)
    assert [counters.admit([looked_at, calls]) for _ in range(5)] == [None] * 5
    assert [counters.add([failures]) for _ in range(2)] == [None] * 2
    full = counters.admit([looked_at, calls])
    assert full is not None
    assert full[0] == looked_at and 55 < full[1] <= 60


def test_what_has_happened_is_counted_in_all_windows_whatever_is_full(counters: Counters) -> None:
    narrow, wide = window(1), window(3)
    assert counters.add([narrow, wide]) is None
    told = [counters.add([narrow, wide]) for _ in range(3)]
    assert [full and full[0] for full in told] == [narrow] * 3
    full = counters.add([wide])
    assert full is not None and full[0] == wide and 0 < full[1] <= 60


def test_a_limit_of_nothing_admits_nothing(counters: Counters) -> None:
    nothing = window(0)
    assert counters.admit([nothing]) == (nothing, 60.0)


def test_calls_at_once_are_counted_one_by_one(counters: Counters) -> None:
    calls = window(20)
    with ThreadPoolExecutor(8) as pool:
        admitted = [answer is None for answer in pool.map(lambda _: counters.admit([calls]), range(60))]
    assert sum(admitted) == 20


def test_a_mail_counts_once_and_an_address_has_so_many_a_day(counters: Counters) -> None:
    address, other = os.urandom(16), os.urandom(16)
    mails = [(address, bytes([number]) * 16) for number in range(4)]
    assert counters.count_mails(mails, 3) == [True, True, True, False]
    assert counters.count_mails([*mails, (other, b"x" * 16)], 3) == [True, True, True, False, True]
    assert counters.count_mails(mails[3:], 4) == [True]
    assert counters.count_mails([], 3) == []


def test_a_store_that_does_not_answer_says_so_soon() -> None:
    store = Counters(f"redis://{free_address()}/0")
    started = time.monotonic()
    assert not store.is_answering()
    with pytest.raises(redis.RedisError):
        store.admit([window(1)])
    with pytest.raises(redis.RedisError):
        store.count_mails([(b"a", b"b")], 1)
    assert time.monotonic() - started < 5
    store.close()
