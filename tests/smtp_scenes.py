"""Scenes between our SMTP client and the scripted server: the server, what the client does, and what came of it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import uvloop

from send_engine.esp.port import ComposedMail, Outcome, Verdict
from send_engine.esp.smtp import SmtpEsp
from send_engine.esp.timeouts import Timeouts
from tests.smtp_server import SmtpServer

T = TypeVar("T")

PATIENT = Timeouts(connect=20, greeting=20, mail=20, rcpt=20, data=20, block=20, final_dot=20, quit=2)


def mail(number: int = 0, size: int = 100) -> ComposedMail:
    data = b"Subject: one\r\n\r\n" + (b"0123456789" * 99 + b"\r\n") * (size // 992) + b"end\r\n"
    return ComposedMail("bounce@list.example", f"reader{number}@example.org", data, smtputf8=False, eight_bit=False)


def mails(count: int) -> list[ComposedMail]:
    return [mail(number) for number in range(count)]


def never() -> bool:
    return False


def verdicts(outcomes: list[Outcome]) -> list[Verdict]:
    return [outcome.verdict for outcome in outcomes]


def play(
    server: SmtpServer, scene: Callable[[SmtpEsp], Awaitable[T]], connections: int = 1, **options: object
) -> tuple[T, SmtpServer]:
    async def run() -> tuple[T, SmtpServer]:
        async with server:
            esp = SmtpEsp(server.url, connections=connections, **{"timeouts": PATIENT, **options})  # type: ignore[arg-type]
            result = await scene(esp)
            await esp.close()
            return result, server

    return uvloop.run(run())


async def until(condition: Callable[[], bool]) -> None:
    """Waits for a condition, at most ten seconds."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)
