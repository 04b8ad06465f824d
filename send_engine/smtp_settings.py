"""How a worker speaks SMTP, from its environment: sessions, time limits of the phases, where access tokens lie.

The accounts themselves are not here; see `esp_accounts`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings

from send_engine.esp.smtp import SmtpEsp
from send_engine.esp.timeouts import Timeouts

_Seconds = Annotated[float, Field(gt=0)]


class SmtpSettings(BaseSettings):
    """Settings of the SMTP client. Times are in seconds, those of the phases RFC 5321 4.5.3.2's by default."""

    send_engine_smtp_connections: int = Field(default=4, ge=1)
    send_engine_smtp_mails_per_session: int = Field(default=1_000, ge=1)
    send_engine_smtp_session_seconds: _Seconds = 300.0
    send_engine_smtp_idle_seconds: _Seconds = 30.0
    send_engine_smtp_connect_seconds: _Seconds = 30.0
    send_engine_smtp_greeting_seconds: _Seconds = 300.0
    send_engine_smtp_mail_seconds: _Seconds = 300.0
    send_engine_smtp_rcpt_seconds: _Seconds = 300.0
    send_engine_smtp_data_seconds: _Seconds = 120.0
    send_engine_smtp_block_seconds: _Seconds = 180.0
    send_engine_final_dot_seconds: _Seconds = 600.0
    send_engine_smtp_quit_seconds: _Seconds = 2.0
    send_engine_smtp_token_folder: Path | None = None

    def open_esp(self, url: str) -> SmtpEsp:
        """Opens the account that a URL describes. Raises ValueError for a malformed one."""
        return SmtpEsp(
            url,
            connections=self.send_engine_smtp_connections,
            mails_per_session=self.send_engine_smtp_mails_per_session,
            session_seconds=self.send_engine_smtp_session_seconds,
            idle_seconds=self.send_engine_smtp_idle_seconds,
            timeouts=Timeouts(
                connect=self.send_engine_smtp_connect_seconds,
                greeting=self.send_engine_smtp_greeting_seconds,
                mail=self.send_engine_smtp_mail_seconds,
                rcpt=self.send_engine_smtp_rcpt_seconds,
                data=self.send_engine_smtp_data_seconds,
                block=self.send_engine_smtp_block_seconds,
                final_dot=self.send_engine_final_dot_seconds,
                quit=self.send_engine_smtp_quit_seconds,
            ),
            token_folder=self.send_engine_smtp_token_folder,
        )
