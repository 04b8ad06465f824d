"""Sends the confirmation mails that wait in Member Center's outbox: lease, compose, send, acknowledge.

Every mail is sent for itself and acknowledged once its end is known, so no relay, tenant or recipient holds up another.
What is not acknowledged in time is leased again, so a confirmation may arrive twice; that is better than not at all.
Newsletters cannot hold them up: they have a thread and SMTP connections of their own.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
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
# Room for the next page while one waits for a slow relay; more would only wait past _SEND_SECONDS.
_MOST_UNDER_WAY = 2 * PAGE_SIZE
# What is under way when the worker stops may end in this time.
_FAREWELL_SECONDS = 1.0

_STATES = {Verdict.accepted: DeliveryState.SENT, Verdict.failed: DeliveryState.FAILED}

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, eq=False)
class _Sending:
    """A mail under way, and when (monotonic) its lease is over."""

    mail: ConfirmationMail
    lapses_at: float
    outcomes: Future[list[Outcome]]


class Confirmations:
    """Sends confirmation mails for one worker process."""

    def __init__(
        self, recipients: Recipients, accounts: EspAccounts, loop: MailLoop, stopping: threading.Event
    ) -> None:
        self._recipients = recipients
        self._accounts = accounts
        self._loop = loop
        self._stopping = stopping
        self._under_way: list[_Sending] = []

    def run(self) -> None:
        """Sends what is due until it is asked to stop: every POLL_SECONDS, and at once while a page was full."""
        rest = POLL_SECONDS
        more = False
        while not self._stopping.wait(0 if more else rest):
            try:
                self._acknowledge_ended()
                more = self._begin_page()
                rest = POLL_SECONDS
            except MessmailError as error:
                more, rest = False, min(2 * rest, _LONGEST_REST_SECONDS)
                _log.warning("confirmations.wait", reason=error.status.name)
            except Exception:
                more, rest = False, _LONGEST_REST_SECONDS
                _log.exception("confirmations.crashed")
        wait([sending.outcomes for sending in self._under_way], _FAREWELL_SECONDS)
        try:
            self._acknowledge_ended()
        except MessmailError as error:
            _log.warning("confirmations.wait", reason=error.status.name)

    def _begin_page(self) -> bool:
        """Begins to send a page of mails, and tells whether there may be more. Raises MessmailError."""
        room = min(PAGE_SIZE, _MOST_UNDER_WAY - len(self._under_way))
        if room <= 0:
            return False
        leased_at = time.monotonic()
        leased, more = self._recipients.lease_confirmations(room, LEASE_SECONDS)
        composed, failed = _compose(leased)
        self._acknowledge(failed)
        for tenant_id, mails in composed.items():
            try:
                self._begin(tenant_id, mails, leased_at)
            except Exception as error:
                # Its text could quote the account.
                _log.warning("confirmations.deferred", tenant_id=str(tenant_id), error=type(error).__name__)
                self._acknowledge([_deferred(mail, "the ESP account cannot be opened") for mail, _ in mails])
        return more

    def _begin(self, tenant_id: UUID, mails: Sequence[tuple[ConfirmationMail, ComposedMail]], leased_at: float) -> None:
        esp = self._accounts.of(tenant_id).esp

        def abort() -> bool:
            return self._stopping.is_set() or time.monotonic() > leased_at + _SEND_SECONDS

        self._under_way += [
            _Sending(mail, leased_at + LEASE_SECONDS, self._loop.submit(esp.send([made], abort)))
            for mail, made in mails
        ]

    def _acknowledge_ended(self) -> None:
        """Acknowledges what has ended, and forgets what has outlived its lease. Raises MessmailError."""
        ended = [sending for sending in self._under_way if sending.outcomes.done()]
        now = time.monotonic()
        going_on = [sending for sending in self._under_way if now < sending.lapses_at and sending not in ended]
        # Only what Member Center has taken may be forgotten: a sent mail that it does not know of is sent again.
        self._acknowledge([_result(sending) for sending in ended])
        self._under_way = going_on

    def _acknowledge(self, results: Sequence[ConfirmationResult]) -> None:
        if results:
            self._recipients.acknowledge_confirmations(results)


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


def _result(sending: _Sending) -> ConfirmationResult:
    error = sending.outcomes.exception()
    if error is not None:
        _log.warning("confirmations.deferred", tenant_id=str(sending.mail.tenant_id), error=type(error).__name__)
        return _deferred(sending.mail, "sending broke off")
    (outcome,) = sending.outcomes.result()
    reply = outcome.reply if outcome.code is None else f"{outcome.code} {outcome.reply}"
    return ConfirmationResult(sending.mail, _STATES.get(outcome.verdict, DeliveryState.PENDING), reply)


def _deferred(mail: ConfirmationMail, reply: str) -> ConfirmationResult:
    return ConfirmationResult(mail, DeliveryState.PENDING, reply)
