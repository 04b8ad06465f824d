"""A person's consent: subscriptions, their links, their log, and what suppresses an address."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, StrEnum
from typing import Any, TypeAlias
from uuid import UUID

Preferences: TypeAlias = Mapping[str, Any]


class Purpose(Enum):
    """What a sealed link is for; the number is part of the link."""

    CONFIRM_API = 1
    CONFIRM_MAIL = 2
    UNSUBSCRIBE = 3
    ONE_CLICK = 4
    PREFERENCES = 5


@dataclass(frozen=True, slots=True)
class Link:
    """What a sealed link carries. Generation 0 and no expiry: the link does not depend on them."""

    purpose: Purpose
    tenant_id: UUID
    list_id: UUID
    subscription_id: UUID
    generation: int = 0
    expires_at: datetime | None = None


class Standing(StrEnum):
    """What holds for a subscription when nothing is pending."""

    UNCONFIRMED = "unconfirmed"
    CONFIRMED = "confirmed"
    UNSUBSCRIBED = "unsubscribed"
    BOUNCED = "bounced"
    COMPLAINED = "complained"


class Status(StrEnum):
    """The state of a subscription, as the contract tells it."""

    PENDING = "pending"
    CONFIRMED = "confirmed"
    UNSUBSCRIBED = "unsubscribed"
    BOUNCED = "bounced"
    COMPLAINED = "complained"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Pending:
    """Somebody asked, and the person has not confirmed yet. Preferences None: none were sent.

    mailed_at tells when the last confirmation mail for it was queued.
    """

    since: datetime
    expires_at: datetime
    preferences: Preferences | None = field(default=None, repr=False)
    mailed_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Subscription:
    """The consent of one person to one list. What is pending lies over the standing until it expires."""

    tenant_id: UUID
    list_id: UUID
    id: UUID
    address_key: str = field(repr=False)
    address: str = field(repr=False)
    standing: Standing = Standing.UNCONFIRMED
    generation: int = 0
    preferences: Preferences = field(default_factory=dict, repr=False)
    confirmed_at: datetime | None = None
    pending: Pending | None = None


class Through(StrEnum):
    """The way by which a change of consent came."""

    SUBSCRIBE = "subscribe"
    CONFIRM_TOKEN = "confirm_token"
    MAILED_LINK = "mailed_link"
    UNSUBSCRIBE_TOKEN = "unsubscribe_token"
    ONE_CLICK = "one_click"
    PREFERENCE_CENTER = "preference_center"
    IMPORT = "import"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Evidence:
    """Who acted, as far as it is known, kept with the change. client_id is that of the site that made the call."""

    client_id: UUID | None = None
    ip: str = field(default="", repr=False)
    user_agent: str = field(default="", repr=False)
    source_url: str = field(default="", repr=False)
    text: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class LogEntry:
    """What the lines of the consent log have in common that are written together.

    text_version is the edition of our text that the person acts on; empty where the person read none of it.
    """

    through: Through
    at: datetime
    evidence: Evidence
    text_version: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """A subscription to be stored as it is afterwards.

    logged is the state that the consent log is told, None where the generation stayed; is_mailed asks for a
    confirmation mail, unless one waits already.
    """

    subscription: Subscription
    logged: Status | None
    is_mailed: bool = False


class SuppressionScope(StrEnum):
    """What a suppression stops: newsletters, or confirmation mails too."""

    NEWSLETTER = "newsletter"
    EVERYTHING = "everything"


class SuppressionReason(StrEnum):
    """Why an address is suppressed. An erased person is mailed again once a mailed link confirmed that anew."""

    COMPLAINT = "complaint"
    ERASED = "erased"
    MANUAL = "manual"
    BOUNCED = "bounced"


@dataclass(frozen=True, slots=True)
class Suppression:
    """An address that is not to be mailed: for one list, or with list_id None for all of its tenant."""

    id: UUID
    list_id: UUID | None
    scope: SuppressionScope
    reason: SuppressionReason
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Answer:
    """What a link's page or a caller is told: a state, and the list it belongs to."""

    status: Status
    list_id: UUID
    list_name: str
    language: str


@dataclass(frozen=True, slots=True)
class Membership:
    """A person's subscription to one of a tenant's lists."""

    list_name: str
    subscription: Subscription


@dataclass(frozen=True, slots=True)
class PreferenceCenter:
    """What a person sees of one tenant: the language of mails and pages, and the lists with the state of each."""

    language: str
    lists: Sequence[tuple[Membership, Status]]
