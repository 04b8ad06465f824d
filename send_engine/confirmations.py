"""Sends the confirmation mails that wait in Member Center's outbox: lease, compose, send, acknowledge.

The mails of a page go out together, account by account, and each is acknowledged once its own end is known. No account
holds up another: the mails of one that is slow wait in the outbox. What is not acknowledged in time is leased again, so
a confirmation may arrive twice; that is better than not at all. Newsletters cannot hold them up: they have threads and
SMTP connections of their own.
"""

from __future__ import annotations

import math
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from datetime import UTC, datetime
from queue import SimpleQueue
from uuid import UUID

import structlog

from send_engine.composing import ContentError, compose_confirmation
from send_engine.esp.port import ComposedMail, Esp, Outcome, Verdict
from send_engine.esp_accounts import EspAccounts
from send_engine.mail_loop import MailLoop
from send_engine.recipients import ConfirmationMail, ConfirmationResult, Recipients
from send_engine.records import DeliveryState
from servicekit.errors import MessmailError

PAGE_SIZE = 100
LEASE_SECONDS = 60
POLL_SECONDS = 0.25
# What Member Center takes in one call.
ACKNOWLEDGED_AT_ONCE = 500
_LONGEST_REST_SECONDS = 2.0
# No confirmation is begun so late that its lease could end under way.
_SEND_SECONDS = LEASE_SECONDS / 2
# More of an account would only wait past _SEND_SECONDS.
_MOST_UNDER_WAY = 2 * PAGE_SIZE
# An account with a mail under way for so long is slow: it no longer counts as busy, and what is more than a page waits.
_SLOW_SECONDS = 5.0
# What is under way when the worker stops may end in this time.
_FAREWELL_SECONDS = 1.0

_BROKE_OFF = Outcome(Verdict.deferred, reply="sending broke off")
_STATES = {Verdict.accepted: DeliveryState.SENT, Verdict.failed: DeliveryState.FAILED}

# A leased mail, ready to be sent.
_Made = tuple[ConfirmationMail, ComposedMail]

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
        # When (monotonic) each mail under way was leased, the oldest first, by account.
        self._under_way: defaultdict[Esp, dict[ConfirmationMail, float]] = defaultdict(dict)
        self._pages: list[Future[None]] = []
        # Filled by the event loop.
        self._ended: SimpleQueue[tuple[Esp, ConfirmationMail, Outcome]] = SimpleQueue()
        # What Member Center has not taken yet: a sent mail that it does not know of is sent again.
        self._results: list[ConfirmationResult] = []

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
        wait(self._pages, _FAREWELL_SECONDS)
        try:
            self._acknowledge_ended()
        except MessmailError as error:
            _log.warning("confirmations.wait", reason=error.status.name)

    def _begin_page(self) -> bool:
        """Begins to send a page of mails, and tells whether there may be more. Raises MessmailError."""
        busy = sum(len(mails) for esp, mails in self._under_way.items() if not self._is_slow(esp))
        room = min(PAGE_SIZE, _MOST_UNDER_WAY - busy)
        if room <= 0:
            return False
        leased_at = time.monotonic()
        leased, more = self._recipients.lease_confirmations(room, LEASE_SECONDS)
        for esp, mails in self._by_account(self._compose(leased)).items():
            if self._is_slow(esp) and len(self._under_way[esp]) >= PAGE_SIZE:
                self._results += [_deferred(mail, "the relay is slow") for mail, _ in mails]
            else:
                self._begin(esp, mails, leased_at)
        return more

    def _begin(self, esp: Esp, mails: Sequence[_Made], leased_at: float) -> None:
        open_ones = {index: mail for index, (mail, _) in enumerate(mails)}

        def abort() -> bool:
            return self._stopping.is_set() or time.monotonic() > leased_at + _SEND_SECONDS

        def settled(index: int, outcome: Outcome) -> None:
            self._ended.put((esp, open_ones.pop(index), outcome))

        async def send() -> None:
            try:
                await esp.send([composed for _, composed in mails], abort, settled)
            except Exception as error:
                _log.warning("confirmations.deferred", mails=len(open_ones), error=type(error).__name__)
            for index in list(open_ones):
                settled(index, _BROKE_OFF)

        self._under_way[esp].update((mail, leased_at) for mail, _ in mails)
        self._pages = [page for page in self._pages if not page.done()]
        self._pages.append(self._loop.submit(send()))

    def _acknowledge_ended(self) -> None:
        """Acknowledges what has ended, and forgets what has outlived its lease. Raises MessmailError."""
        while not self._ended.empty():
            esp, mail, outcome = self._ended.get()
            self._under_way[esp].pop(mail, None)
            self._results.append(_result(mail, outcome))
        lapsed = time.monotonic() - LEASE_SECONDS
        for esp, mails in self._under_way.items():
            self._under_way[esp] = {mail: leased_at for mail, leased_at in mails.items() if leased_at > lapsed}
        while self._results:
            self._recipients.acknowledge_confirmations(self._results[:ACKNOWLEDGED_AT_ONCE])
            del self._results[:ACKNOWLEDGED_AT_ONCE]

    def _compose(self, leased: Sequence[ConfirmationMail]) -> Iterator[_Made]:
        """Composes mails; those of which none can be made have failed."""
        now = datetime.now(UTC)
        for mail in leased:
            try:
                composed = compose_confirmation(
                    mail.profile, mail.address, mail.confirm_url, mail.language, str(mail.mail_id), now
                )
            except ContentError as error:
                reply = f"{error.field}: {error.message}"
                self._results.append(ConfirmationResult(mail, DeliveryState.FAILED, reply))
            else:
                yield mail, composed

    def _by_account(self, made: Iterable[_Made]) -> dict[Esp, list[_Made]]:
        """Sorts mails by the account that they leave through; those whose account cannot be opened are deferred."""
        by_tenant: defaultdict[UUID, list[_Made]] = defaultdict(list)
        by_account: defaultdict[Esp, list[_Made]] = defaultdict(list)
        for mail, composed in made:
            by_tenant[mail.tenant_id].append((mail, composed))
        for tenant_id, mails in by_tenant.items():
            try:
                by_account[self._accounts.of(tenant_id).esp] += mails
            except Exception as error:
                # Its text could quote the account.
                _log.warning("confirmations.deferred", tenant_id=str(tenant_id), error=type(error).__name__)
                self._results += [_deferred(mail, "the ESP account cannot be opened") for mail, _ in mails]
        return by_account

    def _is_slow(self, esp: Esp) -> bool:
        oldest = next(iter(self._under_way[esp].values()), math.inf)
        return time.monotonic() > oldest + _SLOW_SECONDS


def _result(mail: ConfirmationMail, outcome: Outcome) -> ConfirmationResult:
    reply = outcome.reply if outcome.code is None else f"{outcome.code} {outcome.reply}"
    return ConfirmationResult(mail, _STATES.get(outcome.verdict, DeliveryState.PENDING), reply)


def _deferred(mail: ConfirmationMail, reply: str) -> ConfirmationResult:
    return ConfirmationResult(mail, DeliveryState.PENDING, reply)
