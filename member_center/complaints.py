"""Complaints: a person reported a mail of a list as unwanted. An operator records that, and nobody else lifts it."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from member_center import consent
from member_center.lists import Lists
from member_center.records.consent import Evidence, LogEntry, Status, Subscription, Through
from member_center.storage import subscriptions as subscription_store
from servicekit.addresses import EmailAddress
from servicekit.audit import AuditLog, Event
from servicekit.database import Database
from servicekit.errors import MessmailError, Reason


class Complaints:
    """The complaints about the lists of one installation."""

    def __init__(self, database: Database, lists: Lists, audit: AuditLog) -> None:
        self._database = database
        self._audit = audit
        self._lists = lists

    def record(self, tenant_id: UUID, list_id: UUID, address: EmailAddress, evidence: Evidence) -> Status:
        """Records a complaint and returns the state; raises LIST_NOT_FOUND or SUBSCRIPTION_NOT_FOUND."""
        status = self._change(consent.complain, tenant_id, list_id, address, evidence)
        self._audit.record(_event("complaint_recorded", tenant_id, list_id))
        return status

    def lift(self, tenant_id: UUID, list_id: UUID, address: EmailAddress, evidence: Evidence) -> Status:
        """Lifts a complaint and returns the state; raises LIST_NOT_FOUND or SUBSCRIPTION_NOT_FOUND."""
        status = self._change(consent.lift_complaint, tenant_id, list_id, address, evidence)
        self._audit.record(_event("complaint_lifted", tenant_id, list_id))
        return status

    def _change(
        self,
        rule: Callable[[Subscription], Subscription],
        tenant_id: UUID,
        list_id: UUID,
        address: EmailAddress,
        evidence: Evidence,
    ) -> Status:
        found = self._lists.get(list_id, tenant_id)
        with self._database.brief(found.tenant_id) as transaction:
            now, before = subscription_store.find_by_address(
                transaction.run, found.tenant_id, found.id, address.key, lock=True
            )
            if before is None:
                raise MessmailError(
                    Reason.ERROR_REASON_SUBSCRIPTION_NOT_FOUND, "email: this address was never on the list"
                )
            after = rule(before)
            if after != before:
                entry = LogEntry(Through.OPERATOR, now, evidence)
                subscription_store.replace(transaction.finish, [consent.change(before, after, now)], entry)
        return consent.status_at(after, now)


def _event(name: str, tenant_id: UUID, list_id: UUID) -> Event:
    # Whose complaint it was is in the consent log.
    return Event.of_caller(name, tenant_id=str(tenant_id), list_id=str(list_id))
