"""A value that is read again every few seconds, so that a change made elsewhere is in force here soon."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Snapshot(Generic[T]):
    """What was read last. Safe for threads: while one reads, the others wait for it."""

    def __init__(self, read: Callable[[], T], seconds: float) -> None:
        self._read = read
        self._seconds = seconds
        self._lock = threading.Lock()
        self._kept: tuple[float, T] | None = None

    def value(self, newer_than: float | None = None) -> T:
        """Returns a value at most so many seconds old: newer_than, or else what the snapshot was made with."""
        oldest = time.monotonic() - (self._seconds if newer_than is None else newer_than)
        kept = self._kept
        if kept is not None and kept[0] > oldest:
            return kept[1]
        with self._lock:
            kept = self._kept
            if kept is None or kept[0] <= oldest:
                kept = (time.monotonic(), self._read())
                self._kept = kept
            return kept[1]
