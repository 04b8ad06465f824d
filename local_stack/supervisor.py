"""Keeps the children of the local stack running: starts them, waits until they are ready, restarts them, stops them.

It knows nothing of what a child does. Its state is in memory, except for the record by which a later run finds the
children of one that was killed.
"""

import json
import queue
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from local_stack.children import Child, RunningChild, describe, end, last_lines
from local_stack.data_directory import DataDirectory
from local_stack.errors import StackError
from local_stack.leftovers import remember

_POLL = 0.05
_FIRST_DELAY = 0.5
_LONGEST_DELAY = 15.0
_HEALTHY_AFTER = 5.0


class StoppedError(Exception):
    """Somebody asked the stack to stop while it was starting."""


@dataclass
class _Place:
    """A child's place in the stack, kept through its restarts."""

    running: RunningChild
    failures: int = 0
    restart_at: float | None = None


class Supervisor:
    """Runs children; all methods but `request_stop` belong to one thread."""

    def __init__(
        self,
        data: DataDirectory,
        say: Callable[[str], None],
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        """Reports in words through `say`; calls `on_change` when a child was replaced by a new one."""
        self._data = data
        self._say = say
        self._on_change = on_change
        self._places: dict[str, _Place] = {}
        self._stopping = False
        # Of the queues only this one may be written to from a signal handler.
        self._events: queue.SimpleQueue[RunningChild | None] = queue.SimpleQueue()

    def start(self, *children: Child, answers: Callable[[], bool] | None = None, timeout: float = 60.0) -> None:
        """Starts children together and waits until they answer, or without `answers` have logged the event "ready".

        Raises StackError with the end of the log when one dies or is late, StoppedError when asked to stop meanwhile.
        """
        for child in children:
            log = self.log(child.name)
            if log.exists():
                log.replace(log.with_suffix(".log.1"))
            self._launch(child)
        deadline = time.monotonic() + timeout
        for child in children:
            self._await_ready(self._places[child.name].running, answers, deadline)

    def complete(self, child: Child, timeout: float = 120.0) -> bytes:
        """Runs a child to its end and returns its standard output, which goes to no log.

        Raises StackError with the end of its log when it fails or is late.
        """
        log = self.log(child.name)
        running = RunningChild(child, log, keep_output=True)
        deadline = time.monotonic() + timeout
        try:
            while not running.wait(_POLL):
                self._check_stopping()
                if time.monotonic() > deadline:
                    raise StackError(f"{child.name} was not done within {timeout:.0f} s:\n{last_lines(log)}")
        finally:
            end([running])
        if running.status:
            raise StackError(f"{child.name} {describe(running.status)}:\n{last_lines(log)}")
        return running.output

    def supervise(self) -> None:
        """Restarts children that die, each time after a longer pause, until somebody asks to stop."""
        while not self._stopping:
            due = [place.restart_at for place in self._places.values() if place.restart_at is not None]
            try:
                ended = self._events.get(timeout=max(0.0, min(due) - time.monotonic()) if due else None)
            except queue.Empty:
                self._restart_due()
                continue
            if ended is not None:
                self._schedule(ended)

    def request_stop(self) -> None:
        """Makes `supervise` and whatever is starting come to an end; safe in a signal handler."""
        self._stopping = True
        self._events.put(None)

    def stop(self) -> None:
        """Stops all children, a higher stage before a lower one; kills those whose grace is over, and says so."""
        self._stopping = True
        running = [place.running for place in self._places.values()]
        for stage in sorted({one.child.stage for one in running}, reverse=True):
            for killed in end(one for one in running if one.child.stage == stage):
                self._say(f"{killed.child.name} did not stop within {killed.child.grace:g} s and was killed")
        self._places.clear()
        remember(self._data, [])

    def pids(self) -> dict[str, list[int]]:
        """The process numbers of the children, by the part they play."""
        pids: dict[str, list[int]] = {}
        for place in self._places.values():
            pids.setdefault(place.running.child.part, []).append(place.running.pid)
        return pids

    def log(self, name: str) -> Path:
        """The log file of the child of that name."""
        return self._data.logs / f"{name}.log"

    def _launch(self, child: Child) -> RunningChild:
        running = RunningChild(child, self.log(child.name), on_end=self._events.put)
        if place := self._places.get(child.name):
            place.running, place.restart_at = running, None
        else:
            self._places[child.name] = _Place(running)
        remember(self._data, (place.running for place in self._places.values()))
        return running

    def _await_ready(self, running: RunningChild, answers: Callable[[], bool] | None, deadline: float) -> None:
        name = running.child.name
        with self.log(name).open("rb") as stream:
            is_ready = answers or _ReadyLine(stream)
            while not is_ready():
                self._check_stopping()
                if running.wait(_POLL):
                    raise StackError(f"{name} {describe(running.status)} while starting:\n{last_lines(self.log(name))}")
                if time.monotonic() > deadline:
                    raise StackError(f"{name} was not ready in time:\n{last_lines(self.log(name))}")

    def _schedule(self, ended: RunningChild) -> None:
        place = self._places[ended.child.name]
        place.failures = 1 if time.monotonic() - ended.started > _HEALTHY_AFTER else place.failures + 1
        delay = min(_FIRST_DELAY * 2 ** (place.failures - 1), _LONGEST_DELAY)
        place.restart_at = time.monotonic() + delay
        log = self.log(ended.child.name)
        self._say(f"{ended.child.name} {describe(ended.status)}; starting it again in {delay:g} s (see {log})")

    def _restart_due(self) -> None:
        for place in self._places.values():
            if place.restart_at is not None and place.restart_at <= time.monotonic():
                running = self._launch(place.running.child)
                self._say(f"{running.child.name} runs again (pid {running.pid})")
                self._on_change()

    def _check_stopping(self) -> None:
        if self._stopping:
            raise StoppedError


class _ReadyLine:
    """Looks for the event "ready" among the JSON lines a child has logged so far."""

    def __init__(self, log: BinaryIO) -> None:
        self._log = log
        self._unfinished = b""

    def __call__(self) -> bool:
        *lines, self._unfinished = (self._unfinished + self._log.read()).split(b"\n")
        return any(_is_ready(line) for line in lines)


def _is_ready(line: bytes) -> bool:
    try:
        entry = json.loads(line)
    except ValueError:
        return False
    return isinstance(entry, dict) and entry.get("event") == "ready"
