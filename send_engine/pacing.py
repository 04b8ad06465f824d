"""How many mails a group may have: as many as were sent in GROUP_SECONDS at the rate last measured.

A group is what a lost worker may double and what a cancel cannot call back, so it is short in time, not in number.
"""

from __future__ import annotations

import threading

GROUP_SECONDS = 0.25
FIRST_GROUP = 32
LARGEST_GROUP = 1000
# One lucky group must not make the next a hundred times larger.
_GROWTH = 4


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
