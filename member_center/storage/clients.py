"""Stores OAuth clients, and finds the tenant of one through its directory."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from member_center.records.installation import OPERATOR, Client, Usage
from member_center.storage.tables import clients
from servicekit.database import Run
from servicekit.statements import Call, Statement

_ENTER_TENANT_SQL = (
    "SELECT set_config('app.tenant', coalesce(tenant_of_client(:client_id), CAST(:otherwise AS uuid))::text, true)"
)
_ENTER_TENANT = sa.text(_ENTER_TENANT_SQL)
# Every token that is asked for runs these two. The tenant is the one that the look-up has just entered.
_LOOK_UP = Statement(_ENTER_TENANT_SQL)
_READ = Statement(
    "SELECT tenant_id, id, usage, scopes, secret_hash, previous_secret_hash, disabled_at FROM clients "
    "WHERE tenant_id = CAST(current_setting('app.tenant') AS uuid) AND id = :client_id"
)


def add_client(connection: Connection, client: Client, name: str) -> None:
    """Adds a client."""
    connection.execute(
        sa.insert(clients).values(
            tenant_id=client.tenant_id,
            id=client.id,
            name=name,
            usage=client.usage.value,
            scopes=list(client.scopes),
            secret_hash=client.secret_hash,
        )
    )


def enter_tenant_of(connection: Connection, client_id: UUID) -> UUID:
    """Lets a directory transaction see the tenant of a client, and returns it: the operator for an unknown client."""
    return UUID(connection.execute(_ENTER_TENANT, {"client_id": client_id, "otherwise": OPERATOR}).scalar_one())


def look_up_tenant(client_id: UUID) -> Call:
    """What a brief directory transaction enters the tenant of a client by: the operator's for an unknown client."""
    return _LOOK_UP, {"client_id": client_id, "otherwise": OPERATOR}


def read_client(run: Run, client_id: UUID) -> Client | None:
    """Reads a client of the transaction's tenant."""
    rows = run(_READ, {"client_id": client_id})
    if not rows:
        return None
    (row,) = rows
    return Client(
        tenant_id=row.tenant_id,
        id=row.id,
        usage=Usage(row.usage),
        scopes=tuple(row.scopes),
        secret_hash=row.secret_hash,
        previous_secret_hash=row.previous_secret_hash,
        disabled_at=row.disabled_at,
    )


def has_clients(connection: Connection, tenant_id: UUID) -> bool:
    """Tells whether the transaction's tenant has a client that is not disabled."""
    query = sa.select(sa.true()).where(clients.c.tenant_id == tenant_id, clients.c.disabled_at.is_(None)).limit(1)
    return connection.execute(query).first() is not None


def rotate_secret_hash(connection: Connection, tenant_id: UUID, client_id: UUID, secret_hash: bytes) -> bool:
    """Puts a new secret's hash in front; the one before stays, any older one goes. False: no such client is left."""
    changed = connection.execute(
        sa.update(clients)
        .where(_is(tenant_id, client_id), clients.c.disabled_at.is_(None))
        .values(secret_hash=secret_hash, previous_secret_hash=clients.c.secret_hash)
    )
    return changed.rowcount == 1


def disable_client(connection: Connection, tenant_id: UUID, client_id: UUID) -> datetime | None:
    """Ends a client and returns when it ended, which stays the first time; None when there is no such client."""
    ended_at: datetime | None = connection.execute(
        sa.update(clients)
        .where(_is(tenant_id, client_id))
        .values(disabled_at=sa.func.coalesce(clients.c.disabled_at, sa.func.messmail_now()))
        .returning(clients.c.disabled_at)
    ).scalar_one_or_none()
    return ended_at


def _is(tenant_id: UUID, client_id: UUID) -> sa.ColumnElement[bool]:
    return sa.and_(clients.c.tenant_id == tenant_id, clients.c.id == client_id)
