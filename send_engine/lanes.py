"""The lanes of one worker process: how many batches of each kind it carries out at a time, until none is due.

A run is the same whoever calls it, a ring of the broker or the sweeper. Slots are per lane, so that no lane waits for
another's batches to end. Nor does one tenant wait for another's relay: that of a slow one holds on to a mail for
minutes, so a slow batch lends its slot, and its tenant is passed by until it ends.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from uuid import UUID

import structlog

from send_engine.deliveries import HeldBatch, Ledger
from send_engine.passed_by import PassedBy
from send_engine.records import Lane
from servicekit.errors import MessmailError

SLOTS: Mapping[Lane, int] = {Lane.PLAN: 1, Lane.BULK: 2, Lane.RETRY: 1, Lane.HELD: 1}
# A batch gives its slot back after a turn, half a second and a group. One that takes so long is slow.
SLOW_SECONDS = 5.0
# The most slots that a lane lends.
MOST_LENT = 8

_log = structlog.get_logger()


@dataclass(eq=False, slots=True)
class _Run:
    """A run of a lane: whose batch it carries out, and since when (monotonic)."""

    tenant_id: UUID | None = None
    since: float = float("inf")

    @property
    def is_slow(self) -> bool:
        return time.monotonic() > self.since + SLOW_SECONDS


class Lanes:
    """The lanes, and what carries out a batch of each."""

    def __init__(
        self,
        ledger: Ledger,
        carriers: Mapping[Lane, Callable[[HeldBatch], None]],
        passed_by: PassedBy,
        stopping: threading.Event,
    ) -> None:
        self._ledger = ledger
        self._carriers = carriers
        self._passed_by = passed_by
        self._stopping = stopping
        self._under_way: dict[Lane, set[_Run]] = {lane: set() for lane in Lane}
        self._lock = threading.Condition()
        self._runs = dict.fromkeys(Lane, 0)

    def run(self, lane: Lane) -> None:
        """Claims and carries out batches until none is due; returns at once when every slot is taken."""
        run = self._take_slot(lane)
        if run is None:
            return
        try:
            while not self._stopping.is_set() and self._room(lane) >= 0:
                held = self._ledger.claim(lane, self.passed_by())
                if held is None:
                    return
                with self._lock:
                    run.tenant_id, run.since = held.claim.tenant_id, time.monotonic()
                try:
                    self._carriers[lane](held)
                finally:
                    with self._lock:
                        run.tenant_id, run.since = None, float("inf")
        except MessmailError as error:
            # The database is away. What was held lapses; the sweeper comes back.
            _log.warning("lane.stopped", lane=lane.value, reason=error.status.name)
        except Exception:
            _log.exception("lane.crashed", lane=lane.value)
        finally:
            self._give_slot(lane, run)

    def free(self, lane: Lane) -> int:
        """Returns how many slots of a lane are free."""
        return max(0, self._room(lane))

    def passed_by(self) -> set[UUID]:
        """Returns the tenants of which no mail is to be sent here just now."""
        with self._lock:
            slow = {run.tenant_id for runs in self._under_way.values() for run in runs if run.tenant_id and run.is_slow}
        return slow | self._passed_by.tenants()

    def runs(self, lane: Lane) -> int:
        """Returns how often a run of the lane began, so that one can tell whether a ring was heard."""
        with self._lock:
            return self._runs[lane]

    def wait_idle(self, timeout: float) -> bool:
        """Waits until no slot is taken; False when that takes longer than timeout seconds."""
        with self._lock:
            return self._lock.wait_for(lambda: not any(self._under_way.values()), timeout)

    def _room(self, lane: Lane) -> int:
        """Returns how many more runs a lane may have; less than none once one that had lent its slot goes on."""
        with self._lock:
            runs = self._under_way[lane]
            return SLOTS[lane] - len(runs) + min(MOST_LENT, sum(run.is_slow for run in runs))

    def _take_slot(self, lane: Lane) -> _Run | None:
        with self._lock:
            self._runs[lane] += 1
            if self._room(lane) <= 0:
                return None
            run = _Run()
            self._under_way[lane].add(run)
            return run

    def _give_slot(self, lane: Lane, run: _Run) -> None:
        with self._lock:
            self._under_way[lane].remove(run)
            self._lock.notify_all()
