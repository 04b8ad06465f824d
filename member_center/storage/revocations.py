"""Stores what ended access tokens before their time. The list is the installation's, so it belongs to the operator."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Connection

from member_center.records.installation import OPERATOR, Ended
from member_center.storage.tables import revocations


def add(connection: Connection, ended: Ended, ended_id: UUID, life: timedelta) -> None:
    """Notes that a token, or every token of a client, has ended; it is forgotten after the life of a token."""
    until = sa.func.messmail_now() + life
    row = insert(revocations).values(tenant_id=OPERATOR, ended=ended.value, id=ended_id, until=until)
    connection.execute(
        row.on_conflict_do_update(index_elements=["tenant_id", "ended", "id"], set_={"until": row.excluded.until})
    )


def read(connection: Connection) -> list[tuple[Ended, UUID]]:
    """Reads what is in force."""
    rows = connection.execute(
        sa.select(revocations.c.ended, revocations.c.id).where(
            revocations.c.tenant_id == OPERATOR, revocations.c.until > sa.func.messmail_now()
        )
    )
    return [(Ended(row.ended), row.id) for row in rows]
