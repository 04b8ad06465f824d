"""Child processes: how one is described, started in a session of its own, and ended with everything it started.

It does not decide when a child runs or runs again; that is the supervisor's.
"""

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from local_stack.accounts import Account

MARK = "MESSMAIL_STACK"
"""Environment variable with the data directory, by which an orphan of an earlier run is known as ours."""


@dataclass(frozen=True)
class Child:
    """One process of the stack: its command, its environment, and how it is asked to stop."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    stage: int = 0
    """Children of a higher stage stop first; those of one stage stop together."""
    stop_signal: signal.Signals = signal.SIGTERM
    grace: float = 30.0
    """Seconds from the stop signal to SIGKILL."""
    account: Account | None = None
    """The account it runs as; None is the caller's."""
    descriptors: tuple[int, ...] = ()
    """Open files it inherits, under the same numbers."""

    @property
    def part(self) -> str:
        """The name without its number: the part of the stack that several children may play."""
        return self.name.rstrip("0123456789").removesuffix("-")


class RunningChild:
    """A started child, watched by a thread of its own."""

    def __init__(
        self,
        child: Child,
        log: Path,
        *,
        keep_output: bool = False,
        on_end: Callable[["RunningChild"], None] | None = None,
    ) -> None:
        """Starts the child in its own session, its output appended to the log (created 0600).

        With keep_output its standard output is kept in memory instead, for what no log may hold. `on_end` is called
        from another thread.
        """
        self.child = child
        self.started = time.monotonic()
        self.status: int | None = None
        self.output = b""
        self._on_end = on_end
        self._ended = threading.Event()
        self._lock = threading.Lock()
        descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        account = child.account
        try:
            self._process = subprocess.Popen(
                child.command,
                env=dict(child.environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if keep_output else descriptor,
                stderr=descriptor,
                start_new_session=True,
                pass_fds=child.descriptors,
                # An account that cannot enter the present folder must not start in it.
                cwd="/" if account else None,
                user=account.uid if account else None,
                group=account.gid if account else None,
                extra_groups=[] if account else None,
            )
        finally:
            os.close(descriptor)
        self.pid = self._process.pid
        threading.Thread(target=self._watch, name=f"watch-{child.name}", daemon=True).start()

    def send(self, number: signal.Signals) -> None:
        """Sends the signal, unless the child has ended: its number may be a stranger's by now."""
        with self._lock:
            if self.status is None:
                os.kill(self.pid, number)

    def wait(self, timeout: float | None = None) -> bool:
        """Waits for the end; tells whether it came in time."""
        return self._ended.wait(timeout)

    def _watch(self) -> None:
        if self._process.stdout:
            with self._process.stdout as stream:
                self.output = stream.read()
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        with self._lock:
            # Until the child is reaped its number cannot be given to a stranger: now is the time to end its group.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            self.status = self._process.wait()
        self._ended.set()
        if self._on_end:
            self._on_end(self)


def end(running: Iterable[RunningChild]) -> list[RunningChild]:
    """Asks the children to stop, together, and kills those whose grace is over; returns the killed ones."""
    asked = list(running)
    killed = []
    for one in asked:
        one.send(one.child.stop_signal)
    begun = time.monotonic()
    for one in asked:
        if not one.wait(max(0.0, begun + one.child.grace - time.monotonic())):
            one.send(signal.SIGKILL)
            one.wait()
            killed.append(one)
    return killed


def last_lines(log: Path, count: int = 20) -> str:
    """Returns the end of a log, to show why a child failed."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - 64 * 1024))
            return "\n".join(map(_in_short, stream.read().decode(errors="replace").splitlines()[-count:]))
    except FileNotFoundError:
        return ""


def _in_short(line: str) -> str:
    """Takes what a person reads out of a line of structured logging: what happened, and of a trace its last line."""
    try:
        logged = json.loads(line)
    except ValueError:
        return line
    if not isinstance(logged, dict) or "event" not in logged:
        return line
    trace = str(logged.get("exception", "")).strip().splitlines()
    return ": ".join([str(logged["event"]), *trace[-1:]])


def describe(status: int | None) -> str:
    """Says in words how a process ended."""
    return (
        f"was killed by {signal.Signals(-status).name}" if status and status < 0 else f"ended with status {status or 0}"
    )
