"""The outbox: confirmation mails that wait for Send Engine, which leases, sends and acknowledges them.

A mail is queued in the transaction that asked for the subscription. What lapses is leased again, so it may be sent
twice; what is no longer pending is never sent, nor is what would be too much for one address in a day, or goes to an
address that nothing may be mailed to.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from uuid import UUID

from member_center import consent
from member_center.address_hashes import AddressHashes
from member_center.limits import Limiter
from member_center.links import Links
from member_center.lists import Lists
from member_center.records.consent import Link, Purpose
from member_center.records.mailing import ConfirmationMail, Lease, MailOutcome, MailResult, WaitingMail
from member_center.storage import outbox as outbox_store
from member_center.subscriptions import language_of
from servicekit.database import Database

FIRST_WAIT = timedelta(seconds=30)
GIVE_UP = timedelta(hours=24)


class Outbox:
    """The outbox of one installation."""

    def __init__(self, database: Database, lists: Lists, links: Links, limiter: Limiter, hashes: AddressHashes) -> None:
        self._database = database
        self._lists = lists
        self._links = links
        self._limiter = limiter
        self._hashes = hashes

    def lease(self, page_size: int, seconds: int) -> tuple[list[ConfirmationMail], bool]:
        """Leases due mails, tenants in turn, and tells whether there may be more.

        While mails cannot be counted none is leased. Those not sent are closed here.
        """
        with self._database.dispatch() as connection:
            tenants = outbox_store.read_due_tenants(connection, page_size)
        if not tenants or not self._limiter.is_answering():
            return [], False
        share = -(-page_size // len(tenants))
        with self._database.dispatch() as connection:
            leases = outbox_store.lease(connection, tenants, share, page_size, seconds)
        held_by_tenant = _by_tenant(leases)
        waiting = [mail for tenant_id, held in held_by_tenant for mail in self._read_pending(tenant_id, held)]
        allowed = self._limiter.count_mails([(mail.subscription.address_key, mail.lease.mail_id) for mail in waiting])
        if allowed is None:
            return [], False
        self._close([mail.lease for mail, may_go in zip(waiting, allowed, strict=True) if not may_go])
        mails = [self._made(mail) for mail, may_go in zip(waiting, allowed, strict=True) if may_go]
        return mails, any(len(held) == share for _, held in held_by_tenant)

    def acknowledge(self, results: Sequence[MailResult]) -> int:
        """Records results whose lease is still held, and returns how many; the others change nothing."""
        recorded = 0
        by_tenant: defaultdict[UUID, list[MailResult]] = defaultdict(list)
        for result in results:
            by_tenant[result.lease.tenant_id].append(result)
        for tenant_id, own in by_tenant.items():
            with self._database.brief(tenant_id) as transaction:
                recorded += outbox_store.record(transaction.finish, own, FIRST_WAIT, GIVE_UP)
        return recorded

    def _read_pending(self, tenant_id: UUID, held: Sequence[Lease]) -> list[WaitingMail]:
        with self._database.brief(tenant_id) as transaction:
            pads = asdict(self._hashes.pads(tenant_id))
            waiting = outbox_store.read_waiting(transaction.run, tenant_id, held, **pads)
            over = [
                MailResult(mail.lease, MailOutcome.SKIPPED)
                for mail in waiting
                if mail.is_suppressed or not consent.is_pending(mail.subscription, mail.read_at)
            ]
            outbox_store.record(transaction.finish, over, FIRST_WAIT, GIVE_UP)
        skipped = {result.lease.mail_id for result in over}
        return [mail for mail in waiting if mail.lease.mail_id not in skipped]

    def _close(self, capped: Sequence[Lease]) -> None:
        self.acknowledge([MailResult(lease, MailOutcome.CAPPED) for lease in capped])

    def _made(self, mail: WaitingMail) -> ConfirmationMail:
        subscription = mail.subscription
        newsletter_list = self._lists.get(subscription.list_id, subscription.tenant_id)
        link = Link(
            Purpose.CONFIRM_MAIL,
            subscription.tenant_id,
            subscription.list_id,
            subscription.id,
            subscription.generation,
            subscription.pending.expires_at if subscription.pending else None,
        )
        return ConfirmationMail(
            lease=mail.lease,
            newsletter_list=newsletter_list,
            address=subscription.address,
            language=language_of(subscription, newsletter_list),
            confirm_url=self._links.confirm_url(self._links.seal(link)),
        )


def _by_tenant(leases: Sequence[Lease]) -> list[tuple[UUID, list[Lease]]]:
    found: defaultdict[UUID, list[Lease]] = defaultdict(list)
    for lease in leases:
        found[lease.tenant_id].append(lease)
    return list(found.items())
