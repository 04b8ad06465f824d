"""Suppressions: addresses that a tenant must not mail, for one list or all. Consent is not touched by them.

Looked at when a group is about to be mailed (audience), when a confirmation mail is about to leave (outbox), and when
anybody but the person wants to bring the person in (imports, subscriptions).
"""

from __future__ import annotations

from uuid import UUID

from member_center.address_hashes import AddressHashes
from member_center.lists import Lists
from member_center.pages import Page, page_of, read_page_token
from member_center.records.consent import Suppression, SuppressionReason, SuppressionScope
from member_center.storage import suppressions as suppression_store
from member_center.tenants import check_tenant
from servicekit.addresses import EmailAddress
from servicekit.audit import AuditLog, Event
from servicekit.database import Database
from servicekit.errors import MessmailError, Reason, invalid_field


class Suppressions:
    """The suppressions of one installation."""

    def __init__(self, database: Database, lists: Lists, hashes: AddressHashes, audit: AuditLog) -> None:
        self._database = database
        self._audit = audit
        self._lists = lists
        self._hashes = hashes

    def add(
        self,
        tenant_id: UUID,
        list_id: UUID | None,
        address: EmailAddress,
        scope: SuppressionScope,
        reason: SuppressionReason,
    ) -> Suppression:
        """Suppresses an address for a list, or with None for the tenant; raises TENANT_NOT_FOUND or LIST_NOT_FOUND."""
        if list_id is not None:
            self._lists.get(list_id, tenant_id)
        address_hash = self._hashes.hash(tenant_id, address.key)
        with self._database.tenant(tenant_id) as connection:
            check_tenant(connection, tenant_id)
            added = suppression_store.put(connection, tenant_id, address_hash, list_id, scope, reason)
            self._audit.append(connection, _event("suppression_added", tenant_id, added.id))
        return added

    def page(self, tenant_id: UUID, address: EmailAddress | None, page_token: str, page_size: int) -> Page[Suppression]:
        """Returns a page of the tenant's suppressions or of one address's, oldest first; raises TENANT_NOT_FOUND."""
        after = read_page_token(page_token)
        address_hash = None if address is None else self._hashes.hash(tenant_id, address.key)
        with self._database.tenant(tenant_id) as connection:
            check_tenant(connection, tenant_id)
            found = suppression_store.read_page(connection, tenant_id, address_hash, after, page_size + 1)
        return page_of(found, page_size, lambda suppression: (suppression.created_at, suppression.id))

    def remove(self, tenant_id: UUID, suppression_id: UUID) -> None:
        """Lifts a suppression; raises SUPPRESSION_NOT_FOUND, and INVALID_FIELD for that of an erased person."""
        with self._database.tenant(tenant_id) as connection:
            reason = suppression_store.remove(connection, tenant_id, suppression_id)
            if reason is None:
                raise MessmailError(
                    Reason.ERROR_REASON_SUPPRESSION_NOT_FOUND, "suppression_id: the tenant has no such suppression"
                )
            if reason is SuppressionReason.ERASED:
                raise invalid_field(
                    "suppression_id", "the person was erased, and comes back only by confirming with a mailed link"
                )
            self._audit.append(connection, _event("suppression_removed", tenant_id, suppression_id))


def _event(name: str, tenant_id: UUID, suppression_id: UUID) -> Event:
    return Event.of_caller(name, tenant_id=str(tenant_id), suppression_id=str(suppression_id))
