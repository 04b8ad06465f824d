"""From what a tenant typed to what a strict server keeps: no byte is added, lost or smuggled on the way."""

import random
from datetime import UTC, datetime

import pytest
import uvloop

from send_engine.composing import Content, JobComposer, ListProfile, Recipient
from send_engine.esp.port import ComposedMail, Outcome, Verdict
from send_engine.esp.smtp import SmtpEsp
from tests.claims_table import cases
from tests.smtp_server import ONE_BY_ONE, PIPELINED, SmtpServer

PROFILE = ListProfile("list-1", "Weekly", "Acme", "news@acme.example", None, "bounce@acme.example", "en")
NOW = datetime(2026, 11, 23, 9, 30, tzinfo=UTC)
PIECES = [
    "\r\n.\r\n",
    "\n.\n",
    "\r.\r",
    ".",
    "..",
    "\r\n.\r\nMAIL FROM:<evil@example.net>\r\nRCPT TO:<evil@example.net>\r\nDATA\r\n",
    "\n.\r\nRSET\r\n",
    "\x00",
    "\r",
    "\n",
    "\r\n",
    "\r\r\n",
    "\x1a",
    "週報",
    "😀",
    "x" * 1_200,
    " \t ",
    "=2E",
    "QUIT\r\n",
    "plain text",
]


def random_mails(rng: random.Random, count: int) -> list[ComposedMail]:
    mails = []
    for number in range(count):
        html, text = ("".join(rng.choices(PIECES, k=rng.randrange(30))) for _ in range(2))
        content = Content(f"No. {number}", html if rng.random() < 0.7 else None, text, template=False)
        to = Recipient(f"reader{number}@example.org", {}, f"https://mail.example/u/{number}", "https://mail.example/p")
        mails.append(JobComposer(PROFILE, content, "mail.example").compose(to, f"d-{number}", NOW))
    return mails


@pytest.mark.claim(
    "I2", "random bodies at a strict sink: byte for byte, after unstuffing", asked=10_000, run=cases(5000, least=400)
)
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("extensions", [PIPELINED, ONE_BY_ONE], ids=["pipelined", "one by one"])
def test_a_strict_server_receives_every_body_byte_for_byte(extensions: tuple[str, ...]) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    mails = random_mails(random.Random(seed), cases(5000, least=400))

    async def send() -> tuple[list[Outcome], SmtpServer]:
        async with SmtpServer(extensions=extensions) as server:
            esp = SmtpEsp(server.url, connections=2)
            outcomes = await esp.send(mails, lambda: False)
            await esp.close()
            return outcomes, server

    outcomes, server = uvloop.run(send())
    assert {outcome.verdict for outcome in outcomes} == {Verdict.accepted}
    assert server.violations == []
    got = {received.recipient: received.data for received in server.mails}
    assert len(server.mails) == len(got) == len(mails)
    for mail in mails:
        lines = mail.data.split(b"\r\n")
        assert got[mail.recipient] == b"\r\n".join(line[1:] if line.startswith(b".") else line for line in lines)
    assert not any("evil" in command for command in server.commands)
