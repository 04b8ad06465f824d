"""Whom Send Engine mails: confirmation mails, audiences, and groups of recipients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from member_center.records.consent import Subscription
from member_center.records.installation import NewsletterList


@dataclass(frozen=True, slots=True)
class Lease:
    """A confirmation mail taken for a while. A result with another fence changes nothing."""

    tenant_id: UUID
    mail_id: UUID
    fence: int


@dataclass(frozen=True, slots=True)
class WaitingMail:
    """A leased confirmation mail with the subscription it belongs to, and the time at which that was read.

    is_suppressed tells that nothing at all may be mailed to the address.
    """

    lease: Lease
    subscription: Subscription
    read_at: datetime
    is_suppressed: bool = False


@dataclass(frozen=True, slots=True)
class ConfirmationMail:
    """A confirmation mail to be sent."""

    lease: Lease
    newsletter_list: NewsletterList
    address: str = field(repr=False)
    language: str
    confirm_url: str = field(repr=False)


class MailOutcome(StrEnum):
    """How a confirmation mail ended: sent or failed at the ESP, skipped or capped before it left."""

    SENT = "sent"
    FAILED = "failed"
    SKIPPED = "skipped"
    CAPPED = "capped"


@dataclass(frozen=True, slots=True)
class MailResult:
    """What became of a leased mail. No outcome: deferred."""

    lease: Lease
    outcome: MailOutcome | None
    reply: str = ""


@dataclass(frozen=True, slots=True)
class AudiencePage:
    """Confirmed subscriptions at a time, ordered by id: the ids, 16 bytes each in one, and the domains of each."""

    as_of: datetime
    subscription_ids: bytes
    recipient_domains: Sequence[str]
    more: bool


class Refusal(StrEnum):
    """Why somebody may not be mailed."""

    UNSUBSCRIBED = "unsubscribed"
    BOUNCED = "bounced"
    COMPLAINED = "complained"
    NOT_CONFIRMED = "not_confirmed"
    SUPPRESSED = "suppressed"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Group:
    """A group of subscriptions as read in one snapshot, not earlier than read_at; the ids are 16 bytes.

    Of those who may be mailed, in one order, the ids, addresses and preferences (JSON objects); of the others the
    reasons.
    """

    read_at: datetime
    mailable: list[bytes]
    addresses: list[str] = field(repr=False)
    preferences: list[str] = field(repr=False)
    refused: dict[bytes, Refusal]


@dataclass(frozen=True, slots=True)
class Authorization:
    """Who of a group may be mailed now, each with a one-click URL and a preferences URL, and why the rest may not.

    The preferences URLs are empty where nobody asked for them.
    """

    group: Group
    one_click_urls: list[str] = field(repr=False)
    preferences_urls: list[str] = field(repr=False)
    refused: list[tuple[bytes, Refusal]]
