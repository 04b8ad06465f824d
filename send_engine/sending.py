"""Sends one claimed batch, group by group: mark, ask for consent, compose, send, record.

No consent answer, no mail: the group is given back. A mail that cannot be composed fails its recipient only. While the
ledger cannot be written, nothing further is sent and the results wait to be recorded.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from datetime import datetime
from uuid import UUID

import structlog

from send_engine.composing import Content, ContentError, JobComposer, ListProfile
from send_engine.deliveries import BatchLostError, HeldBatch, Ledger
from send_engine.esp.port import ComposedMail, Outcome, Verdict
from send_engine.esp_accounts import EspAccount, EspAccounts
from send_engine.mail_loop import MailLoop
from send_engine.pacing import Group, Pacing
from send_engine.passed_by import PassedBy
from send_engine.recipients import Consent, Recipients
from send_engine.records import Addressee, Claim, DeliveryState, Result, SendOrder
from send_engine.throttles import is_relays, is_throttle
from send_engine.trials import Trial, Trials, TrialUnavailableError
from servicekit.errors import MessmailError, Reason

LOOK_SECONDS = 0.3
# An answer about consent is good for this long: what a slow relay has not begun by then is asked about again.
CONSENT_FRESH_SECONDS = 10.0
# How long a batch rests when Member Center does not answer.
CONSENT_RETRY_SECONDS = 5.0
# How long a batch rests when no process for a trial can be started.
TRIAL_RETRY_SECONDS = 5.0
# For how long a tenant is passed by whose ESP account cannot be opened.
ACCOUNT_RETRY_SECONDS = 15.0
# How long a batch rests after an error that nobody foresaw.
FAULT_RETRY_SECONDS = 5.0
_WRITE_RETRY_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0)
_PREPARED_JOBS = 16

_STATES = {
    Verdict.accepted: DeliveryState.SENT,
    Verdict.deferred: DeliveryState.PENDING,
    Verdict.failed: DeliveryState.FAILED,
    Verdict.unknown: DeliveryState.UNKNOWN,
    Verdict.unsent: DeliveryState.PENDING,
}

_log = structlog.get_logger()


def delivery_id(job_id: UUID, subscription_id: bytes) -> str:
    """Returns the id of a delivery: the same for every attempt, so that a mail sent twice can be told.

    It is uuid5(job_id, the subscription in hex), written out because that takes several times as long.
    """
    digest = hashlib.sha1(job_id.bytes + subscription_id.hex().encode(), usedforsecurity=False).hexdigest()
    variant = "89ab"[int(digest[16], 16) & 3]
    return f"{digest[:8]}-{digest[8:12]}-5{digest[13:16]}-{variant}{digest[17:20]}-{digest[20:32]}"


def message_id_domain(profile: ListProfile) -> str:
    """Returns the domain that Message-IDs of a list are made in: that of its From address."""
    return profile.from_address.rpartition("@")[2]


class Sending:
    """Sends batches for one worker process. Each call of carry_out has a thread of its own."""

    def __init__(
        self,
        ledger: Ledger,
        pacing: Pacing,
        recipients: Recipients,
        accounts: EspAccounts,
        loop: MailLoop,
        trials: Trials,
        passed_by: PassedBy,
        stopping: threading.Event,
        hurrying: threading.Event,
    ) -> None:
        """stopping asks to end after the group under way, hurrying asks to begin no further mail of it."""
        self._ledger = ledger
        self._pacing = pacing
        self._recipients = recipients
        self._accounts = accounts
        self._loop = loop
        self._trials = trials
        self._passed_by = passed_by
        self._stopping = stopping
        self._hurrying = hurrying
        self._prepared: OrderedDict[UUID, tuple[SendOrder, JobComposer]] = OrderedDict()
        self._lock = threading.Lock()

    def carry_out(self, held: HeldBatch) -> None:
        """Sends a batch until it is done, or its turn is over. Raises MessmailError when the database is away."""
        claim = held.claim
        try:
            order, composer = self._prepare(claim)
            held.settle_lapse(order)
            while not held.is_done:
                if self._stopping.is_set() or held.turn_is_over:
                    held.release()
                    return
                if not self._send_group(held, order, composer):
                    return
        except BatchLostError:
            _log.warning("batch.lost", batch=str(claim.batch_id), fence=claim.fence)

    def _send_group(self, held: HeldBatch, order: SendOrder, composer: JobComposer) -> bool:
        """Sends the next group; False when the batch is not held any more."""
        account = self._open_account(held)
        if account is None:
            return False
        try:
            marked = self._pacing.mark(held, account)
            if marked is None:
                return False
            must_stop = self._must_stop(held)
            consent = self._authorize(held, order, marked, composer)
            if consent is None:
                return False
            composed = None if held.is_suspect else _compose(marked.addressees, order.job_id, consent, composer)
        except BatchLostError:
            raise
        except Exception:
            # No mail was begun. Left marked, these rows would be taken for mails that a lost worker may have sent.
            self._release(held, FAULT_RETRY_SECONDS)
            raise
        began_at = time.monotonic()
        if composed is None:
            try:
                results, sent = self._try_alone(held, order, account, marked.addressees, consent, must_stop)
            except TrialUnavailableError:
                _log.exception("batch.no_trial", batch=str(held.claim.batch_id))
                self._pacing.give_back(marked, marked.addressees)
                self._release(held, TRIAL_RETRY_SECONDS)
                return False
        else:
            results, mails = composed
            outcomes = self._hand_over(held, account, [mail for _, mail in mails], must_stop)
            sent = [(addressee, outcome) for (addressee, _), outcome in zip(mails, outcomes, strict=True)]
        seconds = time.monotonic() - began_at
        if self._pacing.is_shut(account, [outcome for _, outcome in sent]):
            _log.warning("batch.no_session", batch=str(held.claim.batch_id), reply=sent[0][1].reply)
            self._pacing.give_back(marked, marked.addressees)
            self._release(held)
            return False
        results += [_result(addressee, outcome) for addressee, outcome in sent]
        self._record(held, results + marked.waiting, order)
        self._pacing.heed(marked, account, sent, seconds)
        return True

    def _open_account(self, held: HeldBatch) -> EspAccount | None:
        """Returns the account of a batch's tenant; when it cannot be opened gives the batch back and returns None."""
        claim = held.claim
        try:
            return self._accounts.of(claim.tenant_id)
        except MessmailError:
            raise
        except Exception as error:
            # Its text could quote the account.
            _log.warning("batch.no_account", batch=str(claim.batch_id), error=type(error).__name__)
            self._passed_by.add(claim.tenant_id, ACCOUNT_RETRY_SECONDS)
            held.release()
            return None

    def _authorize(self, held: HeldBatch, order: SendOrder, marked: Group, composer: JobComposer) -> Consent | None:
        """Asks who of a marked group may be mailed; without an answer gives the batch back and returns None."""
        group = marked.addressees
        if not group:
            return Consent(datetime.min, {}, {})
        try:
            return self._recipients.authorize(
                order.tenant_id,
                order.list_id,
                [addressee.subscription_id for addressee in group],
                with_preferences_urls=composer.shows_preferences_url,
            )
        except MessmailError as error:
            if error.reason not in (Reason.ERROR_REASON_LIST_NOT_FOUND, Reason.ERROR_REASON_TENANT_NOT_FOUND):
                _log.warning("batch.no_consent_answer", batch=str(held.claim.batch_id), reason=error.status.name)
                self._pacing.give_back(marked, group)
                self._release(held, CONSENT_RETRY_SECONDS)
                return None
            gone = {addressee.subscription_id: "list_gone" for addressee in group}
            return Consent(datetime.min, {}, gone)

    def _hand_over(
        self, held: HeldBatch, account: EspAccount, mails: Sequence[ComposedMail], must_stop: Callable[[], bool]
    ) -> list[Outcome]:
        """Sends the mails, and looks meanwhile whether they still may be begun."""
        if not mails:
            return []
        # Consent may have taken its time, and a cancel must bite within a second.
        _try_to_look(held)
        begun_at = time.monotonic()
        outcomes = self._wait(held, self._loop.submit(account.esp.send(mails, must_stop)))
        begun = sum(outcome.begun for outcome in outcomes)
        account.group_size.measured(begun, time.monotonic() - begun_at)
        return outcomes

    def _try_alone(
        self,
        held: HeldBatch,
        order: SendOrder,
        account: EspAccount,
        group: Sequence[Addressee],
        consent: Consent,
        must_stop: Callable[[], bool],
    ) -> tuple[list[Result], list[tuple[Addressee, Outcome]]]:
        """Sends mails that may be what workers were lost over. Raises TrialUnavailableError; then none was begun.

        One that its process dies of is set aside.
        """
        results, sent = list[Result](), list[tuple[Addressee, Outcome]]()
        profile, content = ListProfile(**order.profile), _content_of(order)
        for addressee in group:
            recipient = consent.authorized.get(addressee.subscription_id)
            if recipient is None:
                results.append(_refused(addressee, consent))
                continue
            delivery = delivery_id(order.job_id, addressee.subscription_id)
            trial = Trial(
                account.url, profile, content, message_id_domain(profile), recipient, delivery, consent.read_at
            )
            answer = self._trials.make(trial, lambda: _try_to_look(held), must_stop)
            if isinstance(answer, Outcome):
                sent.append((addressee, answer))
                continue
            reason = "poison" if answer is None else "content"
            _log.warning("delivery.set_aside", delivery=delivery, reason=reason)
            results.append(Result(addressee.ordinal, DeliveryState.FAILED, reason, answer or ""))
        return results, sent

    def _must_stop(self, held: HeldBatch) -> Callable[[], bool]:
        """Returns what tells whether no further mail may be begun, with consent that is asked for now.

        The age of consent counts from the question: composing and looking at the ledger take their time too.
        """
        stale_at = time.monotonic() + CONSENT_FRESH_SECONDS
        clock, held_must_stop, is_hurrying = time.monotonic, held.must_stop, self._hurrying.is_set
        return lambda: clock() > stale_at or held_must_stop() or is_hurrying()

    def _wait(self, held: HeldBatch, sending: Future[list[Outcome]]) -> list[Outcome]:
        while True:
            try:
                return sending.result(timeout=LOOK_SECONDS)
            except TimeoutError:
                if sending.done():
                    return sending.result()
                _try_to_look(held)

    def _record(self, held: HeldBatch, results: Sequence[Result], order: SendOrder) -> None:
        """Records, again and again while the database does not take it: these mails are out."""
        self._insist(held, lambda: held.record(results, order), self._hurrying.is_set)
        self._insist(held, held.heed_budget, self._hurrying.is_set)

    def _release(self, held: HeldBatch, delay: float | None = None) -> None:
        """Gives a batch back of whose group no mail was begun, again and again until its lease is over."""
        self._insist(held, lambda: held.release(delay), lambda: held.lease_is_over or self._hurrying.is_set())

    def _insist(self, held: HeldBatch, write: Callable[[], None], gives_up: Callable[[], bool]) -> None:
        """Writes to the ledger, again while the database does not take it. Raises UNAVAILABLE when it gives up."""
        tries = 0
        while True:
            try:
                write()
            except MessmailError as error:
                if error.reason != Reason.ERROR_REASON_UNAVAILABLE or gives_up():
                    raise
                delay = _WRITE_RETRY_SECONDS[min(tries, len(_WRITE_RETRY_SECONDS) - 1)]
                _log.warning("batch.write_waits", batch=str(held.claim.batch_id), tries=tries)
                tries += 1
                time.sleep(delay)
            else:
                return

    def _prepare(self, claim: Claim) -> tuple[SendOrder, JobComposer]:
        with self._lock:
            prepared = self._prepared.get(claim.job_id)
        if prepared is None:
            order = self._ledger.order(claim)
            prepared = order, composer_of(order)
            with self._lock:
                self._prepared[claim.job_id] = prepared
                while len(self._prepared) > _PREPARED_JOBS:
                    self._prepared.popitem(last=False)
        return prepared


