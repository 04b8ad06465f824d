"""Trials: a mail over which workers were lost is composed and sent in a process of its own, which may die of it.

That a worker died while a mail was under way proves little: workers are killed for many reasons, and by chance always
in the middle of something. That a process died which had nothing but this mail, while its worker lives, proves it. So
a trial, and not the number of lost workers, decides whether a mail is set aside (docs/decisions/0010).

Started as `python -m send_engine.trials`, this module is that process: it reads one task after the other from standard
input and answers on standard output, until the input ends. Right before it begins a mail it asks whether it still may.
"""

from __future__ import annotations

import asyncio
import pickle
import resource
import select
import signal
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
from send_engine.esp.port import Outcome, Verdict
from send_engine.smtp_settings import SmtpSettings

# A mail is far smaller; whatever grows beyond this would take the machine with it.
_MOST_MEMORY = 2 * 1024**3
_LOOK_SECONDS = 0.3
_CLOSE_SECONDS = 5.0
_READY = "ready"
# What the process asks right before it begins a mail; the worker answers with a bool.
_MAY_BEGIN = None
_UNSENT = Outcome(Verdict.unsent, begun=False)
_CUT = Outcome(Verdict.unknown, reply="the worker was stopped")
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
        self._closed = False

    def make(self, trial: Trial, look: Callable[[], None], must_stop: Callable[[], bool]) -> Outcome | str | None:
        """Sends a mail; calls look every now and then meanwhile, and asks must_stop right before the mail is begun.

        Returns what became of it, or why it cannot be composed, or None when the process died of it. Raises
        TrialUnavailableError.
        """
        while not self._lock.acquire(timeout=_LOOK_SECONDS):
            look()
            if must_stop():
                return _UNSENT
        try:
            # Waiting for another trial, or for the process, may have taken its time.
            process = self._running()
            look()
            return self._ask(process, trial, look, must_stop)
        except BaseException:
            # An answer that nobody waited for would be taken for that to the next mail.
            self._end()
            raise
        finally:
            self._lock.release()

    def close(self) -> None:
        """Ends the process, if there is one, even in the middle of a mail."""
        self._closed = True
        if process := self._process:
            process.kill()
        if self._lock.acquire(timeout=_CLOSE_SECONDS):
            self._end()
            self._lock.release()

    def _ask(
        self, process: subprocess.Popen[bytes], trial: Trial, look: Callable[[], None], must_stop: Callable[[], bool]
    ) -> Outcome | str | None:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            _write(process.stdin, trial)
        except OSError as error:
            raise TrialUnavailableError from error
        answers = select.poll()
        answers.register(process.stdout, select.POLLIN)
        was_let_go = False
        while True:
            while not answers.poll(_LOOK_SECONDS * 1000):
                look()
                if must_stop() and not was_let_go:
                    self._end()
                    return _UNSENT
            try:
                answer: Outcome | str | None = _read(process.stdout)
                if answer is not _MAY_BEGIN:
                    return answer
                may_begin = not must_stop()
                was_let_go |= may_begin
                _write(process.stdin, may_begin)
            except (OSError, EOFError):
                self._end()
                if self._closed:
                    return _CUT if was_let_go else _UNSENT
                return None

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._end()
        try:
            # In a session of its own, so that what a terminal sends to the worker does not end a mail half-way.
            self._process = process = subprocess.Popen(
                [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
            )
            assert process.stdout is not None
            if self._closed:
                raise TrialUnavailableError
            _read(process.stdout)
        except (OSError, EOFError) as error:
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


class _Permission:
    """Asks the worker whether the mail may still be begun; without a worker it may not."""

    def __init__(self) -> None:
        self.was_given = False

    def is_refused(self) -> bool:
        try:
            _write(sys.stdout.buffer, _MAY_BEGIN)
            may_begin: bool = _read(sys.stdin.buffer)
        except (OSError, EOFError):
            return True
        self.was_given |= may_begin
        return not may_begin


async def _send(trial: Trial, settings: SmtpSettings, permission: _Permission) -> Outcome | str:
    try:
        composer = JobComposer(trial.profile, trial.content, trial.message_id_domain)
        mail = composer.compose(trial.recipient, trial.delivery_id, trial.date)
    except ContentError as error:
        return f"{error.field}: {error.message}"
    esp = settings.open_esp(trial.relay_url)
    [outcome] = await esp.send([mail], permission.is_refused)
    await esp.close()
    return outcome


def _answer(trial: Trial, settings: SmtpSettings) -> Outcome | str:
    """Sends a mail. An exception proves nothing against it, unless it has eaten up all memory."""
    permission = _Permission()
    try:
        return asyncio.run(_send(trial, settings, permission))
    except MemoryError:
        raise
    except Exception as error:
        verdict = Verdict.unknown if permission.was_given else Verdict.deferred
        return Outcome(verdict, reply=f"the trial failed with {type(error).__name__}")


def main() -> None:
    """Answers trials until standard input ends."""
    # Whoever stops the worker may signal all its processes. When a mail is cut short is for the worker to decide.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))
    settings = SmtpSettings()
    _write(sys.stdout.buffer, _READY)
    with suppress(OSError, EOFError):
        while True:
            _write(sys.stdout.buffer, _answer(_read(sys.stdin.buffer), settings))


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
