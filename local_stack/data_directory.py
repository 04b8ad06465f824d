"""The data directory of one local stack: lock, secrets, logs and the small files others read.

It knows where things lie and that they are private, not what they mean. Nothing outside the directory is touched.
"""

import fcntl
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from local_stack.errors import StackError

_MARK = "messmail-data"


class DataDirectory:
    """An open data directory; at most one process on the machine holds its lock."""

    def __init__(self, path: Path) -> None:
        """Opens the directory, creating it when it is missing.

        Raises StackError for a directory that holds somebody else's files: its permissions and contents are not ours.
        """
        self.path = path.resolve()
        self._lock: int | None = None
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not (self.path / _MARK).exists():
                if any(self.path.iterdir()):
                    raise StackError(f"{self.path} is not empty and not a data directory of Messmail; choose another.")
                self.path.chmod(0o700)
                (self.path / _MARK).touch(mode=0o600)
            for folder in (self.logs, self._secrets):
                folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise StackError(f"Cannot use {self.path} as the data directory: {error.strerror}.") from error

    @property
    def logs(self) -> Path:
        """The folder with one log file per child."""
        return self.path / "logs"

    @property
    def _secrets(self) -> Path:
        return self.path / "secrets"

    def lock(self) -> None:
        """Takes the lock until this process ends; raises StackError when another process holds it."""
        lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            raise StackError(
                f"Another `messmail up` is using {self.path}. Stop it or choose another --data-dir."
            ) from error
        self._lock = lock

    def unlock(self) -> None:
        """Gives the lock back."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def secret(self, name: str, create: Callable[[], str] = lambda: secrets.token_hex(32)) -> str:
        """Returns the secret of that name, creating and storing it (0600) the first time."""
        file = self._secrets / name
        try:
            return file.read_text()
        except FileNotFoundError:
            value = create()
            write_private(file, value)
            return value


def write_private(file: Path, text: str) -> None:
    """Writes the file (0600) so that a reader sees the old or the new text, also after a crash."""
    unfinished = file.with_name(f".{file.name}.{os.getpid()}")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    unfinished.replace(file)
