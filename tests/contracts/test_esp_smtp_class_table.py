"""What every reply, silence and cut at every phase means for a mail, and that it means nothing for the next one.

Each case hits the first of three mails on one connection, with and without PIPELINING. Whatever happens to it, the
other two must be accepted, and the server must have what was accepted and nothing else. What hits a session before its
first mail defers all three, and the next session carries them.
"""

import time
from dataclasses import dataclass, replace

import pytest
import uvloop

from send_engine.esp.port import Category, ComposedMail, Outcome, Verdict
from send_engine.esp.smtp import SmtpEsp
from send_engine.esp.timeouts import Timeouts
from send_engine.esp.url import SmtpAccount
from tests.smtp_server import CLOSE, HALF_CLOSE, HANG, ONE_BY_ONE, PIPELINED, RESET, Act, SmtpServer, say, say_and

S3 = pytest.mark.claim("S3", "SMTP replies, silences and cuts at every phase", asked=200)

SCALED_DOWN = Timeouts(connect=5, greeting=5, mail=0.4, rcpt=0.4, data=0.4, block=0.4, final_dot=0.4, quit=0.4)
PATIENT = Timeouts(connect=20, greeting=20, mail=20, rcpt=20, data=20, block=20, final_dot=20, quit=2)

# Each mail has a body of its own, so that none can go to another's recipient unseen.
BODY = b"Subject: %d\r\n\r\n..a line that begins with a dot\r\n"
UNSTUFFED = b"Subject: %d\r\n\r\n.a line that begins with a dot\r\n"

accepted, deferred, failed, unknown = Verdict.accepted, Verdict.deferred, Verdict.failed, Verdict.unknown
mailbox, policy, content, network = Category.mailbox, Category.policy, Category.content, Category.network


@dataclass(frozen=True)
class Case:
    phase: str
    act: Act
    verdict: Verdict
    code: int | None = None
    enhanced: str | None = None
    category: Category | None = None

    def __str__(self) -> str:
        return f"{self.phase}: {self.act} is {self.verdict}"


LONG_LINE = Act(b"2" * 1_000_000 + b"\r\n")
LONG_REPLY = Act(b"250-on and on\r\n" * 5_000 + b"250 end\r\n")

