"""Finds the local stack of a data directory, or starts one and stops it again."""

import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Final

from messmail_cli.failures import CommandFailed
from messmail_cli.stack_file import StackFile, read_stack_file

_START_SECONDS: Final = 300.0
_POLL_SECONDS: Final = 0.1
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class RunningStack:
    """A stack that answers, with its addresses in `stack`."""

    def __init__(self, data_dir: Path) -> None:
        """Finds the stack that runs in the data directory, or starts one; raises CommandFailed when that fails."""
        self._child: subprocess.Popen[bytes] | None = None
        found = read_stack_file(data_dir)
        if found is None or not _answers(found):
            self._child, found = _start(data_dir)
        self.stack: StackFile = found

    @property
    def started_here(self) -> bool:
        """Whether the stack ends with this process."""
        return self._child is not None

    def stay(self) -> None:
        """Stays until Ctrl-C, or until the stack that was started here ends by itself."""
        if self._child is not None:
            self._child.wait()

    def stop(self) -> None:
        """Stops the stack if it was started here; one that was found goes on."""
        if self._child is not None:
            _stop(self._child)


def _start(data_dir: Path) -> tuple[subprocess.Popen[bytes], StackFile]:
    with tempfile.TemporaryDirectory(prefix="messmail-") as folder:
        ready = Path(folder) / "ready.json"
        command = [sys.executable, "-m", "messmail_cli", "up", "--data-dir", str(data_dir), "--ready-file", str(ready)]
        # In a session of its own, so that Ctrl-C reaches it once, through us.
        child = subprocess.Popen(command, start_new_session=True)
        try:
            deadline = time.monotonic() + _START_SECONDS
            while not ready.exists():
                if child.poll() is not None:
                    raise CommandFailed("The stack did not start", "What it said is above.")
                if time.monotonic() > deadline:
                    raise CommandFailed(f"The stack was not ready within {_START_SECONDS:.0f} seconds")
                time.sleep(_POLL_SECONDS)
            stack = read_stack_file(data_dir)
            if stack is None:
                raise CommandFailed("The stack says it is ready, but left no addresses")
        except BaseException:
            _stop(child)
            raise
    return child, stack


def _stop(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    child.wait()


def _answers(stack: StackFile) -> bool:
    try:
        with _opener.open(f"{stack.http}/readyz", timeout=5) as response:
            return bool(response.status == 200)
    except (OSError, urllib.error.URLError, ValueError):
        return False
