"""What comes and goes as a whole: members imported, and all that is known of a person."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from member_center.records.consent import Evidence, Preferences, Status, Subscription, Suppression


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
