"""Tenants: the customers of the installation, made and listed by the operator."""

from __future__ import annotations

from uuid import UUID, uuid4

from member_center.pages import Page, page_of, read_page_token
from member_center.records.installation import OPERATOR, Tenant
from member_center.storage import Connection
from member_center.storage import tenants as tenant_store
from member_center.texts import check_plain_text
from servicekit.audit import AuditLog, Event
from servicekit.database import Database
from servicekit.errors import MessmailError, Reason


class Tenants:
    """The tenants of one installation."""

    def __init__(self, database: Database, audit: AuditLog) -> None:
        self._database = database
        self._audit = audit

    def create(self, name: str) -> UUID:
        """Makes a tenant and returns its id; raises INVALID_FIELD."""
        check_plain_text("name", name)
        tenant_id = uuid4()
        with self._database.tenant(tenant_id) as connection:
            tenant_store.add_tenant(connection, tenant_id, name)
            self._audit.append(connection, Event.of_caller("tenant_created", tenant_id=str(tenant_id)))
        return tenant_id

    def page(self, page_token: str, page_size: int) -> Page[Tenant]:
        """Returns a page of the tenants, oldest first."""
        after = read_page_token(page_token)
        with self._database.dispatch() as connection:
            found = tenant_store.read_tenants(connection, after, page_size + 1)
        return page_of(found, page_size, lambda tenant: (tenant.created_at, tenant.tenant_id))


def check_tenant(connection: Connection, tenant_id: UUID) -> None:
    """Raises TENANT_NOT_FOUND unless the transaction's tenant exists; the operator is none."""
    if tenant_id == OPERATOR or not tenant_store.has_tenant(connection, tenant_id):
        raise MessmailError(Reason.ERROR_REASON_TENANT_NOT_FOUND, "tenant_id: there is no such tenant")
