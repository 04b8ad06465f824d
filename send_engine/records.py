"""The words of Send Engine as records: send jobs, batches, deliveries, and the states they are in.

Plain values without behaviour; whoever changes them is next door: send_jobs, planning, deliveries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, NamedTuple
from uuid import UUID

# Owns what is the installation's (docs/decisions/0006); no tenant has this id.
OPERATOR: Final = UUID(int=0)


class JobStatus(StrEnum):
    """The state of a send job."""

    SCHEDULED = "scheduled"
    PLANNING = "planning"
    SENDING = "sending"
    PAUSED = "paused"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    FAILED = "failed"


class UnknownPolicy(StrEnum):
    """What to do with a mail that was handed over without an answer."""

    RESEND = "resend"
    HOLD = "hold"


class Lane(StrEnum):
    """The kinds of work that a batch can be. A ring of the doorbell names one.

    A held batch is of one recipient domain, and waits for its permits.
    """

    PLAN = "plan"
    BULK = "bulk"
    RETRY = "retry"
    HELD = "held"


class BatchStatus(StrEnum):
    """Whether a batch may be claimed. A planned one waits until its job is sending, a closed one is done with."""

    PLANNED = "planned"
    READY = "ready"
    CLOSED = "closed"


class DeliveryState(StrEnum):
    """What became of a delivery. While it is pending, its batch tells whether it is claimed, sending or deferred."""

    PENDING = "pending"
    SENT = "sent"
    FAILED = "failed"
    SUPPRESSED = "suppressed"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"


class ShownState(StrEnum):
    """The state of a delivery as callers see it: that of its row, or while that is pending, what its batch tells."""

    PENDING = "pending"
    CLAIMED = "claimed"
    SENDING = "sending"
    DEFERRED = "deferred"
    SENT = "sent"
    FAILED = "failed"
    SUPPRESSED = "suppressed"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class DeliveryPlace:
    """Where a delivery stands in the ledger, until it is moved."""

    batch_id: UUID
    ordinal: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of the mail to one person."""

    place: DeliveryPlace
    subscription_id: UUID
    domain: str
    state: ShownState
    reason: str
    last_reply: str
    attempts: int
    recorded_at: datetime | None


@dataclass(frozen=True, slots=True)
class PersonDelivery:
    """What became of a mail of a job to one person, as the ledger's row has it."""

    job_id: UUID
    subscription_id: UUID
    subject: str
    domain: str
    state: DeliveryState
    reason: str
    last_reply: str
    attempts: int
    recorded_at: datetime | None


@dataclass(frozen=True, slots=True)
class NewJob:
    """A send job as its creator asked for it. profile is the list's, as it is now. No scheduled_at: at once."""

    list_id: UUID
    name: str
    subject: str
    body_html: str | None
    body_text: str | None
    template: bool
    on_unknown: UnknownPolicy
    give_up_seconds: float | None
    profile: Mapping[str, Any]
    scheduled_at: datetime | None


@dataclass(frozen=True, slots=True)
class SendJob:
    """A send job without its content."""

    tenant_id: UUID
    id: UUID
    list_id: UUID
    name: str
    subject: str
    status: JobStatus
    status_reason: str
    scheduled_at: datetime
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    on_unknown: UnknownPolicy
    give_up_seconds: float | None
    round: int


@dataclass(frozen=True, slots=True)
class Counters:
    """How many deliveries of a job are in which state. They add up to total."""

    total: int = 0
    pending: int = 0
    claimed: int = 0
    sending: int = 0
    deferred: int = 0
    sent: int = 0
    failed: int = 0
    suppressed: int = 0
    cancelled: int = 0
    unknown: int = 0


@dataclass(frozen=True, slots=True)
class CountedJob:
    """A send job with its counters, both of one snapshot."""

    job: SendJob
    counters: Counters


@dataclass(frozen=True, slots=True)
class Cancellation:
    """How far a job had got when it was cancelled."""

    job_id: UUID
    cancelled_at: datetime
    sent: int
    sending: int


@dataclass(frozen=True, slots=True)
class SendOrder:
    """What a batch needs to know of its job: whose mail, what mail, and what to do when it is not taken.

    Without give_up_seconds of its own, a job gives up as the worker's setting says.
    """

    tenant_id: UUID
    job_id: UUID
    list_id: UUID
    subject: str
    body_html: str | None
    body_text: str | None
    template: bool
    on_unknown: UnknownPolicy
    give_up_seconds: float | None
    profile: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Claim:
    """A batch that a worker holds, as it was when it was claimed. The fence tells this claim from all others."""

    tenant_id: UUID
    batch_id: UUID
    job_id: UUID
    lane: Lane
    fence: int
    attempt: int
    lapses: int
    size: int
    marked_until: int
    recorded_until: int
    give_up_at: datetime | None
    round: int
    # Of a held batch: the domain of its recipients.
    domain: str = ""


class Addressee(NamedTuple):
    """One row of a batch: the person is in Member Center, here is only the subscription, 16 bytes.

    There is one for every mail, so it is a tuple, which is made several times as fast as a dataclass; so is Result.
    """

    ordinal: int
    subscription_id: bytes
    domain: str


@dataclass(frozen=True, slots=True)
class AudiencePage:
    """A page of an audience, to be written down in the ledger: subscriptions, 16 bytes each in one, and their domains.

    as_of is by Member Center's clock, and the same for all pages.
    """

    as_of: datetime
    subscription_ids: bytes
    domains: Sequence[str]
    more: bool


@dataclass(frozen=True, slots=True)
class PlanProgress:
    """How far a plan has got: the audience's time, and the last subscription written down."""

    list_id: UUID
    as_of: datetime | None
    after: UUID | None


class Result(NamedTuple):
    """What became of one delivery: a final state, or PENDING when it is to be tried again.

    tried tells whether it was begun at all. domain is set when it waits for the permits of its domain, however long
    that takes. reason and reply hold no address.
    """

    ordinal: int
    state: DeliveryState
    reason: str = ""
    reply: str = ""
    tried: bool = True
    domain: str = ""


@dataclass(frozen=True, slots=True)
class ErrorWindow:
    """How many mails of a job were tried and how many of them refused since the window began."""

    results: int
    failures: int


class LimitScope(StrEnum):
    """What a limit on mails a second is about."""

    TENANT = "tenant"
    ESP_ACCOUNT = "esp_account"
    DOMAIN = "domain"


@dataclass(frozen=True, slots=True)
class SendLimit:
    """A limit in mails a second, as set (None: not set), and what throttling has slowed it to at present."""

    scope: LimitScope
    domain: str
    rate: float | None
    slowed_to: float | None


@dataclass(frozen=True, slots=True)
class Grant:
    """Permits taken from a bucket, and after how many seconds it will have one more."""

    scope: LimitScope
    domain: str
    permits: int
    next_after: float
