"""What the nouns of Member Center speak of. Records hold what was read or decided, and do nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, StrEnum
from typing import Any, TypeAlias
from uuid import UUID

# The tenant that internal clients, keys and the installation's limits belong to.
OPERATOR = UUID(int=0)

Preferences: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Tenant:
    """A customer of the installation."""

    tenant_id: UUID
    name: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is allowed; None where nothing was set."""

    subscribes_per_address_per_hour: int | None = None
    subscribes_per_list_per_minute: int | None = None
    confirmation_mails_per_address_per_day: int | None = None
    anonymous_calls_per_ip_per_minute: int | None = None
    calls_per_client_per_minute: int | None = None
    failed_logins_per_client_and_ip_per_minute: int | None = None
    failed_logins_per_ip_per_minute: int | None = None


@dataclass(frozen=True, slots=True)
class ListProfile:
    """What the mails of a list need. reply_to and envelope_sender are empty where the From address stands in."""

    name: str
    from_name: str
    from_address: str
    reply_to: str
    envelope_sender: str
    language: str


@dataclass(frozen=True, slots=True)
class ListSettings:
    """What a list asks of those who call for it. By default it is what the published contract says."""

    require_token: bool = False
    return_confirm_token: bool = True
    allowed_origins: tuple[str, ...] = ()
    # The member of the preferences that only a program fills in; empty where there is none.
    honeypot_field: str = ""


@dataclass(frozen=True, slots=True)
class SettingChanges:
    """Settings of a list to be changed; None where they stay."""

    require_token: bool | None = None
    return_confirm_token: bool | None = None
    allowed_origins: tuple[str, ...] | None = None
    honeypot_field: str | None = None


@dataclass(frozen=True, slots=True)
class NewsletterList:
    """A list of a tenant that people subscribe to. Its limits are those set for it alone."""

    tenant_id: UUID
    id: UUID
    profile: ListProfile
    created_at: datetime
    limits: Limits = field(default_factory=Limits)
    settings: ListSettings = field(default_factory=ListSettings)


class Usage(StrEnum):
    """What an OAuth client is for."""

    TENANT_API = "tenant_api"
    WEBHOOK_OUTBOUND = "webhook_outbound"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class Client:
    """An OAuth client. While a secret rotates, the one before works too."""

    tenant_id: UUID
    id: UUID
    usage: Usage
    scopes: tuple[str, ...]
    secret_hash: bytes = field(repr=False)
    previous_secret_hash: bytes | None = field(repr=False)
    disabled_at: datetime | None


@dataclass(frozen=True, slots=True)
class NewClient:
    """A client just made, or with a new secret: the only time that the secret can be seen."""

    id: UUID
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class AccessToken:
    """An access token just issued."""

    token: str = field(repr=False)
    expires_in: int
    scopes: tuple[str, ...]


class Ended(StrEnum):
    """What a revocation has ended."""

    TOKEN = "token"
    CLIENT = "client"


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key as it is stored. id is a kid or a key id, purpose is empty for a signing key."""

    id: bytes
    purpose: str
    encrypted_key: bytes = field(repr=False)
    created_at: datetime


class KeyRing(StrEnum):
    """A ring of keys."""

    SIGNING = "signing"
    LINKS = "links"


class KeyState(StrEnum):
    """What a key is good for at present."""

    CURRENT = "current"
    ACCEPTED = "accepted"
    RETIRED = "retired"


@dataclass(frozen=True, slots=True)
class ShownKey:
    """What may be told of a key: master_key is the id of the one that it is encrypted under."""

    id: str
    purpose: str
    state: KeyState
    created_at: datetime
    master_key: str


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
    """What the lines of the consent log have in common that are written together."""

    through: Through
    at: datetime
    evidence: Evidence
    text_version: str


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


@dataclass(frozen=True, slots=True)
class ImportRow:
    """A row of an import. A problem says why its preferences could not be read."""

    email: str = field(repr=False)
    preferences: Preferences = field(repr=False)
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of the rows of an import; rejected holds the places of bad rows, and what is wrong with each."""

    imported: int
    skipped: int
    rejected: tuple[tuple[int, str], ...]


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


@dataclass(frozen=True, slots=True)
class ConsentLine:
    """A line of the consent log: the state after a change, and by what it came about."""

    generation: int
    status: Status
    through: str
    at: datetime
    evidence: Evidence
    text_version: str


@dataclass(frozen=True, slots=True)
class PersonMail:
    """A confirmation mail to a person. outcome is empty while it waits."""

    created_at: datetime
    outcome: str
    ended_at: datetime | None
    last_reply: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class PersonSubscription:
    """A person's subscription to a list with all that belongs to it."""

    subscription: Subscription
    list_name: str
    status: Status
    consent_log: Sequence[ConsentLine]
    mails: Sequence[PersonMail]


@dataclass(frozen=True, slots=True)
class PersonExport:
    """All that is known of a person at a tenant."""

    read_at: datetime
    subscriptions: Sequence[PersonSubscription]
    suppressions: Sequence[Suppression]
