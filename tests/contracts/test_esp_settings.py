"""The SMTP client does what the environment of its worker says."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import uvloop
from pydantic import ValidationError

from send_engine.esp.port import ComposedMail, Outcome, Verdict
from send_engine.smtp_settings import SmtpSettings
from tests.smtp_server import HANG, PIPELINED, SmtpServer

MAILS = [ComposedMail("bounce@list.example", f"reader{n}@example.org", b"x\r\n", False, False) for n in range(3)]


def send(server: SmtpServer, url: str = "") -> list[Outcome]:
    async def run() -> list[Outcome]:
        async with server:
            esp = SmtpSettings().open_esp((url or "smtp://127.0.0.1:{port}").format(port=server.port))
            outcomes = await esp.send(MAILS, lambda: False)
            await esp.close()
            return outcomes

    return uvloop.run(run())


@pytest.mark.parametrize(
    ("variable", "phase", "verdict"),
    [
        ("SEND_ENGINE_SMTP_GREETING_SECONDS", "greeting", Verdict.deferred),
        ("SEND_ENGINE_SMTP_MAIL_SECONDS", "mail", Verdict.deferred),
        ("SEND_ENGINE_SMTP_RCPT_SECONDS", "rcpt", Verdict.deferred),
        ("SEND_ENGINE_SMTP_DATA_SECONDS", "data", Verdict.deferred),
        ("SEND_ENGINE_FINAL_DOT_SECONDS", "dot", Verdict.unknown),
    ],
)
def test_a_phase_lasts_as_long_as_its_setting(
    monkeypatch: pytest.MonkeyPatch, variable: str, phase: str, verdict: Verdict
) -> None:
    monkeypatch.setenv(variable, "0.3")
    monkeypatch.setenv("SEND_ENGINE_SMTP_CONNECTIONS", "1")
    monkeypatch.setenv("SEND_ENGINE_SMTP_QUIT_SECONDS", "0.3")
    started = time.monotonic()
    outcomes = send(SmtpServer(script={phase: [HANG]}))
    assert outcomes[0].verdict is verdict
    assert 0.3 <= time.monotonic() - started < 10


def test_sessions_are_as_many_and_as_long_as_the_settings_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEND_ENGINE_SMTP_CONNECTIONS", "1")
    monkeypatch.setenv("SEND_ENGINE_SMTP_MAILS_PER_SESSION", "1")
    server = SmtpServer()
    assert {outcome.verdict for outcome in send(server)} == {Verdict.accepted}
    assert (server.connections, server.most_connections) == (3, 1)


def test_access_tokens_lie_where_the_setting_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "acme").write_text("token-1")
    monkeypatch.setenv("SEND_ENGINE_SMTP_TOKEN_FOLDER", str(tmp_path))
    server = SmtpServer(extensions=(*PIPELINED, "AUTH XOAUTH2"), credentials=("acme", "token-1"))
    outcomes = send(server, "smtp+xoauth2://acme@127.0.0.1:{port}?token=acme")
    assert {outcome.verdict for outcome in outcomes} == {Verdict.accepted}


@pytest.mark.parametrize("variable", ["SEND_ENGINE_SMTP_CONNECTIONS", "SEND_ENGINE_SMTP_MAIL_SECONDS"])
def test_a_setting_that_would_stop_everything_is_refused(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "0")
    with pytest.raises(ValidationError):
        SmtpSettings()
