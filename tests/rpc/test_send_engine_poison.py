"""A mail that kills what composes or sends it is set aside after three attempts, and nobody else ever is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import pytest

from messmail.send_engine.v1 import send_engine_pb2 as pb
from tests.rpc.test_send_engine_control import deliveries
from tests.send_engine_fixtures import Engines, Installation, send_engine, send_engine_engines, wait_until

__all__ = ["Engines", "send_engine", "send_engine_engines"]

LEASE_SECONDS = 1.0
# Runs first in every process of the worker: composing, or sending, a mail to a poisonous address kills the process.
POISONS = {
    "compose": """
from send_engine.composing.job_mail import JobComposer as victim
name = "compose"
def is_poison(arguments): return arguments[0].address.startswith("poison")
""",
    "send": """
from send_engine.esp.smtp import SmtpEsp as victim
name = "send"
def is_poison(arguments): return any(mail.recipient.startswith("poison") for mail in arguments[0])
""",
}
KILL = """
import os, signal, sys
if "worker" in sys.orig_argv or "send_engine.trials" in sys.orig_argv:
    {poison}
    whole = getattr(victim, name)
    def deadly(self, *arguments):
        if is_poison(arguments):
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(self, *arguments)
    setattr(victim, name, deadly)
"""


class WorkerProcess:
    """A worker of its own process, started again whenever it is lost."""

    def __init__(self, installation: Installation, folder: Path, poison: str) -> None:
        code = KILL.format(poison=POISONS[poison].strip().replace("\n", "\n    ")) if poison else ""
        (folder / "sitecustomize.py").write_text(code)
        settings = installation.settings(
            send_engine_smtp_url=f"smtp://{installation.sink.address}", send_engine_lease_seconds=LEASE_SECONDS
        )
        path = os.pathsep.join([str(folder), *sys.path])
        self._environment = {**os.environ, "PYTHONPATH": path} | {k.upper(): str(v) for k, v in settings.items()}
        self.losses = 0
        self._stopping = Event()
        self._start()
        self._thread = Thread(target=self._watch, daemon=True)
        self._thread.start()

    def kill(self) -> None:
        self.process.kill()

    def stop(self) -> None:
        self._stopping.set()
        self.process.send_signal(signal.SIGTERM)
        self._thread.join(60)

    def _start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "messmail_cli", "worker"], env=self._environment, stderr=subprocess.DEVNULL
        )

    def _watch(self) -> None:
        while True:
            self.process.wait()
            if self._stopping.is_set():
                return
            self.losses += 1
            self._start()


@contextmanager
def worker_process(installation: Installation, folder: Path, poison: str = "") -> Iterator[WorkerProcess]:
    worker = WorkerProcess(installation, folder, poison)
    try:
        yield worker
    finally:
        worker.stop()


@pytest.mark.timeout(180)
@pytest.mark.parametrize("poison", POISONS)
def test_a_poisonous_mail_costs_two_workers_and_three_attempts_and_the_rest_goes_on(
    send_engine: Installation, tmp_path: Path, poison: str
) -> None:
    newsletter = send_engine.member_center.newsletter(people=60)
    deadly = list(newsletter.people.values())[30]
    deadly.address = f"poison-{deadly.address}"
    job = send_engine.create(newsletter)
    with worker_process(send_engine, tmp_path, poison) as worker:
        done = send_engine.wait(job, seconds=120)
        assert worker.losses == 2
    assert (done.counters.sent, done.counters.failed) == (59, 1)
    [aside] = deliveries(send_engine, job, pb.DELIVERY_STATE_FAILED)
    assert (aside.subscription_id, aside.reason, aside.attempts) == (str(deadly.subscription_id), "poison", 3)
    received = set(send_engine.sink.recipients())
    assert received == {person.address for person in newsletter.people.values()} - {deadly.address}


@pytest.mark.timeout(180)
def test_a_mail_over_which_worker_after_worker_was_killed_by_chance_is_sent(
    send_engine: Installation, tmp_path: Path
) -> None:
    newsletter = send_engine.member_center.newsletter(people=3)
    # Long enough in the sink that each kill finds the mails under way.
    send_engine.sink.delay = 1.5
    job = send_engine.create(newsletter)
    with worker_process(send_engine, tmp_path) as worker:
        for losses in (1, 2):
            wait_until(lambda: send_engine.get(job).counters.sending > 0, "mails under way", 30)
            worker.kill()
            wait_until(lambda losses=losses: worker.losses == losses, "the loss")  # type: ignore[misc]
            wait_until(lambda: send_engine.get(job).counters.sending == 0, "the lapse", 30)
        # Each is alone now, and its worker is killed once more.
        wait_until(lambda: send_engine.get(job).counters.sending == 1, "a mail alone", 30)
        worker.kill()
        done = send_engine.wait(job, seconds=90)
    assert done.counters.sent == 3
    assert Counter(send_engine.sink.recipients()).keys() == {one.address for one in newsletter.people.values()}
