"""A trial heeds its worker, and only a process that died of its mail says anything about the mail."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from send_engine.composing import Content, ListProfile, Recipient
from send_engine.esp.port import Outcome, Verdict
from send_engine.trials import Trial, Trials
from tests.send_engine_fixtures import Sink, wait_until

LIST = "0b6c3c0e-5f2e-4c5b-9d2a-3a1d5a7c9e10"
PROFILE = ListProfile(LIST, "News", "Shop", "shop@example.com", None, "bounce@example.com", "en")
RAISES = """
import sys
if "send_engine.trials" in sys.orig_argv:
    from send_engine.composing.job_mail import JobComposer
    whole = JobComposer.compose
    def compose(self, recipient, *rest):
        if recipient.address.startswith("raise"):
            raise ValueError(recipient.address)
        return whole(self, recipient, *rest)
    JobComposer.compose = compose
"""


@pytest.fixture
def sink() -> Iterator[Sink]:
    made = Sink()
    yield made
    made.stop()


@pytest.fixture
def trials() -> Iterator[Trials]:
    made = Trials()
    yield made
    made.close()


def trial(sink: Sink, name: str) -> Trial:
    recipient = Recipient(f"{name}@mail.example", {}, "https://x.example/one", "https://x.example/preferences")
    content = Content("Hello", None, "Good morning.", template=False)
    delivery = "9d3e5b3a-6a0e-5d2c-8a5b-0d1c2b3a4f5e"
    return Trial(f"smtp://{sink.address}", PROFILE, content, "example.com", recipient, delivery, datetime.now(UTC))


def never() -> bool:
    return False


def ignore() -> None:
    pass


def test_a_trial_sends_one_mail_after_the_other(sink: Sink, trials: Trials) -> None:
    for name in ("ada", "bob"):
        answer = trials.make(trial(sink, name), ignore, never)
        assert isinstance(answer, Outcome)
        assert answer.verdict is Verdict.accepted
    assert sink.recipients() == ["ada@mail.example", "bob@mail.example"]


def test_a_trial_that_must_stop_begins_no_mail(sink: Sink, trials: Trials) -> None:
    answer = trials.make(trial(sink, "ada"), ignore, lambda: True)
    assert isinstance(answer, Outcome)
    assert (answer.verdict, answer.begun) == (Verdict.unsent, False)
    assert sink.accepted == []


def test_who_waits_for_another_trial_looks_meanwhile_and_stops(sink: Sink, trials: Trials) -> None:
    sink.delay = 3.0
    first = threading.Thread(target=trials.make, args=(trial(sink, "ada"), ignore, never))
    first.start()
    wait_until(lambda: sink.accepted, "the first mail under way")
    looks: list[float] = []
    answer = trials.make(trial(sink, "bob"), lambda: looks.append(time.monotonic()), lambda: len(looks) > 1)
    assert isinstance(answer, Outcome)
    assert answer.verdict is Verdict.unsent
    assert first.is_alive()
    first.join()
    assert sink.recipients() == ["ada@mail.example"]


def test_closing_does_not_wait_for_the_mail_under_way_which_is_unknown(sink: Sink, trials: Trials) -> None:
    sink.delay = 60.0
    answers: list[Outcome | str | None] = []
    making = threading.Thread(target=lambda: answers.append(trials.make(trial(sink, "ada"), ignore, never)))
    making.start()
    wait_until(lambda: sink.accepted, "the mail under way")
    began_at = time.monotonic()
    trials.close()
    making.join(5)
    assert time.monotonic() - began_at < 5
    [answer] = answers
    assert isinstance(answer, Outcome)
    assert answer.verdict is Verdict.unknown


def test_signals_to_all_processes_do_not_end_a_trial(sink: Sink, trials: Trials) -> None:
    sink.delay = 1.0
    answers: list[Outcome | str | None] = []
    making = threading.Thread(target=lambda: answers.append(trials.make(trial(sink, "ada"), ignore, never)))
    making.start()
    wait_until(lambda: sink.accepted, "the mail under way")
    assert trials._process is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        trials._process.send_signal(number)
    making.join(10)
    [answer] = answers
    assert isinstance(answer, Outcome)
    assert answer.verdict is Verdict.accepted


def test_an_exception_defers_the_mail_and_the_next_one_is_sent(
    sink: Sink, trials: Trials, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(RAISES)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    answer = trials.make(trial(sink, "raise"), ignore, never)
    assert answer == Outcome(Verdict.deferred, reply="the trial failed with ValueError")
    answer = trials.make(trial(sink, "ada"), ignore, never)
    assert isinstance(answer, Outcome)
    assert answer.verdict is Verdict.accepted


def test_only_a_process_that_dies_in_the_middle_is_proof(sink: Sink, trials: Trials) -> None:
    sink.delay = 60.0
    process = None

    def look() -> None:
        nonlocal process
        process = trials._process
        if sink.accepted and process is not None:
            process.kill()

    assert trials.make(trial(sink, "ada"), look, never) is None
    assert process is not None


def test_an_answer_that_nobody_waited_for_is_not_taken_for_that_to_the_next_mail(sink: Sink, trials: Trials) -> None:
    sink.delay = 1.0

    def look() -> None:
        if sink.accepted:
            raise ValueError("no look")

    with pytest.raises(ValueError, match="no look"):
        trials.make(trial(sink, "ada"), look, never)
    sink.answer = lambda recipient, attempt: b"550 5.1.1 gone\r\n"
    answer = trials.make(trial(sink, "bob"), ignore, never)
    assert isinstance(answer, Outcome)
    assert answer.verdict is Verdict.failed