CASES = [
    # A reply decides by its first digit, its enhanced code says whose trouble it is.
    Case("mail", say("451 4.3.0 Try again"), deferred, 451, "4.3.0", network),
    Case("mail", say("450 4.7.1 Not now"), deferred, 450, "4.7.1", policy),
    Case("mail", say("550 5.7.1 Not you"), failed, 550, "5.7.1", policy),
    Case("mail", say("552 5.3.4 Too big"), failed, 552, "5.3.4", content),
    Case("mail", say("553 5.1.8 Sender unknown"), failed, 553, "5.1.8", policy),
    Case("mail", say("501 Syntax"), failed, 501, None, network),
    Case("rcpt", say("450 4.2.1 Mailbox busy"), deferred, 450, "4.2.1", mailbox),
    Case("rcpt", say("450 4.7.1 Greylisted"), deferred, 450, "4.7.1", policy),
    Case("rcpt", say("451 Local error"), deferred, 451, None, network),
    Case("rcpt", say("452 4.2.2 Full"), deferred, 452, "4.2.2", mailbox),
    Case("rcpt", say("550 5.1.1 No such user"), failed, 550, "5.1.1", mailbox),
    Case("rcpt", say("550-5.1.1 No such user,\n550 5.1.1 really"), failed, 550, "5.1.1", mailbox),
    Case("rcpt", say("550 No such user"), failed, 550, None, mailbox),
    Case("rcpt", say("551 Moved"), failed, 551, None, mailbox),
    Case("rcpt", say("552 5.2.2 Over quota"), failed, 552, "5.2.2", mailbox),
    Case("rcpt", say("554 5.7.1 Blocked"), failed, 554, "5.7.1", policy),
    Case("rcpt", say("554 Blocked"), failed, 554, None, policy),
    Case("data", say("451 4.3.0 Not now"), deferred, 451, "4.3.0", network),
    Case("data", say("554 5.7.1 No"), failed, 554, "5.7.1", policy),
    Case("data", say("554 No"), failed, 554, None, content),
    Case("dot", say("250 Ok"), accepted, 250),
    Case("dot", say("250"), accepted, 250),
    Case("dot", say("250-2.0.0 Ok\n250 2.0.0 queued"), accepted, 250, "2.0.0"),
    Case("dot", Act(b"250 2.0.0 Ok\r\n", seconds=0.2), accepted, 250, "2.0.0"),
    Case("dot", say("451 4.7.0 Later"), deferred, 451, "4.7.0", policy),
    Case("dot", say("452 4.3.1 Disk full"), deferred, 452, "4.3.1", network),
    Case("dot", say("550 5.7.1 Spam"), failed, 550, "5.7.1", policy),
    Case("dot", say("550 5.2.1 Disabled"), failed, 550, "5.2.1", mailbox),
    Case("dot", say("552 Too big"), failed, 552, None, content),
    Case("dot", say("554 5.6.0 Malformed"), failed, 554, "5.6.0", content),
    Case("dot", say("554 Rejected"), failed, 554, None, content),
    # 421 ends the session, and is a deferral wherever it comes.
    Case("mail", say_and("close", "421 4.3.2 Closing"), deferred, 421, "4.3.2", network),
    Case("rcpt", say_and("close", "421 4.7.0 Too fast"), deferred, 421, "4.7.0", policy),
    Case("data", say_and("close", "421 Closing"), deferred, 421, None, network),
    Case("dot", say_and("close", "421 4.3.2 Closing"), deferred, 421, "4.3.2", network),
    Case("rcpt", say("421 4.3.2 Closing, but not really"), deferred, 421, "4.3.2", network),
    # Before the final dot any loss is a deferral.
    Case("mail", RESET, deferred, category=network),
    Case("mail", CLOSE, deferred, category=network),
    Case("mail", HALF_CLOSE, deferred, category=network),
    Case("rcpt", RESET, deferred, category=network),
    Case("rcpt", CLOSE, deferred, category=network),
    Case("rcpt", HALF_CLOSE, deferred, category=network),
    Case("data", RESET, deferred, category=network),
    Case("data", CLOSE, deferred, category=network),
    Case("data", HALF_CLOSE, deferred, category=network),
    # After it, any end without a reply is unknown; with a reply it is what the reply says.
    Case("dot", RESET, unknown, category=network),
    Case("dot", CLOSE, unknown, category=network),
    Case("dot", HALF_CLOSE, unknown, category=network),
    Case("dot", say_and("close", "250 2.0.0 Ok"), accepted, 250, "2.0.0"),
    Case("dot", say_and("half_close", "250 2.0.0 Ok"), accepted, 250, "2.0.0"),
    Case("dot", say_and("reset", "250 2.0.0 Ok"), accepted, 250, "2.0.0"),
    Case("dot", say_and("close", "550 5.7.1 No"), failed, 550, "5.7.1", policy),
    # What is no reply counts like a loss.
    Case("mail", say("hello"), deferred, category=network),
    Case("mail", say("354 what?"), deferred, category=network),
    Case("rcpt", say("25"), deferred, category=network),
    Case("rcpt", Act(b"\x00\xff\xfe\r\n"), deferred, category=network),
    Case("rcpt", say("250-yes\n550 no"), deferred, category=network),
    Case("rcpt", LONG_LINE, deferred, category=network),
    Case("rcpt", LONG_REPLY, deferred, category=network),
    Case("data", say("250 Ok"), deferred, category=network),
    Case("data", say("354 Go\n250 Ok"), deferred, category=network),
    Case("dot", say("hello"), unknown, category=network),
    Case("dot", say("199 less than nothing"), unknown, category=network),
    Case("dot", say("600 more than all"), unknown, category=network),
    Case("dot", say("354 Go on"), unknown, category=network),
    Case("dot", LONG_LINE, unknown, category=network),
    Case("dot", LONG_REPLY, unknown, category=network),
    Case("dot", Act(b"250 2.0.0 Ok without a line end", then="close"), unknown, category=network),
]

