"""Permits: how many mails this worker may begin now, where limits are set or a domain has been slowed down.

A bucket in the database holds the permits of a tenant, of an ESP account or of a recipient domain. A worker takes what
has gathered there and uses it up, asking each bucket about twice a second and never for a mail. Nobody waits here: who
gets no permit is told when to come again. Where there is no limit, one look a second is all it costs.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from send_engine.records import LimitScope
from send_engine.storage import buckets
from servicekit.database import Database

LOOK_SECONDS = 1.0
ASK_SECONDS = 0.5
# Permits that a worker has not used after this long are lost, or an idle worker would save them up.
KEEP_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class BucketName:
    """Whose bucket for what. The installation's belong to the operator."""

    tenant_id: UUID
    scope: LimitScope
    domain: str = ""


@dataclass(slots=True)
class _Purse:
    """What a worker has taken from a bucket: permits, and when (monotonic) it asked and more will have gathered."""

    permits: int = 0
    asked_at: float = float("-inf")
    next_at: float = float("-inf")


@dataclass(frozen=True, slots=True)
class Allowance:
    """Mails that may be begun; where there are none, after how many seconds there will be."""

    mails: int
    wait: float = 0.0


@dataclass(frozen=True, slots=True)
class Limits:
    """The buckets that hold for one tenant's mail over its ESP account."""

    overall: tuple[BucketName, ...] = ()
    domains: Mapping[str, tuple[BucketName, ...]] = field(default_factory=dict)

    @property
    def are_set(self) -> bool:
        """Whether anything is limited."""
        return bool(self.overall or self.domains)


_NONE = Limits()


class Permits:
    """The permits of one worker process. Safe for threads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._limits: dict[tuple[UUID, UUID], tuple[float, Limits]] = {}
        self._purses: defaultdict[BucketName, _Purse] = defaultdict(_Purse)
        self._lock = threading.Lock()

    def limits(self, tenant_id: UUID, account_owner: UUID) -> Limits:
        """Returns what limits a tenant's mail over the account of an owner, at most LOOK_SECONDS old.

        The tenant's own limits hold for it wherever its mail leaves; the owner's, on the account and on domains, for
        all mail over the account.
        """
        key = (tenant_id, account_owner)
        read_at, limits = self._limits.get(key, (float("-inf"), _NONE))
        if time.monotonic() - read_at < LOOK_SECONDS:
            return limits
        found = {owner: self._look(owner) for owner in key}
        overall = [name for name in found[tenant_id] if name.scope is LimitScope.TENANT]
        overall += [name for name in found[account_owner] if name.scope is LimitScope.ESP_ACCOUNT]
        domains = defaultdict[str, list[BucketName]](list)
        for name in {**dict.fromkeys(found[tenant_id]), **dict.fromkeys(found[account_owner])}:
            if name.scope is LimitScope.DOMAIN:
                domains[name.domain].append(name)
        limits = Limits(tuple(overall), {domain: tuple(names) for domain, names in domains.items()})
        self._limits[key] = time.monotonic(), limits
        return limits

    def take(self, names: Sequence[BucketName], mails: int) -> Allowance:
        """Takes permits for up to so many mails, the same number from each bucket. Raises UNAVAILABLE."""
        if not names:
            return Allowance(mails)
        return self.take_each({"": names}, {"": mails})[""]

    def take_each(self, names: Mapping[str, Sequence[BucketName]], mails: Mapping[str, int]) -> dict[str, Allowance]:
        """Takes permits for several domains at once, each from its own buckets. Raises UNAVAILABLE."""
        with self._lock:
            wanted = Counter[BucketName]()
            for domain, most in mails.items():
                wanted.update(dict.fromkeys(names[domain], most))
            self._fill(wanted)
            return {domain: self._draw(names[domain], most) for domain, most in mails.items()}

    def give_back(self, names: Iterable[BucketName], mails: int) -> None:
        """Gives back permits for mails that were not begun."""
        with self._lock:
            for name in names:
                self._purses[name].permits += mails

    def slow(self, account_owner: UUID, throttled: Mapping[str, tuple[float, float]]) -> int:
        """Slows domains down for all mail over an account, and returns how many. Raises UNAVAILABLE.

        throttled has, by domain: the mails a second that it was sent, and the seconds that it is to rest.
        """
        rows = [(domain, pace, rest) for domain, (pace, rest) in throttled.items()]
        with self._database.tenant(account_owner) as connection:
            slowed = buckets.slow(connection, account_owner, rows)
        with self._lock:
            for domain in throttled:
                self._purses.pop(BucketName(account_owner, LimitScope.DOMAIN, domain), None)
        for key in [key for key in list(self._limits) if key[1] == account_owner]:
            self._limits.pop(key, None)
        return slowed

    def _look(self, owner: UUID) -> list[BucketName]:
        with self._database.tenant(owner) as connection:
            return [BucketName(owner, scope, domain) for scope, domain in buckets.paced(connection, owner)]

    def _fill(self, wanted: Mapping[BucketName, int]) -> None:
        """Asks the database for the permits of those buckets whose purse has too few, and which may be asked again."""
        now = time.monotonic()
        short = defaultdict[UUID, list[BucketName]](list)
        for name, mails in wanted.items():
            purse = self._purses[name]
            if now - purse.asked_at > KEEP_SECONDS:
                purse.permits = 0
            if purse.permits < mails and now >= max(purse.asked_at + ASK_SECONDS, purse.next_at):
                short[name.tenant_id].append(name)
        for owner, names in short.items():
            with self._database.tenant(owner) as connection:
                grants = buckets.take(connection, owner, [(name.scope, name.domain) for name in names])
            granted = {(grant.scope, grant.domain): grant for grant in grants}
            for name in names:
                purse, grant = self._purses[name], granted.get((name.scope, name.domain))
                purse.asked_at = now
                if grant is None:
                    # The limit was taken away since we looked.
                    purse.permits = max(purse.permits, wanted[name])
                else:
                    purse.permits += grant.permits
                    purse.next_at = now + grant.next_after

    def _draw(self, names: Sequence[BucketName], most: int) -> Allowance:
        purses = [self._purses[name] for name in names]
        mails = min([most, *(purse.permits for purse in purses)])
        for purse in purses:
            purse.permits -= mails
        if mails:
            return Allowance(mails)
        now = time.monotonic()
        waits = [max(purse.asked_at + ASK_SECONDS, purse.next_at) - now for purse in purses if purse.permits == 0]
        return Allowance(0, max([0.0, *waits]))