def composer_of(order: SendOrder) -> JobComposer:
    """Prepares what does not vary between the mails of a job. Raises ContentError."""
    profile = ListProfile(**order.profile)
    return JobComposer(profile, _content_of(order), message_id_domain(profile))


def _content_of(order: SendOrder) -> Content:
    return Content(order.subject, order.body_html, order.body_text, order.template)


def _compose(
    group: Sequence[Addressee], job_id: UUID, consent: Consent, composer: JobComposer
) -> tuple[list[Result], list[tuple[Addressee, ComposedMail]]]:
    """Composes the mails of those who may be mailed; the others have their result already.

    A mail over which composing fails in a way that nobody foresaw is put off, and the others go on.
    """
    results, mails = [], []
    for addressee in group:
        recipient = consent.authorized.get(addressee.subscription_id)
        if recipient is None:
            results.append(_refused(addressee, consent))
            continue
        try:
            mail = composer.compose(recipient, delivery_id(job_id, addressee.subscription_id), consent.read_at)
        except ContentError as error:
            results.append(
                Result(addressee.ordinal, DeliveryState.FAILED, "content", f"{error.field}: {error.message}")
            )
        except Exception as error:
            # Its text could quote the recipient.
            fault = type(error).__name__
            _log.warning("delivery.not_composed", job=str(job_id), error=fault)
            results.append(Result(addressee.ordinal, DeliveryState.PENDING, reply=f"composing failed with {fault}"))
        else:
            mails.append((addressee, mail))
    return results, mails


def _refused(addressee: Addressee, consent: Consent) -> Result:
    # Who is in neither part of the answer was not authorized either.
    reason = consent.refused.get(addressee.subscription_id, "no_answer")
    return Result(addressee.ordinal, DeliveryState.SUPPRESSED, reason, tried=False)


def _result(addressee: Addressee, outcome: Outcome) -> Result:
    reply = outcome.reply if outcome.code is None else f"{outcome.code} {outcome.reply}"
    return Result(
        addressee.ordinal,
        _STATES[outcome.verdict],
        reason="" if outcome.category is None else outcome.category.value,
        reply=reply,
        # What a relay says of our pace before it knows the recipient is no attempt at that mail.
        tried=outcome.begun and not is_relays(outcome),
        domain=addressee.domain if is_throttle(outcome) else "",
    )


def _try_to_look(held: HeldBatch) -> None:
    try:
        held.look(LOOK_SECONDS)
    except MessmailError:
        # After a moment without a look no further mail is begun (must_stop).
        _log.warning("batch.cannot_look", batch=str(held.claim.batch_id))
