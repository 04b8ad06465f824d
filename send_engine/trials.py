"""Trials: a mail over which workers were lost is composed and sent in a process of its own, which may die of it.

That a worker died while a mail was under way proves little: workers are killed for many reasons, and by chance always
in the middle of something. That a process died which had nothing but this mail, while its worker lives, proves it. So
a trial, and not the number of lost workers, decides whether a mail is set aside (docs/decisions/0010).

Started as `python -m send_engine.trials`, this module is that process: it reads one task after the other from standard
input and answers on standard output, until the input ends.
"""

from __future__ import annotations

import asyncio
import pickle
import resource
import select
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import IO, Any

from send_engine.composing import Content, ContentError, JobComposer, ListProfile, Recipient
from send_engine.esp.port import Outcome
from send_engine.smtp_settings import SmtpSettings

# A mail is far smaller; whatever grows beyond this would take the machine with it.
_MOST_MEMORY = 2 * 1024**3
_LOOK_SECONDS = 0.3
_READY = "ready"
_LENGTH = struct.Struct(">I")


class TrialUnavailableError(Exception):
    """No process could be started: nothing was begun, and nothing is known."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One mail to one recipient, and the relay that it leaves by."""

    relay_url: str
    profile: ListProfile
    content: Content
    message_id_domain: str
    recipient: Recipient
    delivery_id: str
    date: datetime


class Trials:
    """The process in which one worker makes its trials: started for the first, and again after one that killed it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def make(self, trial: Trial, look: Callable[[], None]) -> Outcome | str | None:
        """Sends a mail; calls look every now and then meanwhile.

        Returns what became of it, or why it cannot be composed, or None when the process died of it. Raises
        TrialUnavailableError.
        """
        with self._lock:
            process = self._running()
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                _write(process.stdin, trial)
                while not select.select([process.stdout], [], [], _LOOK_SECONDS)[0]:
                    look()
                answer: Outcome | str = _read(process.stdout)
            except (OSError, EOFError):
                self._end()
                return None
            return answer

    def close(self) -> None:
        """Ends the process, if there is one."""
        with self._lock:
            self._end()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._end()
        # In a session of its own, so that what a terminal sends to the worker does not end a mail half-way.
        self._process = process = subprocess.Popen(
            [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        assert process.stdout is not None
        try:
            _read(process.stdout)
        except (OSError, EOFError) as error:
            self._end()
            raise TrialUnavailableError from error
        return process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):
                assert pipe is not None
                pipe.close()


async def _answer(trial: Trial, settings: SmtpSettings) -> Outcome | str:
    try:
        composer = JobComposer(trial.profile, trial.content, trial.message_id_domain)
        mail = composer.compose(trial.recipient, trial.delivery_id, trial.date)
    except ContentError as error:
        return f"{error.field}: {error.message}"
    esp = settings.open_esp(trial.relay_url)
    [outcome] = await esp.send([mail], lambda: False)
    await esp.close()
    return outcome


def main() -> None:
    """Answers trials until standard input ends."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))
    settings = SmtpSettings()
    _write(sys.stdout.buffer, _READY)
    with suppress(EOFError):
        while True:
            _write(sys.stdout.buffer, asyncio.run(_answer(_read(sys.stdin.buffer), settings)))


def _write(pipe: IO[bytes], value: object) -> None:
    # Both ends are this module in one installation, and the pipe is theirs alone.
    frame = pickle.dumps(value)
    pipe.write(_LENGTH.pack(len(frame)) + frame)
    pipe.flush()


def _read(pipe: IO[bytes]) -> Any:
    (length,) = _LENGTH.unpack(_read_bytes(pipe, _LENGTH.size))
    return pickle.loads(_read_bytes(pipe, length))


def _read_bytes(pipe: IO[bytes], count: int) -> bytes:
    data = pipe.read(count)
    if len(data) < count:
        raise EOFError
    return data


if __name__ == "__main__":
    main()
