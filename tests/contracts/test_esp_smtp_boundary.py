"""Where a mail begins and where it is handed over: what the caller's wish to stop and the end of a long body mean."""

import time

import pytest

from send_engine.esp.port import Verdict
from send_engine.esp.timeouts import Timeouts
from tests.smtp_scenes import mail, mails, never, play, verdicts
from tests.smtp_server import CLOSE, HANG, RESET, Act, SmtpServer, say_and

# ---- the caller's wish to stop


def test_an_abort_from_the_start_begins_nothing() -> None:
    outcomes, server = play(SmtpServer(), lambda esp: esp.send(mails(5), lambda: True))
    assert verdicts(outcomes) == [Verdict.unsent] * 5
    assert server.mails == []


def test_after_an_abort_no_further_mail_is_begun_and_the_sum_is_right() -> None:
    server = SmtpServer()
    outcomes, _ = play(server, lambda esp: esp.send(mails(500), lambda: len(server.mails) >= 10), connections=2)
    count = verdicts(outcomes).count
    assert count(Verdict.accepted) == len(server.mails) < 20
    assert count(Verdict.accepted) + count(Verdict.unsent) == 500


@pytest.mark.parametrize("phase", ["greeting", "ehlo", "mail", "rcpt", "data"])
def test_an_abort_ends_the_wait_for_a_silent_server(phase: str) -> None:
    started = time.monotonic()
    outcomes, server = play(
        SmtpServer(script={phase: [HANG] * 9}),
        lambda esp: esp.send(mails(3), lambda: time.monotonic() - started > 0.2),
        connections=2,
    )
    assert verdicts(outcomes) == [Verdict.unsent] * 3
    assert time.monotonic() - started < 10
    assert server.mails == []


def test_an_abort_waits_for_the_answer_to_a_final_dot() -> None:
    server = SmtpServer(script={"dot": [Act(b"250 2.0.0 Ok\r\n", seconds=1.5)]})

    def dot_is_out() -> bool:
        return any(command == "DATA" for command in server.commands)

    outcomes, _ = play(server, lambda esp: esp.send(mails(3), dot_is_out))
    assert verdicts(outcomes)[1:] == [Verdict.unsent] * 2
    assert verdicts(outcomes)[0] is (Verdict.accepted if server.mails else Verdict.unsent)


# ---- bodies larger than the buffers


BIG = 24 * 1024 * 1024


def test_a_large_body_arrives_whole() -> None:
    outcomes, server = play(
        SmtpServer(), lambda esp: esp.send([mail(0, size=BIG), mail(1, size=40_000), mail(2)], never)
    )
    assert verdicts(outcomes) == [Verdict.accepted] * 3
    assert [received.data for received in server.mails] == [mail(size=BIG).data, mail(size=40_000).data, mail().data]


@pytest.mark.parametrize(
    ("act", "verdict", "code"),
    [
        (RESET, Verdict.deferred, None),
        (CLOSE, Verdict.deferred, None),
        (HANG, Verdict.deferred, None),
        (say_and("hang", "552 5.3.4 Too big"), Verdict.failed, 552),
        (say_and("hang", "250 2.0.0 Ok, whatever comes"), Verdict.deferred, None),
    ],
    ids=["reset", "close", "silence", "early refusal", "early acceptance"],
)
def test_an_end_before_the_body_is_out_is_before_the_boundary(act: Act, verdict: Verdict, code: int | None) -> None:
    cutting = SmtpServer(script={"body": [act]}, body_limit=200_000)
    outcomes, server = play(
        cutting, lambda esp: esp.send([mail(0, size=BIG)], never), timeouts=Timeouts(block=0.5, quit=0.2)
    )
    assert (outcomes[0].verdict, outcomes[0].code) == (verdict, code)
    assert server.mails == []
