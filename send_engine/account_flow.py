"""How an ESP account takes mail: how many at a time, and whether at all.

A group is as many mails as were sent in GROUP_SECONDS at the rate last measured, since it is what a lost worker may
double and what a cancel cannot call back: short in time, not in number. An account of which no session can be had
rests, so that its mails are not put off one by one.
"""

from __future__ import annotations

import threading
import time

GROUP_SECONDS = 0.25
FIRST_GROUP = 32
LARGEST_GROUP = 1000
# One lucky group must not make the next a hundred times larger.
_GROWTH = 4

FIRST_REST_SECONDS = 1.0
LONGEST_REST_SECONDS = 15.0


class GroupSize:
    """The group size for one ESP account. Safe for threads."""

    def __init__(self) -> None:
        self._size = float(FIRST_GROUP)
        self._lock = threading.Lock()

    def next(self) -> int:
        """Returns how many mails the next group may have."""
        return max(1, min(LARGEST_GROUP, round(self._size)))

    def measured(self, mails: int, seconds: float) -> None:
        """Notes how long a group took from its first mail to its last answer."""
        if mails == 0:
            return
        fitting = mails * GROUP_SECONDS / max(seconds, 1e-3)
        with self._lock:
            self._size = max(1.0, min(fitting, self._size * _GROWTH, float(LARGEST_GROUP)))


class Circuit:
    """Whether an ESP account takes mail at all. While it does not, it rests, longer each time. Safe for threads."""

    def __init__(self) -> None:
        self._failures = 0
        self._rests_until = float("-inf")
        self._lock = threading.Lock()

    def rest(self) -> float:
        """Returns for how many seconds the account still rests; 0 when it may be tried."""
        return max(0.0, self._rests_until - time.monotonic())

    def failed(self) -> float:
        """Notes that no session could be had, and returns for how many seconds the account rests."""
        with self._lock:
            if self.rest() == 0:
                self._failures += 1
                rest = min(FIRST_REST_SECONDS * 2 ** min(self._failures - 1, 10), LONGEST_REST_SECONDS)
                self._rests_until = time.monotonic() + rest
            return self.rest()

    def worked(self) -> None:
        """Notes that a session was had."""
        self._failures = 0
