"""Subscriptions: asking for one, confirming it, ending it. Each is one transaction, with its line in the consent log.

The rules are in consent, what a link carries in links. Answers to strangers are the same, and cost the same commits,
whether or not the address is known.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from member_center import consent
from member_center.address_hashes import AddressHashes
from member_center.limits import Limiter
from member_center.links import Links
from member_center.lists import Lists, check_members_scope
from member_center.records.consent import (
    Answer,
    Evidence,
    Link,
    LogEntry,
    Preferences,
    Purpose,
    Standing,
    Status,
    Subscription,
    Through,
)
from member_center.records.installation import NewsletterList
from member_center.storage import subscriptions as subscription_store
from member_center.storage import suppressions as suppression_store
from servicekit.access import Caller
from servicekit.addresses import EmailAddress
from servicekit.database import BriefTransaction, Database, Run
from servicekit.errors import MessmailError
from servicekit.languages import spoken

UNSUBSCRIBE_TOKEN_LIFE = timedelta(hours=1)
_THROUGH = {
    Purpose.CONFIRM_API: Through.CONFIRM_TOKEN,
    Purpose.CONFIRM_MAIL: Through.MAILED_LINK,
    Purpose.UNSUBSCRIBE: Through.UNSUBSCRIBE_TOKEN,
    Purpose.ONE_CLICK: Through.ONE_CLICK,
}


@dataclass(frozen=True, slots=True)
class Person:
    """Whom a call is about: an address on a list. tenant_id is None where the caller is bound to no tenant."""

    tenant_id: UUID | None
    list_id: UUID
    address: EmailAddress


@dataclass(frozen=True, slots=True)
class Asked:
    """What whoever asked is told; without a token where the list returns none, and where none is needed."""

    status: Status
    confirm_token: str = field(default="", repr=False)


class Subscriptions:
    """The subscriptions of one installation."""

    def __init__(self, database: Database, lists: Lists, links: Links, limiter: Limiter, hashes: AddressHashes) -> None:
        self._database = database
        self._lists = lists
        self._links = links
        self._limiter = limiter
        self._hashes = hashes

    def subscribe(self, caller: Caller, person: Person, preferences: Preferences | None, evidence: Evidence) -> Asked:
        """Asks for a subscription, and queues its confirmation mail.

        Evidence with a text is proof of the consent, and confirms whoever never decided. Raises LIST_NOT_FOUND,
        TOKEN_MISSING, SCOPE_MISSING or RATE_LIMITED.
        """
        try:
            found = self._lists.get_for(caller, person.list_id, person.tenant_id)
            if evidence.text:
                check_members_scope(caller)
        except MessmailError:
            # Whoever may not ask uses up nothing of the list's or the person's.
            self._limiter.admit(caller)
            raise
        self._limiter.admit_subscribe(caller, found, person.address.key)
        preferences, is_program = _read_honeypot(found, preferences)
        stored = None
        while stored is None:
            # None: somebody asked for the same person in the meantime, so that there is now somebody to be found.
            with self._database.brief(found.tenant_id) as transaction:
                if is_program:
                    stored = _pretend_to_ask(transaction, found, person.address)
                else:
                    stored = self._ask(transaction, found, person.address, preferences, evidence)
        now, asked = stored
        if evidence.text and asked.standing is Standing.CONFIRMED:
            return Asked(Status.CONFIRMED)
        if not found.settings.return_confirm_token:
            return Asked(Status.PENDING)
        return Asked(Status.PENDING, self._links.seal(_link_to(asked, Purpose.CONFIRM_API, now + consent.PENDING_LIFE)))

    def follow_confirm_link(self, caller: Caller, token: str, evidence: Evidence) -> Answer:
        """Follows a confirmation link: the token of subscribe's answer confirms, the mailed link changes nothing."""
        link = self._open(caller, token, Purpose.CONFIRM_API, Purpose.CONFIRM_MAIL)
        if link.purpose is Purpose.CONFIRM_API:
            return self._confirm(link, evidence)
        found = self._lists.get(link.list_id, link.tenant_id)
        with self._database.brief(link.tenant_id) as transaction:
            now, subscription = subscription_store.find_by_id(
                transaction.finish, link.tenant_id, link.list_id, link.subscription_id
            )
        if subscription is None:
            raise consent.link_expired()
        if subscription.standing is not Standing.CONFIRMED:
            consent.check_link(subscription, link, now)
        return _confirm_answer(found, subscription)

    def confirm(self, caller: Caller, token: str, evidence: Evidence) -> Answer:
        """Confirms by either kind of link; raises LINK_INVALID, LINK_SUPERSEDED or LINK_EXPIRED."""
        link = self._open(caller, token, Purpose.CONFIRM_API, Purpose.CONFIRM_MAIL)
        return self._confirm(link, evidence)

    def request_unsubscribe_token(self, caller: Caller, person: Person) -> tuple[str, datetime]:
        """Returns a token that unsubscribes, or a decoy of the same kind, and when it stops working.

        Raises LIST_NOT_FOUND, TOKEN_MISSING, SCOPE_MISSING or RATE_LIMITED.
        """
        self._limiter.admit(caller)
        found = self._lists.get_for(caller, person.list_id, person.tenant_id)
        with self._database.brief(found.tenant_id) as transaction:
            now, subscription = subscription_store.find_by_address(
                transaction.finish, found.tenant_id, found.id, person.address.key
            )
        expires_at = now + UNSUBSCRIBE_TOKEN_LIFE
        if subscription is None:
            return self._links.seal_decoy(found.tenant_id, found.id, expires_at), expires_at
        return self._links.seal(_link_to(subscription, Purpose.UNSUBSCRIBE, expires_at)), expires_at

    def follow_unsubscribe_link(self, caller: Caller, token: str) -> Answer:
        """Tells the state for the page of an unsubscribe link, and changes nothing.

        The link of a mail tells how things are. The token that anybody can ask for does not tell whose it is: it
        answers confirmed for everybody and for nobody, until it expires. Raises LINK_INVALID or LINK_EXPIRED.
        """
        link = self._open(caller, token, Purpose.UNSUBSCRIBE, Purpose.ONE_CLICK)
        found = self._lists.get(link.list_id, link.tenant_id)
        with self._database.brief(link.tenant_id) as transaction:
            now, subscription = subscription_store.find_by_id(
                transaction.finish, link.tenant_id, link.list_id, link.subscription_id
            )
        if link.purpose is Purpose.UNSUBSCRIBE:
            if link.expires_at is not None and link.expires_at <= now:
                raise consent.link_expired()
            return _answer(found, None, Status.CONFIRMED)
        if subscription is None or consent.has_ended(subscription, now):
            return _answer(found, subscription, Status.UNSUBSCRIBED)
        is_confirmed = subscription.standing is Standing.CONFIRMED
        return _answer(found, subscription, Status.CONFIRMED if is_confirmed else Status.PENDING)

    def unsubscribe(self, caller: Caller, token: str, evidence: Evidence) -> Answer:
        """Unsubscribes from one list; for nobody's link the answer is that of a repeat.

        Raises LINK_INVALID, LINK_SUPERSEDED or LINK_EXPIRED.
        """
        link = self._open(caller, token, Purpose.UNSUBSCRIBE, Purpose.ONE_CLICK)
        found = self._lists.get(link.list_id, link.tenant_id)
        with self._database.brief(link.tenant_id) as transaction:
            now, before = subscription_store.find_by_id(
                transaction.run, link.tenant_id, link.list_id, link.subscription_id, lock=True
            )
            if before is not None:
                _store(transaction.finish, before, consent.end(before, link, now), link.purpose, now, evidence)
        return _answer(found, _shown(before, link), Status.UNSUBSCRIBED)

    def _ask(
        self,
        transaction: BriefTransaction,
        found: NewsletterList,
        address: EmailAddress,
        preferences: Preferences | None,
        evidence: Evidence,
    ) -> tuple[datetime, Subscription] | None:
        """Stores that somebody asked; returns the time and the subscription afterwards, None if another was quicker."""
        run, tenant_id = transaction.run, found.tenant_id
        if evidence.text:
            suppression_store.hold_off_erasures(run, tenant_id)
        now, before = subscription_store.find_by_address(run, tenant_id, found.id, address.key, lock=True)
        text_version = "" if evidence.text else consent.TEXT_VERSION
        entry = LogEntry(Through.SUBSCRIBE, now, evidence, text_version)
        known = before or Subscription(tenant_id, found.id, uuid4(), address.key, address.address)
        if evidence.text:
            is_suppressed = self._is_suppressed(run, found.id, known)
            asked = consent.ask_with_evidence(known, preferences, now, is_suppressed=is_suppressed)
        else:
            asked = consent.ask(known, preferences, now)
        change = consent.change(before, asked, now)
        if before is None:
            return (now, asked) if subscription_store.add(transaction.finish, [change], entry) else None
        if asked != before:
            subscription_store.replace(transaction.finish, [change], entry)
        return now, asked

    def _is_suppressed(self, run: Run, list_id: UUID, subscription: Subscription) -> bool:
        hashed = self._hashes.hash(subscription.tenant_id, subscription.address_key)
        return bool(suppression_store.read_suppressed(run, subscription.tenant_id, list_id, [hashed]))

    def _confirm(self, link: Link, evidence: Evidence) -> Answer:
        found = self._lists.get(link.list_id, link.tenant_id)
        with self._database.brief(link.tenant_id) as transaction:
            now, before = subscription_store.find_by_id(
                transaction.run, link.tenant_id, link.list_id, link.subscription_id, lock=True
            )
            if before is None:
                raise consent.link_expired()
            is_suppressed = link.purpose is Purpose.CONFIRM_API and self._is_suppressed(
                transaction.run, link.list_id, before
            )
            after = consent.confirm(before, link, now, is_suppressed=is_suppressed)
            _store(transaction.finish, before, after, link.purpose, now, evidence)
        return _confirm_answer(found, after)

    def _open(self, caller: Caller, token: str, *purposes: Purpose) -> Link:
        # Mail providers post one-click links for all their users from a few addresses (RFC 8058): whoever holds such a
        # link is not refused for how many leave at once. What is no link is counted as any call.
        try:
            # Whoever sends an access token is held to it: another tenant's link opens nothing.
            link = self._links.open(token, *purposes, tenant_id=caller.tenant_id)
        except MessmailError:
            self._limiter.admit(caller)
            raise
        if link.purpose is not Purpose.ONE_CLICK:
            self._limiter.admit(caller)
        return link


