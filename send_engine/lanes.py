"""The lanes of one worker process: how many batches of each kind it carries out at a time, until none is due.

A run is the same whoever calls it, a ring of the broker or the sweeper. Slots are per lane, so that no lane waits for
another's batches to end.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

import structlog

from send_engine.deliveries import HeldBatch, Ledger
from send_engine.records import Lane
from servicekit.errors import MessmailError

SLOTS: Mapping[Lane, int] = {Lane.PLAN: 1, Lane.BULK: 2, Lane.RETRY: 1, Lane.HELD: 1}

_log = structlog.get_logger()


class Lanes:
    """The lanes, and what carries out a batch of each."""

    def __init__(
        self, ledger: Ledger, carriers: Mapping[Lane, Callable[[HeldBatch], None]], stopping: threading.Event
    ) -> None:
        self._ledger = ledger
        self._carriers = carriers
        self._stopping = stopping
        self._busy = dict.fromkeys(Lane, 0)
        self._lock = threading.Condition()
        self._runs = dict.fromkeys(Lane, 0)

    def run(self, lane: Lane) -> None:
        """Claims and carries out batches until none is due; returns at once when every slot is taken."""
        if not self._take_slot(lane):
            return
        try:
            while not self._stopping.is_set():
                held = self._ledger.claim(lane)
                if held is None:
                    return
                self._carriers[lane](held)
        except MessmailError as error:
            # The database is away. What was held lapses; the sweeper comes back.
            _log.warning("lane.stopped", lane=lane.value, reason=error.status.name)
        except Exception:
            _log.exception("lane.crashed", lane=lane.value)
        finally:
            self._give_slot(lane)

    def free(self, lane: Lane) -> int:
        """Returns how many slots of a lane are free."""
        with self._lock:
            return SLOTS[lane] - self._busy[lane]

    def runs(self, lane: Lane) -> int:
        """Returns how often a run of the lane began, so that one can tell whether a ring was heard."""
        with self._lock:
            return self._runs[lane]

    def wait_idle(self, timeout: float) -> bool:
        """Waits until no slot is taken; False when that takes longer than timeout seconds."""
        with self._lock:
            return self._lock.wait_for(lambda: not any(self._busy.values()), timeout)

    def _take_slot(self, lane: Lane) -> bool:
        with self._lock:
            self._runs[lane] += 1
            if self._busy[lane] == SLOTS[lane]:
                return False
            self._busy[lane] += 1
            return True

    def _give_slot(self, lane: Lane) -> None:
        with self._lock:
            self._busy[lane] -= 1
            self._lock.notify_all()
