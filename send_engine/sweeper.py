"""Finds work that is due or lapsed, by the database's clock, and sees to it that a free slot takes it.

It rings, at most once per free slot and lane at a time. When the broker does not take the ring, or nobody has heard it
after a while, it runs the lane itself: so a job completes with the broker gone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

from send_engine.deliveries import Ledger
from send_engine.lanes import Lanes
from send_engine.records import Lane
from servicekit.errors import MessmailError

SWEEP_SECONDS = 0.5
# A ring that no run followed after this long counts as lost.
HEARD_SECONDS = 1.0
_LONGEST_REST_SECONDS = 2.0

_log = structlog.get_logger()


class Sweeper:
    """The sweeper of one worker process. ring tells whether the broker took the ring."""

    def __init__(self, ledger: Ledger, lanes: Lanes, ring: Callable[[Lane], bool], stopping: threading.Event) -> None:
        self._ledger = ledger
        self._lanes = lanes
        self._ring = ring
        self._stopping = stopping
        # By lane: when we rang, and how many runs there had been, until a run follows.
        self._unheard: dict[Lane, tuple[float, int]] = {}

    def run(self) -> None:
        """Sweeps until it is asked to stop."""
        rest = SWEEP_SECONDS
        while not self._stopping.wait(rest):
            rest = SWEEP_SECONDS
            for lane in Lane:
                try:
                    self.sweep(lane)
                except MessmailError as error:
                    rest = _LONGEST_REST_SECONDS
                    _log.warning("sweep.waits", lane=lane.value, reason=error.status.name)
                except Exception:
                    rest = _LONGEST_REST_SECONDS
                    _log.exception("sweep.crashed", lane=lane.value)

    def sweep(self, lane: Lane) -> None:
        """Wakes as many free slots of a lane as there are batches due. Raises MessmailError without the database."""
        rung_at, runs_before = self._unheard.get(lane, (None, 0))
        if rung_at is not None:
            if self._lanes.runs(lane) > runs_before:
                del self._unheard[lane]
            elif time.monotonic() - rung_at < HEARD_SECONDS:
                return
        due = self._ledger.count_due(lane, self._lanes.free(lane), self._lanes.passed_by())
        if due == 0:
            self._unheard.pop(lane, None)
            return
        unheard = lane in self._unheard
        for _ in range(due):
            if unheard or not self._ring(lane):
                threading.Thread(target=self._lanes.run, args=(lane,), name=f"{lane.value}-lane", daemon=True).start()
            else:
                self._unheard[lane] = (time.monotonic(), self._lanes.runs(lane))