# Whose trouble a refusal without an enhanced code is, as the answer to MAIL, RCPT, DATA and the final dot.
BARE = {
    421: (network, network, network, network),
    450: (policy, mailbox, policy, policy),
    451: (network, network, network, network),
    452: (network, network, network, network),
    454: (policy, policy, policy, policy),
    500: (network, network, network, network),
    501: (network, network, network, network),
    503: (network, network, network, network),
    530: (policy, policy, policy, policy),
    550: (policy, mailbox, policy, policy),
    551: (policy, mailbox, policy, policy),
    552: (content, mailbox, content, content),
    553: (policy, mailbox, policy, policy),
    554: (policy, policy, content, content),
    555: (network, network, network, network),
    556: (policy, mailbox, policy, policy),
}
# RFC 3463: subject and detail, and whose trouble it is wherever it is said.
ENHANCED = {
    "1.1": mailbox,
    "1.2": mailbox,
    "1.7": policy,
    "1.8": policy,
    "1.10": mailbox,
    "2.1": mailbox,
    "2.2": mailbox,
    "3.2": network,
    "3.4": content,
    "4.1": network,
    "4.7": network,
    "5.3": network,
    "6.1": content,
    "7.1": policy,
    "7.26": policy,
}
REFUSALS = [
    *(
        Case(phase, say(f"{code} Said so"), deferred if code < 500 else failed, code, None, category)
        for code, categories in BARE.items()
        for phase, category in zip(("mail", "rcpt", "data", "dot"), categories, strict=True)
    ),
    *(
        Case(phase, say(f"{code} {number}.{detail} So"), verdict, code, f"{number}.{detail}", category)
        for detail, category in ENHANCED.items()
        for phase in ("rcpt", "dot")
        for verdict, number, code in ((deferred, 4, 450), (failed, 5, 550))
    ),
]

SILENCES = [
    Case("mail", HANG, deferred, category=network),
    Case("rcpt", HANG, deferred, category=network),
    Case("data", HANG, deferred, category=network),
    Case("dot", HANG, unknown, category=network),
    Case("dot", Act(b"250-and then", then="hang"), unknown, category=network),
]

# Before the first mail it is about us, so that even a 5xx only defers.
OPENINGS = [
    *(
        case
        for phase in ("greeting", "ehlo", "auth")
        for case in (
            Case(phase, say_and("close", "421 4.3.2 Not now"), deferred, 421, "4.3.2", network),
            Case(phase, say("454 4.7.0 Not now"), deferred, 454, "4.7.0", policy),
            Case(phase, say("550 5.7.1 Not you"), deferred, 550, "5.7.1", policy),
            Case(phase, say("554 Not you"), deferred, 554, None, policy),
            Case(phase, RESET, deferred, category=network),
            Case(phase, CLOSE, deferred, category=network),
            Case(phase, HALF_CLOSE, deferred, category=network),
            Case(phase, HANG, deferred, category=network),
            Case(phase, say("hello"), deferred, category=network),
            Case(phase, say("199 hello"), deferred, category=network),
            Case(phase, say("354 hello"), deferred, category=network),
            Case(phase, LONG_LINE, deferred, category=network),
            Case(phase, LONG_REPLY, deferred, category=network),
        )
    ),
    Case("helo", say("550 5.7.1 Not you"), deferred, 550, "5.7.1", policy),
    Case("helo", RESET, deferred, category=network),
]

# What comes between two mails harms neither. The first act of a pair is for the first mail.
BETWEEN = [
    *(
        ("rset", [act])
        for act in (
            say_and("close", "421 4.3.2 Closing"),
            say("500 What?"),
            say("354 What?"),
            say("hello"),
            RESET,
            CLOSE,
            HALF_CLOSE,
            HANG,
        )
    ),
    *(("mail", [say("250 Ok"), act]) for act in (say_and("close", "421 4.3.2 Closing"), RESET, CLOSE, HALF_CLOSE)),
]


def mail(number: int) -> ComposedMail:
    recipient, body = f"reader{number}@example.org", BODY % number
    return ComposedMail("bounce@list.example", recipient, body, smtputf8=False, eight_bit=False)


def assert_each_has_its_own(server: SmtpServer) -> None:
    bodies = {f"reader{number}@example.org": UNSTUFFED % number for number in range(3)}
    assert all(received.data == bodies[received.recipient] for received in server.mails)


def send_three(case: Case, extensions: tuple[str, ...], timeouts: Timeouts) -> None:
    async def act_it_out() -> tuple[list[Outcome], SmtpServer]:
        async with SmtpServer(script={case.phase: [case.act]}, extensions=extensions) as server:
            esp = SmtpEsp(server.url, connections=1, timeouts=timeouts)
            outcomes = await esp.send([mail(0), mail(1), mail(2)], lambda: False)
            await esp.close()
            return outcomes, server

    (first, *others), server = uvloop.run(act_it_out())
    assert (first.verdict, first.code, first.enhanced, first.category) == (
        case.verdict,
        case.code,
        case.enhanced,
        case.category,
    ), first
    assert [outcome.verdict for outcome in others] == [accepted, accepted], others
    taken = {received.recipient for received in server.mails}
    assert {"reader1@example.org", "reader2@example.org"} <= taken
    if case.verdict is not unknown:
        assert ("reader0@example.org" in taken) == (case.verdict is accepted)
    assert len(server.mails) == len(taken), "a mail was sent twice"
    assert_each_has_its_own(server)
    assert server.violations == []


