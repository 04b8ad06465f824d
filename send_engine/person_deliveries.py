"""One person in the ledger: the deliveries of the person's subscriptions, to be shown or made nobody's.

The ledger has no index on people, which would cost every mail: job by job, each in a transaction of its own, all
deliveries of the tenant are read through.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from uuid import UUID

from send_engine.records import PersonDelivery
from send_engine.storage import person_deliveries as rows
from servicekit.audit import AuditLog, Event
from servicekit.database import Database


class PersonDeliveries:
    """The deliveries to one person."""

    def __init__(self, database: Database, audit: AuditLog) -> None:
        self._database = database
        self._audit = audit

    def export(self, tenant_id: UUID, subscription_ids: Sequence[UUID]) -> Iterator[PersonDelivery]:
        """Returns what became of the mails to these subscriptions, oldest job first."""
        self._audit.record(_event("recipient_exported", tenant_id, subscription_ids))
        for job_id in self._jobs(tenant_id):
            with self._database.tenant(tenant_id) as connection:
                found = rows.find(connection, tenant_id, job_id, subscription_ids)
            yield from found

    def erase(self, tenant_id: UUID, subscription_ids: Sequence[UUID]) -> int:
        """Makes these deliveries nobody's, and returns how many; their states stay, so that counters still add up."""
        erased = 0
        for job_id in self._jobs(tenant_id):
            with self._database.tenant(tenant_id) as connection:
                erased += rows.disown(connection, tenant_id, job_id, subscription_ids)
        self._audit.record(_event("recipient_erased", tenant_id, subscription_ids, deliveries=erased))
        return erased

    def _jobs(self, tenant_id: UUID) -> list[UUID]:
        with self._database.tenant(tenant_id) as connection:
            return rows.read_jobs(connection, tenant_id)


def _event(name: str, tenant_id: UUID, subscription_ids: Sequence[UUID], **facts: int) -> Event:
    ids = [str(each) for each in subscription_ids]
    return Event.of_caller(name, tenant_id=str(tenant_id), subscription_ids=ids, **facts)
