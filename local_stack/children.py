"""Child processes: how one is described, started in a session of its own, and ended with everything it started.

It does not decide when a child runs; that is the supervisor's.
"""

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping
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

    @property
    def part(self) -> str:
        """The name without its number: the part of the stack that several children may play."""
        return self.name.rstrip("0123456789").removesuffix("-")


def spawn(child: Child, log: Path) -> subprocess.Popen[bytes]:
    """Starts the child in its own session, its output appended to the log (created 0600)."""
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    account = child.account
    try:
        return subprocess.Popen(
            child.command,
            env=dict(child.environment),
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            start_new_session=True,
            # An account that cannot enter the present folder must not start in it.
            cwd="/" if account else None,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
        )
    finally:
        os.close(descriptor)


def wait(process: subprocess.Popen[bytes]) -> int:
    """Waits for the child to end, ends what it left in its session, and returns its status."""
    # Until it is reaped the number cannot be given to a stranger, so the group is ended before that.
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def last_lines(log: Path, count: int = 20) -> str:
    """Returns the end of a log, to show why a child failed."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - 64 * 1024))
            return "\n".join(stream.read().decode(errors="replace").splitlines()[-count:])
    except FileNotFoundError:
        return ""


def describe(status: int) -> str:
    """Says in words how a process ended."""
    return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
