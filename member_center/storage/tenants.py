"""Stores tenants. Each sees its own row only; the names of all are read as the dispatch role, which sees no people."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from member_center.records.installation import OPERATOR, Tenant
from member_center.storage.tables import tenants


def add_tenant(connection: Connection, tenant_id: UUID, name: str) -> None:
    """Adds a tenant, in its own transaction."""
    connection.execute(sa.insert(tenants).values(tenant_id=tenant_id, name=name))


def has_tenant(connection: Connection, tenant_id: UUID) -> bool:
    """Tells whether the transaction's tenant exists."""
    return connection.execute(sa.select(sa.true()).where(tenants.c.tenant_id == tenant_id)).first() is not None


def read_tenants(connection: Connection, after: tuple[datetime, UUID] | None, limit: int) -> list[Tenant]:
    """Reads tenants, oldest first, in a dispatch transaction. after is time and id of the last one read."""
    query = (
        sa.select(tenants)
        .where(tenants.c.tenant_id != OPERATOR)
        .order_by(tenants.c.created_at, tenants.c.tenant_id)
        .limit(limit)
    )
    if after is not None:
        query = query.where(sa.tuple_(tenants.c.created_at, tenants.c.tenant_id) > sa.tuple_(*after))
    return [Tenant(row.tenant_id, row.name, row.created_at) for row in connection.execute(query)]
