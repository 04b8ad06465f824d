"""The preference centre: what a person sees and changes of one tenant's lists, by a link of a mail and without a login.

The link holds for the person at that tenant, not for the list of the mail it was in. Leaving is a change of consent
like any other unsubscribe, with its line in the consent log; the language is a preference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from member_center import consent
from member_center.limits import Limiter
from member_center.links import Links
from member_center.lists import Lists
from member_center.preferences import patched
from member_center.records.consent import (
    Evidence,
    Link,
    LogEntry,
    Membership,
    PreferenceCenter,
    Purpose,
    Standing,
    Status,
    Subscription,
    Through,
)
from member_center.records.installation import NewsletterList
from member_center.storage import memberships as membership_store
from member_center.storage import subscriptions as subscription_store
from member_center.subscriptions import language_of
from servicekit.access import Caller
from servicekit.database import Database, Run
from servicekit.errors import MessmailError, Reason

# A list that never began, or that ended by itself, is none of the person's choices.
_SHOWN = (Status.CONFIRMED, Status.PENDING, Status.UNSUBSCRIBED)


@dataclass(frozen=True, slots=True)
class Choice:
    """What a person chose. An empty language stays as it is; no list is left unless it is named, or all are."""

    language: str = ""
    leave_list_id: UUID | None = None
    leave_all: bool = False

    def leaves(self, list_id: UUID) -> bool:
        """Tells whether the person leaves this list."""
        return self.leave_all or list_id == self.leave_list_id


class PreferenceCenters:
    """The preference centres of one installation's people."""

    def __init__(self, database: Database, lists: Lists, links: Links, limiter: Limiter) -> None:
        self._database = database
        self._lists = lists
        self._links = links
        self._limiter = limiter

    def get(self, caller: Caller, token: str) -> PreferenceCenter:
        """Returns what the person sees; raises LINK_INVALID or LINK_EXPIRED."""
        link = self._open(caller, token)
        found = self._lists.get(link.list_id, link.tenant_id)
        with self._database.brief(link.tenant_id) as transaction:
            now, memberships = membership_store.read_memberships(transaction.finish, link)
        _check(memberships, link, now)
        return _shown(found, memberships, now)

    def update(self, caller: Caller, token: str, choice: Choice, evidence: Evidence) -> PreferenceCenter:
        """Carries out what the person chose, and returns what the person sees afterwards.

        Raises LINK_INVALID, LINK_EXPIRED, LIST_NOT_FOUND for a list that the person has never been on, or
        INVALID_FIELD where the preferences get too large.
        """
        link = self._open(caller, token)
        found = self._lists.get(link.list_id, link.tenant_id)
        with self._database.brief(link.tenant_id) as transaction:
            now, before = membership_store.read_memberships(transaction.run, link, lock=True)
            _check(before, link, now)
            if choice.leave_list_id is not None and not any(
                choice.leaves(each.subscription.list_id) for each in before
            ):
                raise MessmailError(
                    Reason.ERROR_REASON_LIST_NOT_FOUND, "leave_list_id: the person has never been on such a list"
                )
            entry = LogEntry(Through.PREFERENCE_CENTER, now, evidence, consent.TEXT_VERSION)
            after = [replace(each, subscription=_changed(each.subscription, choice, link, now)) for each in before]
            for old, new in zip(before, after, strict=True):
                _store(transaction.run, old.subscription, new.subscription, entry)
        return _shown(found, after, now)

    def _open(self, caller: Caller, token: str) -> Link:
        self._limiter.admit(caller)
        return self._links.open(token, Purpose.PREFERENCES, tenant_id=caller.tenant_id)


def _check(memberships: Sequence[Membership], link: Link, now: datetime) -> None:
    """Raises LINK_EXPIRED when the link is too old, or when nothing is known of the person any more."""
    linked = next((each.subscription for each in memberships if each.subscription.id == link.subscription_id), None)
    if linked is None:
        raise consent.link_expired()
    consent.check_link(linked, link, now)


def _changed(subscription: Subscription, choice: Choice, link: Link, now: datetime) -> Subscription:
    # Only who is confirmed has preferences: what is pending brings its own along.
    if choice.language and subscription.standing is Standing.CONFIRMED:
        preferences = patched(subscription.preferences, {"lang": choice.language})
        subscription = replace(subscription, preferences=preferences)
    return consent.end(subscription, link, now) if choice.leaves(subscription.list_id) else subscription


def _store(run: Run, before: Subscription, after: Subscription, entry: LogEntry) -> None:
    if after.generation != before.generation:
        subscription_store.replace(run, [consent.change(before, after, entry.at)], entry)
    elif after != before:
        subscription_store.set_preferences(run, after)


def _shown(found: NewsletterList, memberships: Sequence[Membership], now: datetime) -> PreferenceCenter:
    linked = next(each.subscription for each in memberships if each.subscription.list_id == found.id)
    shown = [(each, consent.status_at(each.subscription, now)) for each in memberships]
    return PreferenceCenter(language_of(linked, found), [pair for pair in shown if pair[1] in _SHOWN])
