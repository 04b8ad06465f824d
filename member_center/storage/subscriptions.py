"""Stores subscriptions and their consent log. Every read tells the time too, by the database's clock."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Connection

from member_center.records import Evidence, Pending, Standing, Status, Subscription, Through
from member_center.storage.tables import consent_log, subscriptions

_Now = sa.DateTime(timezone=True)


def find_by_address(
    connection: Connection, tenant_id: UUID, list_id: UUID, address_key: str, *, lock: bool = False
) -> tuple[datetime, Subscription | None]:
    """Reads a person's subscription to a list; locked, it stays as read until the transaction ends."""
    return _find(connection, tenant_id, list_id, subscriptions.c.address_key == address_key, lock)


def find_by_id(
    connection: Connection, tenant_id: UUID, list_id: UUID, subscription_id: UUID, *, lock: bool = False
) -> tuple[datetime, Subscription | None]:
    """Reads a subscription; locked, it stays as read until the transaction ends."""
    return _find(connection, tenant_id, list_id, subscriptions.c.id == subscription_id, lock)


def lock_by_addresses(
    connection: Connection, tenant_id: UUID, list_id: UUID, address_keys: Sequence[str]
) -> tuple[datetime, dict[str, Subscription]]:
    """Reads and locks the subscriptions of many people to a list, by address key."""
    query = (
        sa.select(subscriptions)
        .where(
            subscriptions.c.tenant_id == tenant_id,
            subscriptions.c.list_id == list_id,
            subscriptions.c.address_key == sa.any_(sa.literal(list(address_keys), sa.ARRAY(sa.Text))),
        )
        # In one order everywhere, so that two imports never wait for each other.
        .order_by(subscriptions.c.address_key)
        .with_for_update()
    )
    found = {row.address_key: from_row(row) for row in connection.execute(query)}
    return connection.execute(sa.select(sa.func.messmail_now(type_=_Now))).scalar_one(), found


def add(connection: Connection, made: Sequence[Subscription]) -> list[UUID]:
    """Adds subscriptions and returns the ids of those added; not added is who has one on that list meanwhile."""
    statement = insert(subscriptions).on_conflict_do_nothing(index_elements=["tenant_id", "list_id", "address_key"])
    rows = [_values(subscription) for subscription in made]
    if len(rows) == 1:
        found = connection.execute(statement.values(rows[0]).returning(subscriptions.c.id))
    else:
        found = connection.execute(statement.returning(subscriptions.c.id), rows)
    return list(found.scalars())


def replace(connection: Connection, changed: Sequence[Subscription]) -> None:
    """Stores subscriptions that were read and locked before."""
    if not changed:
        return
    statement = sa.update(subscriptions).where(
        subscriptions.c.tenant_id == sa.bindparam("at_tenant"),
        subscriptions.c.list_id == sa.bindparam("at_list"),
        subscriptions.c.id == sa.bindparam("at_id"),
    )
    rows = []
    for subscription in changed:
        values = _values(subscription)
        keys = {f"at_{name}": values.pop(column) for name, column in _KEYS.items()}
        rows.append(values | keys)
    connection.execute(statement, rows)


def log(
    connection: Connection,
    changed: Sequence[tuple[Subscription, Status]],
    *,
    through: Through,
    at: datetime,
    evidence: Evidence,
    text_version: str,
) -> None:
    """Appends a line to the consent log of each subscription, for its present generation and the state it is in."""
    if not changed:
        return
    common = {
        "through": through.value,
        "at": at,
        "client_id": evidence.client_id,
        "ip": evidence.ip,
        "user_agent": evidence.user_agent,
        "source_url": evidence.source_url,
        "evidence": evidence.text,
        "text_version": text_version,
    }
    lines = [
        {
            "tenant_id": subscription.tenant_id,
            "list_id": subscription.list_id,
            "subscription_id": subscription.id,
            "generation": subscription.generation,
            "status": status.value,
            **common,
        }
        for subscription, status in changed
    ]
    connection.execute(sa.insert(consent_log), lines)


def from_row(row: Any) -> Subscription:
    """Makes the record of a row that has all columns of the table."""
    pending = None
    if row.pending_since is not None:
        pending = Pending(row.pending_since, row.pending_expires_at, row.pending_preferences)
    return Subscription(
        tenant_id=row.tenant_id,
        list_id=row.list_id,
        id=row.id,
        address_key=row.address_key,
        address=row.address,
        standing=Standing(row.standing),
        generation=row.generation,
        preferences=row.preferences,
        confirmed_at=row.confirmed_at,
        pending=pending,
    )


_KEYS = {"tenant": "tenant_id", "list": "list_id", "id": "id"}


def _find(
    connection: Connection, tenant_id: UUID, list_id: UUID, which: sa.ColumnElement[bool], lock: bool
) -> tuple[datetime, Subscription | None]:
    query = sa.select(subscriptions).where(
        subscriptions.c.tenant_id == tenant_id, subscriptions.c.list_id == list_id, which
    )
    found = (query.with_for_update() if lock else query).cte("found")
    # One row comes back even where there is no subscription, because the time is asked for too.
    now = sa.select(sa.func.messmail_now(type_=_Now).label("now")).subquery("clock")
    row = connection.execute(sa.select(now, found).select_from(now.outerjoin(found, sa.true()))).one()
    return row.now, from_row(row) if row.id is not None else None


def _values(subscription: Subscription) -> dict[str, Any]:
    pending = subscription.pending
    return {
        "tenant_id": subscription.tenant_id,
        "list_id": subscription.list_id,
        "id": subscription.id,
        "address_key": subscription.address_key,
        "address": subscription.address,
        "standing": subscription.standing.value,
        "generation": subscription.generation,
        "preferences": dict(subscription.preferences),
        "confirmed_at": subscription.confirmed_at,
        "pending_since": pending.since if pending else None,
        "pending_expires_at": pending.expires_at if pending else None,
        "pending_preferences": dict(pending.preferences) if pending and pending.preferences is not None else None,
    }
