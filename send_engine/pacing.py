"""How fast mail leaves: how many rows of a batch are marked at a time, and which of them have to wait.

A group has as many mails as its ESP account takes at a time; where limits are set, no more than there are permits for.
A tenant without permits rests, with all its batches; one whose account rests is passed by, by this process alone, as
another may reach the relay. Of a domain without permits, only its rows wait: they move once to
a batch held for the domain, which is no attempt and does not count towards giving up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import structlog

from send_engine.deliveries import HeldBatch
from send_engine.esp.port import Outcome, Verdict
from send_engine.esp_accounts import EspAccount
from send_engine.passed_by import PassedBy
from send_engine.permits import Limits, Permits
from send_engine.records import Addressee, DeliveryState, Result
from send_engine.throttles import is_relays, slowdowns

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that are marked: those to be sent, and the results of those that wait for their domain's permits."""

    addressees: list[Addressee]
    waiting: list[Result]
    limits: Limits


class Pacing:
    """The pacing of one worker process."""

    def __init__(self, permits: Permits, passed_by: PassedBy) -> None:
        self._permits = permits
        self._passed_by = passed_by

    def mark(self, held: HeldBatch, account: EspAccount) -> Group | None:
        """Marks the next rows, no more than there are permits for; None when the batch is not held any more.

        A batch whose account rests, or whose tenant or domain has no permits, is given back.
        """
        claim = held.claim
        rest = account.circuit.rest()
        if rest:
            self._passed_by.add(claim.tenant_id, rest)
            held.release()
            return None
        limits = self._permits.limits(claim.tenant_id, account.owner)
        most = min(account.group_size.next(), held.most_at_once)
        own_domain = limits.domains.get(claim.domain, ())
        allowed = self._permits.take(limits.overall, most)
        if not allowed.mails:
            held.rest_tenant(allowed.wait)
            return None
        if own_domain:
            overall, allowed = allowed, self._permits.take(own_domain, allowed.mails)
            self._permits.give_back(limits.overall, overall.mails - allowed.mails)
            if not allowed.mails:
                held.rest_domain(allowed.wait)
                return None
        marked = held.mark(allowed.mails)
        self._permits.give_back((*limits.overall, *own_domain), allowed.mails - len(marked))
        if not marked:
            return None
        if claim.domain or not limits.domains:
            return Group(marked, [], limits)
        return self._part(marked, limits)

    def is_shut(self, account: EspAccount, outcomes: Sequence[Outcome]) -> bool:
        """Notes whether an account takes mail at all, and tells whether it took none of these, which then wait with it.

        A server that answers is not shut, whatever it says of the mails, unless it was too busy for most of them. One
        that ends its sessions so, after some mails each, is not too busy.
        """
        throttled = sum(map(is_relays, outcomes))
        answered = sum(outcome.begun and outcome.code is not None for outcome in outcomes) - throttled
        refused = sum(not outcome.begun and outcome.verdict is Verdict.deferred for outcome in outcomes)
        if answered and answered >= throttled:
            account.circuit.worked()
        elif throttled or refused:
            account.circuit.failed()
        return 0 < throttled + refused == len(outcomes)

    def heed(
        self, group: Group, account: EspAccount, sent: Sequence[tuple[Addressee, Outcome]], seconds: float
    ) -> None:
        """Takes from what became of a group how fast to go on: domains that throttled are slowed for everybody."""
        if group.limits.are_set:
            begun = {addressee.ordinal for addressee, outcome in sent if outcome.begun}
            self.give_back(group, [one for one in group.addressees if one.ordinal not in begun])
        if any(outcome.verdict is Verdict.deferred for _, outcome in sent):
            throttled = slowdowns(((addressee.domain, outcome) for addressee, outcome in sent), seconds)
            slowed = self._permits.slow(account.owner, throttled) if throttled else 0
            if slowed:
                _log.info("domains.slowed", domains=slowed)

    def give_back(self, group: Group, unused: Iterable[Addressee]) -> None:
        """Gives back the permits of rows that were not begun."""
        limits = group.limits
        if not limits.are_set:
            return
        domains = Counter(addressee.domain for addressee in unused)
        self._permits.give_back(limits.overall, domains.total())
        for domain, mails in domains.items():
            self._permits.give_back(limits.domains.get(domain, ()), mails)

    def _part(self, marked: Sequence[Addressee], limits: Limits) -> Group:
        """Parts rows whose domain has permits from those that must wait."""
        wanted = Counter(addressee.domain for addressee in marked if addressee.domain in limits.domains)
        left = {domain: allowed.mails for domain, allowed in self._permits.take_each(limits.domains, wanted).items()}
        going, waiting = [], []
        for addressee in marked:
            permits = left.get(addressee.domain)
            if permits == 0:
                waiting.append(Result(addressee.ordinal, DeliveryState.PENDING, tried=False, domain=addressee.domain))
                continue
            if permits is not None:
                left[addressee.domain] = permits - 1
            going.append(addressee)
        self._permits.give_back(limits.overall, len(waiting))
        return Group(going, waiting, limits)
