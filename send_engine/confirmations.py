"""Sends the confirmation mails that wait in Member Center's outbox: lease, compose, send, acknowledge.

What is not acknowledged in time is leased again, so a confirmation may arrive twice; that is better than not at all.
Newsletters cannot hold them up: they have a thread and SMTP connections of their own.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

import structlog

from send_engine.composing import ContentError, compose_confirmation
from send_engine.esp.port import ComposedMail, Outcome, Verdict
from send_engine.esp_accounts import EspAccounts
from send_engine.mail_loop import MailLoop
from send_engine.recipients import ConfirmationMail, ConfirmationResult, Recipients
from send_engine.records import DeliveryState
from servicekit.errors import MessmailError

PAGE_SIZE = 100
LEASE_SECONDS = 60
POLL_SECONDS = 0.25
_LONGEST_REST_SECONDS = 2.0
# No confirmation is begun so late that its lease could end under way.
_SEND_SECONDS = LEASE_SECONDS / 2

_STATES = {Verdict.accepted: DeliveryState.SENT, Verdict.failed: DeliveryState.FAILED}

_log = structlog.get_logger()


class Confirmations:
    """Sends confirmation mails for one worker process."""

    def __init__(
        self, recipients: Recipients, accounts: EspAccounts, loop: MailLoop, stopping: threading.Event
    ) -> None:
        self._recipients = recipients
        self._accounts = accounts
        self._loop = loop
        self._stopping = stopping

    def run(self) -> None:
        """Sends what is due until it is asked to stop: every POLL_SECONDS, and at once while a page was full."""
        rest = POLL_SECONDS
        more = False
        while not self._stopping.wait(0 if more else rest):
            try:
                more = self.send_page()
                rest = POLL_SECONDS
            except MessmailError as error:
                more, rest = False, min(2 * rest, _LONGEST_REST_SECONDS)
                _log.warning("confirmations.wait", reason=error.status.name)
            except Exception:
                more, rest = False, _LONGEST_REST_SECONDS
                _log.exception("confirmations.crashed")

    def send_page(self) -> bool:
        """Sends a page of confirmation mails, and tells whether there may be more. Raises MessmailError."""
        leased, more = self._recipients.lease_confirmations(PAGE_SIZE, LEASE_SECONDS)
        if not leased:
            return False
        composed, results = _compose(leased)
        for tenant_id, mails in composed.items():
            outcomes = self._send(tenant_id, [mail for _, mail in mails])
            results += [_result(mail, outcome) for (mail, _), outcome in zip(mails, outcomes, strict=True)]
        self._recipients.acknowledge_confirmations(results)
        return more

    def _send(self, tenant_id: UUID, mails: Sequence[ComposedMail]) -> list[Outcome]:
        latest = time.monotonic() + _SEND_SECONDS
        sending = self._accounts.of(tenant_id).esp.send(
            mails, lambda: self._stopping.is_set() or time.monotonic() > latest
        )
        return self._loop.submit(sending).result()


def _compose(
    leased: Sequence[ConfirmationMail],
) -> tuple[dict[UUID, list[tuple[ConfirmationMail, ComposedMail]]], list[ConfirmationResult]]:
    """Composes the mails, tenant by tenant; those of which no mail can be made have failed."""
    now = datetime.now(UTC)
    composed = defaultdict(list)
    failed = []
    for mail in leased:
        try:
            made = compose_confirmation(
                mail.profile, mail.address, mail.confirm_url, mail.language, str(mail.mail_id), now
            )
        except ContentError as error:
            failed.append(ConfirmationResult(mail, DeliveryState.FAILED, f"{error.field}: {error.message}"))
        else:
            composed[mail.tenant_id].append((mail, made))
    return composed, failed


def _result(mail: ConfirmationMail, outcome: Outcome) -> ConfirmationResult:
    reply = outcome.reply if outcome.code is None else f"{outcome.code} {outcome.reply}"
    return ConfirmationResult(mail, _STATES.get(outcome.verdict, DeliveryState.PENDING), reply)