@S3
@pytest.mark.parametrize("extensions", [PIPELINED, ONE_BY_ONE], ids=["pipelined", "one by one"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_reply_or_cut_means_what_the_table_says(case: Case, extensions: tuple[str, ...]) -> None:
    send_three(case, extensions, PATIENT)


@S3
@pytest.mark.parametrize("extensions", [PIPELINED, ONE_BY_ONE], ids=["pipelined", "one by one"])
@pytest.mark.parametrize("case", SILENCES, ids=str)
def test_silence_ends_after_the_time_of_its_phase(case: Case, extensions: tuple[str, ...]) -> None:
    limit = "final_dot" if case.phase == "dot" else case.phase
    started = time.monotonic()
    send_three(case, extensions, replace(PATIENT, **{limit: 0.4}))
    assert 0.4 <= time.monotonic() - started < PATIENT.mail / 2


@S3
@pytest.mark.parametrize("case", REFUSALS, ids=str)
def test_a_refusal_says_whose_trouble_it_is(case: Case) -> None:
    send_three(case, PIPELINED, PATIENT)


@S3
@pytest.mark.parametrize("case", OPENINGS, ids=str)
def test_a_session_that_is_not_opened_defers_and_the_next_one_carries(case: Case) -> None:
    script = {case.phase: [case.act]} | ({"ehlo": [say("502 5.5.1 What?")]} if case.phase == "helo" else {})

    async def act_it_out() -> tuple[list[Outcome], list[Outcome], SmtpServer]:
        extensions = (*PIPELINED, "AUTH PLAIN")
        async with SmtpServer(script=script, extensions=extensions, credentials=("acme", "secret")) as server:
            user, password = ("acme", "secret") if case.phase == "auth" else (None, None)
            account = SmtpAccount("localhost", server.port, user=user, password=password)
            esp = SmtpEsp(account, connections=1, timeouts=replace(SCALED_DOWN, greeting=0.4))
            first = await esp.send([mail(0), mail(1), mail(2)], lambda: False)
            second = await esp.send([mail(0), mail(1), mail(2)], lambda: False)
            await esp.close()
            return first, second, server

    first, second, server = uvloop.run(act_it_out())
    assert {(outcome.verdict, outcome.code, outcome.category) for outcome in first} == {
        (case.verdict, case.code, case.category)
    }, first
    assert first[0].enhanced == case.enhanced
    assert [outcome.verdict for outcome in second] == [accepted] * 3, second
    assert len(server.mails) == 3
    assert_each_has_its_own(server)
    assert server.violations == []


@S3
@pytest.mark.parametrize("extensions", [PIPELINED, ONE_BY_ONE], ids=["pipelined", "one by one"])
@pytest.mark.parametrize(
    ("phase", "acts"), BETWEEN, ids=lambda value: value if isinstance(value, str) else str(value[-1])
)
def test_an_end_between_two_mails_harms_neither(phase: str, acts: list[Act], extensions: tuple[str, ...]) -> None:
    refusal = {"rcpt": [say("550 5.1.1 No")]} if phase == "rset" else {}

    async def act_it_out() -> tuple[list[Outcome], SmtpServer]:
        async with SmtpServer(script={phase: list(acts)} | refusal, extensions=extensions) as server:
            esp = SmtpEsp(server.url, connections=1, timeouts=SCALED_DOWN)
            outcomes = await esp.send([mail(0), mail(1), mail(2)], lambda: False)
            await esp.close()
            return outcomes, server

    outcomes, server = uvloop.run(act_it_out())
    expected = [failed if refusal else accepted, accepted, accepted]
    assert [outcome.verdict for outcome in outcomes] == expected, outcomes
    assert len(server.mails) == expected.count(accepted), "a mail was lost or sent twice"
    assert_each_has_its_own(server)
    assert server.violations == []


def test_the_time_limits_are_those_of_the_rfc() -> None:
    """RFC 5321 4.5.3.2."""
    limits = Timeouts()
    assert (limits.greeting, limits.mail, limits.rcpt, limits.data) == (300, 300, 300, 120)
    assert (limits.block, limits.final_dot) == (180, 600)


def test_the_table_has_the_two_hundred_cases_of_the_claim() -> None:
    assert 2 * len(CASES) + len(REFUSALS) + 2 * len(SILENCES) + len(OPENINGS) + 2 * len(BETWEEN) >= 200
