"""People: all that is known of one at a tenant, to be shown or erased in one call.

Of an erased person a keyed hash stays (see suppressions), so that nobody but the person can bring them back: an
unsubscription outlives erasure, and so does a complaint.
"""

from __future__ import annotations

from uuid import UUID

from member_center import consent
from member_center.address_hashes import AddressHashes
from member_center.records.consent import Standing, SuppressionReason, SuppressionScope
from member_center.records.people import PersonExport, PersonSubscription
from member_center.storage import people as people_store
from member_center.storage import suppressions as suppression_store
from member_center.tenants import check_tenant
from servicekit.addresses import EmailAddress
from servicekit.audit import AuditLog, Event
from servicekit.database import Database


class People:
    """The people of one installation's tenants."""

    def __init__(self, database: Database, hashes: AddressHashes, audit: AuditLog) -> None:
        self._database = database
        self._audit = audit
        self._hashes = hashes

    def export(self, tenant_id: UUID, address: EmailAddress) -> PersonExport:
        """Returns all that is known of a person, read in one transaction; raises TENANT_NOT_FOUND."""
        address_hash = self._hashes.hash(tenant_id, address.key)
        with self._database.tenant(tenant_id) as connection:
            check_tenant(connection, tenant_id)
            now = people_store.read_now(connection)
            subscriptions = [
                PersonSubscription(
                    found,
                    list_name,
                    consent.status_at(found, now),
                    people_store.read_consent_log(connection, found),
                    people_store.read_mails(connection, found),
                )
                for found, list_name in people_store.read_subscriptions(connection, tenant_id, address.key)
            ]
            suppressions = suppression_store.read_page(connection, tenant_id, address_hash, None, None)
            ids = [each.subscription.id for each in subscriptions]
            self._audit.append(connection, _event("person_exported", tenant_id, ids))
        return PersonExport(now, subscriptions, suppressions)

    def erase(self, tenant_id: UUID, address: EmailAddress) -> list[UUID]:
        """Erases a person, and returns the ids of the subscriptions that are no more; raises TENANT_NOT_FOUND."""
        address_hash = self._hashes.hash(tenant_id, address.key)
        with self._database.tenant(tenant_id) as connection:
            check_tenant(connection, tenant_id)
            suppression_store.erase_alone(connection, tenant_id)
            erased = people_store.remove(connection, tenant_id, address.key)
            suppression_store.put(
                connection, tenant_id, address_hash, None, SuppressionScope.NEWSLETTER, SuppressionReason.ERASED
            )
            for list_id, _, standing in erased:
                if standing is Standing.COMPLAINED:
                    suppression_store.put(
                        connection,
                        tenant_id,
                        address_hash,
                        list_id,
                        SuppressionScope.EVERYTHING,
                        SuppressionReason.COMPLAINT,
                    )
            ids = [subscription_id for _, subscription_id, _ in erased]
            self._audit.append(connection, _event("person_erased", tenant_id, ids))
        return ids


def _event(name: str, tenant_id: UUID, subscription_ids: list[UUID]) -> Event:
    return Event.of_caller(name, tenant_id=str(tenant_id), subscription_ids=[str(each) for each in subscription_ids])
