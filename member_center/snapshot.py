"""A value that is read again every few seconds, so that a change made elsewhere is in force here soon."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Snapshot(Generic[T]):
    """What was read last. Safe for threads: while one reads again, the others go on with what there is."""

    def __init__(self, read: Callable[[], T], seconds: float) -> None:
        self._read = read
        self._seconds = seconds
        self._lock = threading.Lock()
        self._kept: tuple[float, T] | None = None

    def value(self) -> T:
        """Returns a value of a few seconds ago; raises what reading raises."""
        kept = self._kept
        if kept is None:
            return self.read_unless_newer(self._seconds)
        if self._is_newer(kept, self._seconds) or not self._lock.acquire(blocking=False):
            return kept[1]
        try:
            return self._read_again()
        finally:
            self._lock.release()

    def read_unless_newer(self, seconds: float) -> T:
        """Returns a value at most so many seconds old, waiting for it where need be; raises what reading raises."""
        with self._lock:
            kept = self._kept
            return kept[1] if kept is not None and self._is_newer(kept, seconds) else self._read_again()

    def _read_again(self) -> T:
        started = time.monotonic()
        value = self._read()
        self._kept = (started, value)
        return value

    @staticmethod
    def _is_newer(kept: tuple[float, T], seconds: float) -> bool:
        return time.monotonic() - kept[0] < seconds