def language_of(subscription: Subscription | None, newsletter_list: NewsletterList) -> str:
    """Returns the language that a person chose, in what is pending or else before; or else the list's."""
    if subscription is not None:
        pending = subscription.pending.preferences if subscription.pending else None
        chosen = (subscription.preferences if pending is None else pending).get("lang")
        language = spoken(chosen)
        if language is not None:
            return language
    return newsletter_list.profile.language


def _read_honeypot(found: NewsletterList, preferences: Preferences | None) -> tuple[Preferences | None, bool]:
    """Takes the list's honeypot field out of the preferences, and tells whether it was filled in."""
    field = found.settings.honeypot_field
    if not field or preferences is None or field not in preferences:
        return preferences, False
    others = {name: value for name, value in preferences.items() if name != field}
    return others or None, bool(preferences[field])


def _pretend_to_ask(
    transaction: BriefTransaction, found: NewsletterList, address: EmailAddress
) -> tuple[datetime, Subscription]:
    """Does what asking does, without storing anything; returns the time and nobody's subscription."""
    now, _ = subscription_store.find_by_address(transaction.run, found.tenant_id, found.id, address.key, lock=True)
    return now, Subscription(found.tenant_id, found.id, uuid4(), address.key, address.address, generation=1)


def _store(
    run: Run,
    before: Subscription,
    after: Subscription,
    purpose: Purpose,
    now: datetime,
    evidence: Evidence,
) -> None:
    if after != before:
        entry = LogEntry(_THROUGH[purpose], now, evidence, consent.TEXT_VERSION)
        subscription_store.replace(run, [consent.change(before, after, now)], entry)


def _link_to(subscription: Subscription, purpose: Purpose, expires_at: datetime) -> Link:
    return Link(
        purpose,
        subscription.tenant_id,
        subscription.list_id,
        subscription.id,
        subscription.generation,
        expires_at,
    )


def _shown(subscription: Subscription | None, link: Link) -> Subscription | None:
    """Returns whose language an answer may be in: a token that anybody can ask for must not tell whose it is."""
    return subscription if link.purpose is Purpose.ONE_CLICK else None


def _confirm_answer(found: NewsletterList, subscription: Subscription) -> Answer:
    is_confirmed = subscription.standing is Standing.CONFIRMED
    return _answer(found, subscription, Status.CONFIRMED if is_confirmed else Status.PENDING)


def _answer(found: NewsletterList, subscription: Subscription | None, status: Status) -> Answer:
    return Answer(status, found.id, found.profile.name, language_of(subscription, found))
