"""Which replies ask us to slow down, and for how long."""

from __future__ import annotations

import pytest

from send_engine.esp.replies import Phase, classify
from send_engine.esp.smtp import SmtpEsp
from send_engine.esp_accounts import EspAccount
from send_engine.pacing import Pacing
from send_engine.passed_by import PassedBy
from send_engine.permits import Permits
from send_engine.records import OPERATOR
from send_engine.throttles import LONGEST_REST_SECONDS, is_relays, is_throttle, rest_asked_for, slowdowns
from servicekit.database import Database


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (421, b"4.7.28 Our system has detected an unusual rate of mail"),
        (421, b"4.7.0 Too fast"),
        (450, b"4.7.28 Unusual rate"),
        (451, b"4.7.1 Rate limit exceeded"),
        (452, b"Too many messages, slow down"),
        (452, b"4.3.2 Not now"),
    ],
)
def test_a_reply_about_our_pace_is_a_throttle(code: int, text: bytes) -> None:
    assert is_throttle(classify(code, text, Phase.rcpt))


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (450, b"4.2.1 The user you are trying to contact is receiving mail too quickly"),
        (452, b"4.2.2 The recipient has too many messages"),
        (421, b"4.2.1 The user is receiving mail at a rate that prevents more"),
        (451, b"4.1.8 Too many mails of this sender"),
        (450, b"5.2.1 Too many mails"),
        (451, b"4.7.1 Greylisted, try again in 300 seconds"),
        (550, b"5.7.1 Too many mails"),
        (250, b"2.0.0 Too many mails"),
    ],
)
def test_a_reply_about_one_mailbox_and_one_that_puts_nothing_off_are_no_throttles(code: int, text: bytes) -> None:
    assert not is_throttle(classify(code, text, Phase.rcpt))


@pytest.mark.parametrize("phase", list(Phase))
def test_only_what_a_relay_says_once_it_knows_the_recipient_slows_a_domain(phase: Phase) -> None:
    outcome = classify(421, b"4.7.0 Too many connections, try again in 60 seconds", phase)
    knows = phase in {Phase.rcpt, Phase.data, Phase.final_dot}
    assert slowdowns([("a.example", outcome)], 1.0) == ({"a.example": (1.0, 60.0)} if knows else {})
    assert (is_throttle(outcome), is_relays(outcome)) == (knows, not knows)


@pytest.mark.parametrize(
    ("reply", "seconds"),
    [
        ("Try again in 5 minutes", 300),
        ("try again in 60", 60),
        ("try again in 60.", 60),
        ("Please retry after 90 seconds", 90),
        ("wait 2 min. and come back", 120),
        ("retry in 30s", 30),
        ("wait 1 hour", LONGEST_REST_SECONDS),
        ("try again later from [212.27.42.1]", 0),
        ("try again later from 212.27.42.1 mx", 0),
        ("try again later, see rule 4711", 0),
        ("try another server, mx12 saw you", 0),
        ("try again later (in 10.0.0.1)", 0),
        ("try again later", 0),
        ("421 4.7.0 slow down", 0),
    ],
)
def test_only_a_number_that_is_a_time_is_one(reply: str, seconds: float) -> None:
    assert rest_asked_for(reply) == seconds


def test_an_account_rests_whose_relay_is_too_busy_for_any_mail() -> None:
    pacing = Pacing(Permits(Database("postgresql://nobody@127.0.0.1:1/none", pool_size=1, name="none")), PassedBy())
    url = "smtp://127.0.0.1:1"
    busy, slowed = (classify(421, b"4.7.0 Too fast", phase) for phase in (Phase.mail, Phase.rcpt))
    # What was answered for its own sake is recorded. A relay that ends its sessions after some mails is not too busy.
    for outcomes, is_shut, rests in (
        ([busy], True, True),
        ([busy, busy, slowed], False, True),
        ([busy, slowed], False, False),
        ([slowed], False, False),
    ):
        account = EspAccount(SmtpEsp(url), OPERATOR, url)
        assert pacing.is_shut(account, outcomes) is is_shut
        assert (account.circuit.rest() > 0) is rests
