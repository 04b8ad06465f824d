"""What consent should do, told once more and in other words than the product: the model that the state machine asks.

Times are seconds of a clock that only moves when the machine moves it. Every verb changes the model and returns the
word that the system must answer with: a state, or the reason of a refusal.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

MINUTE, HOUR, DAY = 60, 3600, 86_400
PENDING_LIFE, TOKEN_LIFE, COOL_DOWN = 7 * DAY, HOUR, 5 * MINUTE
ENDED = ("unsubscribed", "complained")


@dataclass(frozen=True)
class Place:
    """A person on a list of a tenant."""

    tenant: int
    list: int
    person: int


@dataclass
class Row:
    """What is stored of a person on a list. pending_until lies over the standing until then."""

    identity: int
    standing: str = "unconfirmed"
    changes: int = 0
    pending_until: int | None = None
    mailed_at: int | None = None


@dataclass(frozen=True)
class KnownLink:
    """A link that somebody got hold of. changes None: it stays good whatever changes; identity None: a decoy."""

    kind: str
    token: str = field(repr=False)
    place: Place
    identity: int | None
    changes: int | None
    expires_at: int | None


@dataclass(frozen=True)
class Stop:
    """A suppression: of one list, or of all."""

    tenant: int
    list: int | None
    person: int
    reason: str


@dataclass
class ConsentModel:
    """All that should be known of everybody."""

    now: int = 0
    rows: dict[Place, Row] = field(default_factory=dict)
    waiting: set[Place] = field(default_factory=set)
    stops: dict[Stop, str] = field(default_factory=dict)
    _identities: itertools.count[int] = field(default_factory=itertools.count)

    def subscribe(self, place: Place) -> Row:
        """Somebody asks."""
        row = self.rows.setdefault(place, Row(next(self._identities)))
        if row.standing not in ("confirmed", "complained"):
            self._ask(place, row)
        return row

    def vouch(self, place: Place) -> str:
        """A site asks, and brings evidence of the consent."""
        row = self.rows.get(place)
        if (row is None or row.standing == "unconfirmed") and not self.held(place):
            self._become(self.rows.setdefault(place, Row(next(self._identities))), "confirmed")
            return "confirmed"
        return "confirmed" if self.subscribe(place).standing == "confirmed" else "pending"

    def confirm(self, link: KnownLink, *, acts: bool = True) -> str:
        """Somebody follows a confirmation link; acts is False where a GET of the mailed link must change nothing."""
        row = self._row_of(link)
        if row is None:
            return "LINK_EXPIRED"
        if row.standing == "confirmed":
            return "confirmed"
        if refusal := self._refusal(link, row):
            return refusal
        if not acts:
            return "pending"
        if link.kind == "confirm_api" and (row.standing != "unconfirmed" or self.held(link.place)):
            return "pending"
        if not self.is_pending(row):
            return "LINK_EXPIRED"
        self._become(row, "confirmed")
        return "confirmed"

    def unsubscribe(self, link: KnownLink) -> str:
        """Somebody follows an unsubscribe link."""
        row = self._row_of(link)
        if row is None or (row.standing in ENDED and not self.is_pending(row)):
            return "unsubscribed"
        if refusal := self._refusal(link, row):
            return refusal
        self._become(row, "unsubscribed" if row.standing in ("unconfirmed", "confirmed") else row.standing)
        return "unsubscribed"

    def complain(self, place: Place) -> str:
        """An operator records a complaint."""
        row = self.rows.get(place)
        if row is None:
            return "SUBSCRIPTION_NOT_FOUND"
        if row.standing != "complained":
            self._become(row, "complained")
        return "complained"

    def pardon(self, place: Place) -> str:
        """An operator lifts a complaint."""
        row = self.rows.get(place)
        if row is None:
            return "SUBSCRIPTION_NOT_FOUND"
        if row.standing == "complained":
            self._become(row, "unsubscribed")
        return self.status(row)

    def bring_in(self, place: Place, *, proven: bool) -> int:
        """A tenant imports somebody; returns how many were taken."""
        row = self.rows.get(place)
        if self.held(place) or (row is not None and row.standing != "unconfirmed"):
            return 0
        if not proven and row is not None and self.is_pending(row):
            return 0
        row = self.rows.setdefault(place, Row(next(self._identities)))
        if proven:
            self._become(row, "confirmed")
        else:
            self._ask(place, row)
        return 1

    def erase(self, tenant: int, person: int) -> int:
        """A person is erased at a tenant; returns how many subscriptions went."""
        gone = [place for place in self.rows if (place.tenant, place.person) == (tenant, person)]
        for place in gone:
            if self.rows.pop(place).standing == "complained":
                self.stops[Stop(tenant, place.list, person, "complaint")] = "everything"
            self.waiting.discard(place)
        self.stops[Stop(tenant, None, person, "erased")] = "newsletter"
        return len(gone)

    def take_mails(self) -> set[Place]:
        """The outbox is emptied; returns to whom a mail leaves."""
        leaving = {
            place
            for place in self.waiting
            if self.is_pending(self.rows[place]) and "everything" not in self.held(place).values()
        }
        self.waiting.clear()
        return leaving

    def refusal(self, place: Place) -> str | None:
        """Returns why a send job may not mail somebody; None where it may."""
        row = self.rows[place]
        if row.standing == "confirmed":
            return "suppressed" if any(stop.reason != "erased" for stop in self.held(place)) else None
        return row.standing if row.standing in ENDED and not self.is_pending(row) else "not_confirmed"

    def held(self, place: Place) -> dict[Stop, str]:
        """Returns what suppresses somebody on a list."""
        return {
            stop: scope
            for stop, scope in self.stops.items()
            if (stop.tenant, stop.person) == (place.tenant, place.person) and stop.list in (None, place.list)
        }

    def status(self, row: Row) -> str:
        """Returns the state that anybody is told."""
        if self.is_pending(row):
            return "pending"
        return "expired" if row.standing == "unconfirmed" else row.standing

    def is_pending(self, row: Row) -> bool:
        """Tells whether the person can confirm."""
        return row.pending_until is not None and self.now < row.pending_until

    def link(self, kind: str, token: str, place: Place, life: int | None) -> KnownLink:
        """Returns the link as it is given out now; a decoy where there is nobody."""
        row = self.rows.get(place)
        expires_at = None if life is None else self.now + life
        if row is None:
            return KnownLink(kind, token, place, None, None, expires_at)
        changes = None if kind == "one_click" else row.changes
        if kind == "confirm_mail":
            expires_at = row.pending_until
        return KnownLink(kind, token, place, row.identity, changes, expires_at)

    def _ask(self, place: Place, row: Row) -> None:
        if not self.is_pending(row):
            row.changes += 1
            row.mailed_at = None
        if row.mailed_at is None or self.now - row.mailed_at >= COOL_DOWN:
            row.mailed_at = self.now
            self.waiting.add(place)
        row.pending_until = self.now + PENDING_LIFE

    def _become(self, row: Row, standing: str) -> None:
        row.standing, row.pending_until, row.mailed_at = standing, None, None
        row.changes += 1

    def _row_of(self, link: KnownLink) -> Row | None:
        row = self.rows.get(link.place)
        return row if row is not None and row.identity == link.identity else None

    def _refusal(self, link: KnownLink, row: Row) -> str | None:
        if link.changes is not None and link.changes != row.changes:
            return "LINK_SUPERSEDED"
        return "LINK_EXPIRED" if link.expires_at is not None and link.expires_at <= self.now else None
