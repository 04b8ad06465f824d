"""The rules of consent: how a subscription changes, and when it does not.

Pure: a subscription goes in, the subscription afterwards comes out, and the one that comes out is the same where
nothing changes. Every change raises the generation, which ends the links made before; asking again while the first
answer is still awaited does not, or a stranger could end a person's link by asking in their name. Storing what came
out, with its line in the consent log, is done in subscriptions.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from member_center.records.consent import Change, Link, Pending, Preferences, Purpose, Standing, Status, Subscription
from servicekit.errors import MessmailError, Reason

PENDING_LIFE = timedelta(days=7)
# Asking again meanwhile sends no further confirmation mail: it is on its way, and asking must not be a way to pester.
MAIL_COOL_DOWN = timedelta(minutes=5)
# The edition of what people read when they agree: of the confirmation mail and the page with the button.
TEXT_VERSION = "2026-11"

_ENDED = (Status.UNSUBSCRIBED, Status.BOUNCED, Status.COMPLAINED)


def is_pending(subscription: Subscription, now: datetime) -> bool:
    """Tells whether somebody has asked and the person can still confirm."""
    return subscription.pending is not None and now < subscription.pending.expires_at


def status_at(subscription: Subscription, now: datetime) -> Status:
    """Returns the state: what is pending first, else the standing below it."""
    if is_pending(subscription, now):
        return Status.PENDING
    if subscription.standing is Standing.UNCONFIRMED:
        return Status.EXPIRED
    return Status(subscription.standing.value)


def ask(subscription: Subscription, preferences: Preferences | None, now: datetime) -> Subscription:
    """Somebody asks for the subscription; a confirmation mail is due, unless the last one left a moment ago.

    Nothing changes for the confirmed, nor for somebody who complained: only an operator lifts that.
    """
    if subscription.standing in (Standing.CONFIRMED, Standing.COMPLAINED):
        return subscription
    since, generation, mailed_at = now, subscription.generation + 1, now
    before = subscription.pending
    if before is not None and is_pending(subscription, now):
        since, generation = before.since, subscription.generation
        preferences = before.preferences if preferences is None else preferences
        if before.mailed_at is not None and now < before.mailed_at + MAIL_COOL_DOWN:
            mailed_at = before.mailed_at
    pending = Pending(since, now + PENDING_LIFE, preferences, mailed_at)
    return replace(subscription, pending=pending, generation=generation)


def ask_with_evidence(
    subscription: Subscription, preferences: Preferences | None, now: datetime, *, is_suppressed: bool
) -> Subscription:
    """A site asks that has proven the consent: whoever never decided is confirmed, and anybody else asked as ever."""
    if preferences is None:
        waiting = subscription.pending.preferences if subscription.pending else None
        admitted = subscription.preferences if waiting is None else waiting
    else:
        admitted = preferences
    after = admit(subscription, admitted, proven=True, now=now, is_suppressed=is_suppressed)
    return ask(subscription, preferences, now) if after is subscription else after


def confirm(subscription: Subscription, link: Link, now: datetime, *, is_suppressed: bool = False) -> Subscription:
    """The person, or a site that has proven the address itself, confirms by a link.

    After an unsubscribe, and for a suppressed address (an erased person is one), only the mailed link confirms: the
    other one changes nothing, and is not told so. Raises LINK_SUPERSEDED or LINK_EXPIRED.
    """
    if subscription.standing is Standing.CONFIRMED:
        return subscription
    check_link(subscription, link, now)
    has_left = subscription.standing is not Standing.UNCONFIRMED
    if link.purpose is Purpose.CONFIRM_API and (has_left or is_suppressed):
        return subscription
    if subscription.pending is None or not is_pending(subscription, now):
        raise link_expired()
    preferences = subscription.pending.preferences
    return _confirmed(subscription, subscription.preferences if preferences is None else preferences, now)


def end(subscription: Subscription, link: Link, now: datetime) -> Subscription:
    """The person unsubscribes by a link; whatever is pending ends with it.

    Raises LINK_SUPERSEDED or LINK_EXPIRED.
    """
    if has_ended(subscription, now):
        return subscription
    check_link(subscription, link, now)
    lifted = subscription.standing in (Standing.UNCONFIRMED, Standing.CONFIRMED)
    standing = Standing.UNSUBSCRIBED if lifted else subscription.standing
    return replace(subscription, standing=standing, pending=None, generation=subscription.generation + 1)


def admit(
    subscription: Subscription, preferences: Preferences, *, proven: bool, now: datetime, is_suppressed: bool = False
) -> Subscription:
    """A tenant brings the person along. Only somebody who never decided is touched: an import resurrects nobody."""
    if is_suppressed or subscription.standing is not Standing.UNCONFIRMED:
        return subscription
    if proven:
        return _confirmed(subscription, preferences, now)
    return subscription if is_pending(subscription, now) else ask(subscription, preferences, now)


def complain(subscription: Subscription) -> Subscription:
    """The person reported a mail as unwanted: whatever is pending ends, and from now on only an operator helps."""
    if subscription.standing is Standing.COMPLAINED:
        return subscription
    generation = subscription.generation + 1
    return replace(subscription, standing=Standing.COMPLAINED, pending=None, generation=generation)


def lift_complaint(subscription: Subscription) -> Subscription:
    """An operator lifts a complaint. That is no consent: the person stands as somebody who unsubscribed."""
    if subscription.standing is not Standing.COMPLAINED:
        return subscription
    return replace(subscription, standing=Standing.UNSUBSCRIBED, generation=subscription.generation + 1)


def change(before: Subscription | None, after: Subscription, now: datetime) -> Change:
    """Tells what to store of a subscription: each new generation is logged, and a mail queued that ask() made due."""
    is_logged = before is None or before.generation != after.generation
    mailed_at = before.pending.mailed_at if before is not None and before.pending is not None else None
    is_mailed = after.pending is not None and after.pending.mailed_at != mailed_at
    return Change(after, status_at(after, now) if is_logged else None, is_mailed)


def has_ended(subscription: Subscription, now: datetime) -> bool:
    """Tells whether there is nothing left to unsubscribe from."""
    return status_at(subscription, now) in _ENDED


def check_link(subscription: Subscription, link: Link, now: datetime) -> None:
    """Raises LINK_SUPERSEDED when something happened since the link was made, LINK_EXPIRED when it is too old."""
    if link.generation and link.generation != subscription.generation:
        raise MessmailError(
            Reason.ERROR_REASON_LINK_SUPERSEDED,
            "the link no longer applies, because the subscription has changed since: subscribe again, or ask for a new "
            "unsubscribe token",
        )
    if link.expires_at is not None and link.expires_at <= now:
        raise link_expired()


def link_expired() -> MessmailError:
    """Makes the error for a link that is older than it may be."""
    return MessmailError(
        Reason.ERROR_REASON_LINK_EXPIRED,
        "the link has expired: subscribe again, or ask for a new unsubscribe token",
    )


def _confirmed(subscription: Subscription, preferences: Preferences, now: datetime) -> Subscription:
    return replace(
        subscription,
        standing=Standing.CONFIRMED,
        preferences=preferences,
        confirmed_at=now,
        pending=None,
        generation=subscription.generation + 1,
    )
