"""What strangers and tenants type into names, subjects and preferences: no header and no recipient comes of it."""

from __future__ import annotations

import email
import random
from collections import Counter
from datetime import UTC, datetime
from email.policy import default

import pytest
import uvloop

from send_engine.composing import Content, ContentError, JobComposer, ListProfile, Recipient
from send_engine.esp.port import ComposedMail, Outcome, Verdict
from send_engine.esp.smtp import SmtpEsp
from servicekit.addresses import AddressError, parse_mailbox
from tests.claims_table import ClaimRow, cases, hand_in_claim
from tests.policy.source_tree import PRODUCT, ROOT, imported_names
from tests.smtp_server import SmtpServer

FULL = 100_000
BATCH = 2000
NOW = datetime(2026, 11, 23, 9, 30, tzinfo=UTC)
HEADERS = [
    *("From", "To", "Subject", "Date", "Message-ID", "MIME-Version", "Content-Type", "Content-Transfer-Encoding"),
    *("List-Id", "List-Unsubscribe", "List-Unsubscribe-Post", "X-Messmail-Delivery"),
]
HOSTILE = [
    *("\r\n", "\n", "\r", "\0", "\x85", "\u2028", "\u2029", "\x0b", "\x0c", "\x1c", "\x1e", "\t", " ", "\r\n "),
    *("=?utf-8?q?=0d=0abcc:_evil@example.net?=", "=?utf-8?b?DQpCY2M6IGV2aWxAZXhhbXBsZS5uZXQ=?="),
    *("=?utf-8?q?", "?=", "=0A", "%0d%0a", "\\r\\n", "&#13;&#10;", "\r\n.\r\n", "\r\nRCPT TO:<evil@example.net>"),
    *("Bcc: evil@example.net", "\r\nBcc: evil@example.net\r\n", "\r\n\r\n<p>body</p>"),
    *("<evil@example.net>", ",evil@example.net", '"', "\\", "(", ")", ";", ":", "@", "😀", "\u202e", "\ufeff", "News"),
    *("x" * 998, "x" * 1200, "é" * 400, "週" * 300, "a " * 500, "e\u0301" * 200),
]


def hostile(chance: random.Random) -> str:
    return "".join(chance.choices(HOSTILE, k=chance.randrange(5)))


def half(chance: random.Random, harmless: str) -> str:
    """Something hostile, or something that lets the mail come to be, so that the other fields are seen at the sink."""
    return hostile(chance) if chance.random() < 0.4 else harmless


def mail_of(chance: random.Random, number: int) -> ComposedMail | None:
    """Composes a mail of what was typed; None where it was refused, where a person would be told why."""
    try:
        sender = parse_mailbox(f"{half(chance, 'Acme')} <{half(chance, 'news@acme.example')}>")
        profile = ListProfile(
            "list-1", half(chance, "Weekly"), sender.name, sender.address.address, None, "bounce@acme.example", "en"
        )
        template = chance.random() < 0.5
        subject = "For {{ preferences.name }}" if template else half(chance, "Weekly")
        content = Content(subject, None, "Hello {{ preferences.name }}" if template else hostile(chance), template)
        to = Recipient(
            f"reader{number}@example.org",
            {"name": half(chance, "Ann"), "lang": hostile(chance)},
            f"https://mail.example/u/{number}",
            "https://mail.example/p",
        )
        return JobComposer(profile, content, "mail.example").compose(to, f"d-{number}", NOW)
    except (AddressError, ContentError):
        return None


async def deliver(mails: list[ComposedMail]) -> tuple[list[Outcome], SmtpServer]:
    async with SmtpServer() as server:
        esp = SmtpEsp(server.url, connections=2)
        outcomes = await esp.send(mails, lambda: False)
        await esp.close()
        return outcomes, server


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_whatever_is_typed_adds_no_header_and_no_recipient(record_property: object) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    chance, run, arrived, wrong = random.Random(seed), cases(FULL), 0, list[str]()
    for start in range(0, run, BATCH):
        mails = [mail for number in range(start, min(start + BATCH, run)) if (mail := mail_of(chance, number))]
        outcomes, server = uvloop.run(deliver(mails))
        arrived += len(server.mails)
        wrong += server.violations
        wrong += [str(outcome) for outcome in outcomes if outcome.verdict is not Verdict.accepted]
        recipients = Counter(command for command in server.commands if command.upper().startswith("RCPT"))
        wrong += [command for command, times in recipients.items() if times != 1]
        wrong += [str(len(recipients))] if len(recipients) != len(mails) else []
        for received in server.mails:
            head = email.message_from_bytes(received.data, policy=default)
            extra = Counter(head.keys()) - Counter(HEADERS)
            wrong += [str(extra)] if extra or head["To"] != received.recipient else []
    what = "hostile names, subjects, senders and preferences: no extra header, no extra recipient at the sink"
    hand_in_claim(record_property, ClaimRow("I1", what, FULL, run, len(wrong)))
    assert wrong == []
    # Much is refused; but enough comes through to say something.
    assert arrived > run / 10


@pytest.mark.claim("I1", "the standard library's writer of mails, which CVE-2024-6923 was about: used nowhere")
def test_no_mail_is_written_by_the_standard_library() -> None:
    writers = ("email.generator", "email.mime", "email.policy", "email.message.EmailMessage", "smtplib")
    users = [
        (path.relative_to(ROOT).as_posix(), name)
        for package in PRODUCT
        for path in (ROOT / package).rglob("*.py")
        for name in imported_names(path.read_text(encoding="utf-8"), path.stem)
        if name.startswith(writers)
    ]
    assert users == []
