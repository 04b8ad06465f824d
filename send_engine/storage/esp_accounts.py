"""Statements on the tenants' ESP accounts. The URL comes and goes encrypted."""

from __future__ import annotations

from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Connection

from send_engine.storage.tables import esp_accounts


def put(connection: Connection, tenant_id: UUID, relay: str, encrypted_url: bytes) -> None:
    """Stores the tenant's account in place of any before."""
    values = {"relay": relay, "encrypted_url": encrypted_url}
    connection.execute(
        insert(esp_accounts)
        .values(tenant_id=tenant_id, **values)
        .on_conflict_do_update(index_elements=["tenant_id"], set_=values)
    )


def find_relay(connection: Connection, tenant_id: UUID) -> str | None:
    """Reads the tenant's relay, without credentials; None when it has no account."""
    c = esp_accounts.c
    return connection.execute(sa.select(c.relay).where(c.tenant_id == tenant_id)).scalar()


def find_url(connection: Connection, tenant_id: UUID) -> bytes | None:
    """Reads the tenant's encrypted URL; None when it has no account."""
    c = esp_accounts.c
    return connection.execute(sa.select(c.encrypted_url).where(c.tenant_id == tenant_id)).scalar()


def tenants(connection: Connection) -> list[UUID]:
    """Reads which tenants have an account, in a transaction of the dispatch role."""
    return list(connection.execute(sa.select(esp_accounts.c.tenant_id)).scalars())


def replace_url(connection: Connection, tenant_id: UUID, before: bytes, encrypted_url: bytes) -> None:
    """Stores the same URL, encrypted anew; leaves one alone that was set in the meantime."""
    c = esp_accounts.c
    is_it = sa.and_(c.tenant_id == tenant_id, c.encrypted_url == before)
    connection.execute(sa.update(esp_accounts).where(is_it).values(encrypted_url=encrypted_url))
