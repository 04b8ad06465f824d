"""Reads who may be mailed: pages of the confirmed, and groups at the moment of sending."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from member_center.records import AudienceMember, Recipient, Standing, Status
from member_center.storage.tables import subscriptions

_Now = sa.DateTime(timezone=True)


def read_now(connection: Connection) -> datetime:
    """Reads the time."""
    now: datetime = connection.execute(sa.select(sa.func.messmail_now(type_=_Now))).scalar_one()
    return now


def read_confirmed(
    connection: Connection, tenant_id: UUID, list_id: UUID, as_of: datetime, after: UUID | None, limit: int
) -> list[AudienceMember]:
    """Reads a page of those who had confirmed by a time and still stand so, ordered by id."""
    query = (
        sa.select(subscriptions.c.id, sa.func.split_part(subscriptions.c.address, "@", 2).label("domain"))
        .where(
            subscriptions.c.tenant_id == tenant_id,
            subscriptions.c.list_id == list_id,
            subscriptions.c.standing == Standing.CONFIRMED.value,
            subscriptions.c.confirmed_at <= as_of,
        )
        .order_by(subscriptions.c.id)
        .limit(limit)
    )
    if after is not None:
        query = query.where(subscriptions.c.id > after)
    return [AudienceMember(row.id, row.domain) for row in connection.execute(query)]


def read_recipients(
    connection: Connection, tenant_id: UUID, list_id: UUID, ids: Sequence[UUID]
) -> tuple[datetime, list[Recipient]]:
    """Reads subscriptions in one snapshot, and a time that is not later than it.

    Both come from one statement: messmail_now() is the time at which the statement came in, before its snapshot.
    """
    rows = connection.execute(_RECIPIENTS, {"tenant_id": tenant_id, "list_id": list_id, "ids": list(ids)}).all()
    return rows[0].now, [
        Recipient(row.id, Status(row.status), row.address, row.preferences) for row in rows if row.id is not None
    ]


# The state as consent.status_at() tells it: what is pending lies over the standing until it expires.
_RECIPIENTS = sa.text(
    """
    SELECT clock.now, found.*
    FROM (SELECT messmail_now() AS now) clock
    LEFT JOIN (
        SELECT id, address, preferences::text AS preferences,
            CASE
                WHEN pending_expires_at > (SELECT messmail_now()) THEN 'pending'
                WHEN standing = 'unconfirmed' THEN 'expired'
                ELSE standing
            END AS status
        FROM subscriptions
        WHERE tenant_id = :tenant_id AND list_id = :list_id AND id = ANY(CAST(:ids AS uuid[]))
    ) found ON true
    """
).columns(now=_Now, id=sa.Uuid, address=sa.Text, preferences=sa.Text, status=sa.Text)
