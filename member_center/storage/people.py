"""Reads and removes all that is stored of one person at a tenant. It happens rarely: no index is for it alone."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from member_center.records.consent import Evidence, Standing, Status, Subscription
from member_center.records.people import ConsentLine, PersonMail
from member_center.storage import subscriptions as subscription_store
from member_center.storage.tables import confirmation_mails, consent_log, lists, subscriptions


def read_now(connection: Connection) -> datetime:
    """Reads the time."""
    now: datetime = connection.execute(sa.select(sa.func.messmail_now(type_=sa.DateTime(timezone=True)))).scalar_one()
    return now


def read_subscriptions(connection: Connection, tenant_id: UUID, address_key: str) -> list[tuple[Subscription, str]]:
    """Reads a person's subscriptions, each with the name of its list."""
    s = subscriptions.c
    found = connection.execute(
        sa.select(subscriptions, lists.c.name.label("list_name"))
        .join(lists, sa.and_(lists.c.tenant_id == s.tenant_id, lists.c.id == s.list_id))
        .where(s.tenant_id == tenant_id, s.address_key == address_key)
        .order_by(s.list_id)
    )
    return [(subscription_store.from_row(row), row.list_name) for row in found]


def read_consent_log(connection: Connection, subscription: Subscription) -> list[ConsentLine]:
    """Reads the consent log of a subscription, oldest line first."""
    c = consent_log.c
    rows = connection.execute(
        sa.select(consent_log)
        .where(
            c.tenant_id == subscription.tenant_id,
            c.list_id == subscription.list_id,
            c.subscription_id == subscription.id,
        )
        .order_by(c.generation)
    )
    return [
        ConsentLine(
            row.generation,
            Status(row.status),
            row.through,
            row.at,
            Evidence(row.client_id, row.ip, row.user_agent, row.source_url, row.evidence),
            row.text_version,
        )
        for row in rows
    ]


def read_mails(connection: Connection, subscription: Subscription) -> list[PersonMail]:
    """Reads the confirmation mails of a subscription, oldest first."""
    c = confirmation_mails.c
    rows = connection.execute(
        sa.select(confirmation_mails)
        .where(
            c.tenant_id == subscription.tenant_id,
            c.list_id == subscription.list_id,
            c.subscription_id == subscription.id,
        )
        .order_by(c.created_at, c.id)
    )
    return [PersonMail(row.created_at, row.outcome or "", row.ended_at, row.last_reply) for row in rows]


def remove(connection: Connection, tenant_id: UUID, address_key: str) -> list[tuple[UUID, UUID, Standing]]:
    """Removes a person's subscriptions with log and mails; returns list, id and standing of each."""
    s = subscriptions.c
    rows = connection.execute(
        sa.delete(subscriptions)
        .where(s.tenant_id == tenant_id, s.address_key == address_key)
        .returning(s.list_id, s.id, s.standing)
    )
    return [(row.list_id, row.id, Standing(row.standing)) for row in rows]
