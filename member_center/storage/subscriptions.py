"""Stores subscriptions, each change together with its line in the consent log and its mail in the outbox.

A change is one statement, whether of one person or of a page of an import, so that neither can be stored without the
other. Every read tells the time too, by the database's clock.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from member_center.records.consent import Change, LogEntry, Pending, Standing, Subscription
from servicekit.database import Run
from servicekit.identifiers import uuid7
from servicekit.statements import Statement

# Named one by one: a prepared statement with * would break in old processes when a newer revision adds a column.
COLUMNS = (
    "tenant_id, list_id, id, address_key, address, standing, generation, preferences, confirmed_at, pending_since, "
    "pending_expires_at, pending_preferences, pending_mailed_at"
)


def _find(where: str, lock: str = "") -> Statement:
    # One row comes back even where there is no subscription, because the time is asked for too.
    return Statement(
        f"""
        WITH found AS (SELECT {COLUMNS} FROM subscriptions WHERE tenant_id = :tenant_id AND {where} {lock})
        SELECT clock.now, found.* FROM (SELECT messmail_now() AS now) clock LEFT JOIN found ON true
        """
    )


def has_address(address_key: str, list_id: str) -> str:
    """Writes the condition that somebody on a list has an address, so that it is looked for in the index of addresses.

    Compared as text, the list cannot be looked for in the primary key. That begins with tenant and list: while a list
    grows, the planner takes a whole list for one row, and would now and then read all of it for one address.
    """
    return f"address_key = {address_key} AND list_id::text = CAST({list_id} AS uuid)::text"


_BY_ADDRESS, _BY_ADDRESS_LOCKED = (_find(has_address(":address_key", ":list_id"), lock) for lock in ("", "FOR UPDATE"))
_BY_ID, _BY_ID_LOCKED = (_find("list_id = :list_id AND id = :id", lock) for lock in ("", "FOR UPDATE"))
# Each address is looked up by itself (LATERAL with LIMIT): as long as a table has no statistics, the planner would
# rather read the whole list, once for each page of an import.
_BY_ADDRESSES_LOCKED = Statement(
    f"""
    SELECT clock.now, found.* FROM (SELECT messmail_now() AS now) clock LEFT JOIN (
        SELECT present.* FROM unnest(CAST(:address_keys AS text[])) AS wanted (address_key)
        CROSS JOIN LATERAL (
            SELECT {COLUMNS} FROM subscriptions
            WHERE tenant_id = :tenant_id AND {has_address("wanted.address_key", ":list_id")} LIMIT 1 FOR UPDATE
        ) present
    ) found ON true
    """
)

_GIVEN = """
    WITH given AS (
        SELECT * FROM jsonb_to_recordset(CAST(:changes AS jsonb)) AS given (
            id uuid, address_key text, address text, standing text, generation integer, preferences jsonb,
            confirmed_at timestamptz, pending_since timestamptz, pending_expires_at timestamptz,
            pending_preferences jsonb, pending_mailed_at timestamptz, status text, mail_id uuid
        )
    )
"""
_LOG_AND_QUEUE = """
    logged AS (
        INSERT INTO consent_log (
            tenant_id, list_id, subscription_id, generation, status,
            through, at, client_id, ip, user_agent, source_url, evidence, text_version
        )
        SELECT :tenant_id, :list_id, id, generation, status,
            :through, :at, CAST(:client_id AS uuid), :ip, :user_agent, :source_url, :evidence, :text_version
        FROM given JOIN stored USING (id) WHERE status IS NOT NULL
    ), queued AS (
        INSERT INTO confirmation_mails (tenant_id, id, list_id, subscription_id, created_at, due_at)
        SELECT :tenant_id, mail_id, :list_id, id, :at, :at
        FROM given JOIN stored USING (id) WHERE mail_id IS NOT NULL
        ON CONFLICT DO NOTHING
    )
    SELECT id FROM stored
"""
_ADD = Statement(
    f"""
    {_GIVEN}, stored AS (
        INSERT INTO subscriptions (
            tenant_id, list_id, id, address_key, address, standing, generation, preferences,
            confirmed_at, pending_since, pending_expires_at, pending_preferences, pending_mailed_at
        )
        SELECT :tenant_id, :list_id, id, address_key, address, standing, generation, preferences,
            confirmed_at, pending_since, pending_expires_at, pending_preferences, pending_mailed_at
        FROM given ORDER BY address_key
        ON CONFLICT (tenant_id, list_id, address_key) DO NOTHING
        RETURNING id
    ), {_LOG_AND_QUEUE}
    """
)
_REPLACE = Statement(
    f"""
    {_GIVEN}, stored AS (
        UPDATE subscriptions present
        SET standing = given.standing, generation = given.generation, preferences = given.preferences,
            confirmed_at = given.confirmed_at, pending_since = given.pending_since,
            pending_expires_at = given.pending_expires_at, pending_preferences = given.pending_preferences,
            pending_mailed_at = given.pending_mailed_at
        FROM given WHERE present.tenant_id = :tenant_id AND present.list_id = :list_id AND present.id = given.id
        RETURNING present.id
    ), {_LOG_AND_QUEUE}
    """
)
_SET_PREFERENCES = Statement(
    "UPDATE subscriptions SET preferences = CAST(:preferences AS jsonb) "
    "WHERE tenant_id = :tenant_id AND list_id = :list_id AND id = :id"
)


def find_by_address(
    run: Run, tenant_id: UUID, list_id: UUID, address_key: str, *, lock: bool = False
) -> tuple[datetime, Subscription | None]:
    """Reads a person's subscription to a list; locked, it stays as read until the transaction ends."""
    parameters = {"tenant_id": tenant_id, "list_id": list_id, "address_key": address_key}
    (row,) = run(_BY_ADDRESS_LOCKED if lock else _BY_ADDRESS, parameters)
    return row.now, from_row(row) if row.id is not None else None


def find_by_id(
    run: Run, tenant_id: UUID, list_id: UUID, subscription_id: UUID, *, lock: bool = False
) -> tuple[datetime, Subscription | None]:
    """Reads a subscription; locked, it stays as read until the transaction ends."""
    parameters = {"tenant_id": tenant_id, "list_id": list_id, "id": subscription_id}
    (row,) = run(_BY_ID_LOCKED if lock else _BY_ID, parameters)
    return row.now, from_row(row) if row.id is not None else None


def lock_by_addresses(
    run: Run, tenant_id: UUID, list_id: UUID, address_keys: Sequence[str]
) -> tuple[datetime, dict[str, Subscription]]:
    """Reads and locks the subscriptions of many people to a list, by address key."""
    # Locked in one order everywhere, so that two imports never wait for each other.
    parameters = {"tenant_id": tenant_id, "list_id": list_id, "address_keys": sorted(address_keys)}
    rows = run(_BY_ADDRESSES_LOCKED, parameters)
    return rows[0].now, {row.address_key: from_row(row) for row in rows if row.id is not None}


def add(run: Run, changes: Sequence[Change], entry: LogEntry) -> set[UUID]:
    """Adds subscriptions to one list and returns the ids of those added.

    Not among them is who got a subscription to that list from somebody else in the meantime.
    """
    return _store(run, _ADD, changes, entry)


def replace(run: Run, changes: Sequence[Change], entry: LogEntry) -> None:
    """Stores subscriptions to one list that were read and locked before."""
    _store(run, _REPLACE, changes, entry)


def set_preferences(run: Run, subscription: Subscription) -> None:
    """Stores the preferences of a subscription that was read and locked before; its consent does not change."""
    parameters = {
        "tenant_id": subscription.tenant_id,
        "list_id": subscription.list_id,
        "id": subscription.id,
        "preferences": _json(subscription.preferences),
    }
    run(_SET_PREFERENCES, parameters)


def from_row(row: Any) -> Subscription:
    """Makes the record of a row that has all columns of the table."""
    pending = None
    if row.pending_since is not None:
        pending = Pending(row.pending_since, row.pending_expires_at, row.pending_preferences, row.pending_mailed_at)
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


def _store(run: Run, statement: Statement, changes: Sequence[Change], entry: LogEntry) -> set[UUID]:
    if not changes:
        return set()
    parameters = {
        "tenant_id": changes[0].subscription.tenant_id,
        "list_id": changes[0].subscription.list_id,
        "changes": _json([_given(change) for change in changes]),
        "through": entry.through.value,
        "at": entry.at,
        "client_id": entry.evidence.client_id,
        "ip": entry.evidence.ip,
        "user_agent": entry.evidence.user_agent,
        "source_url": entry.evidence.source_url,
        "evidence": entry.evidence.text,
        "text_version": entry.text_version,
    }
    return {row.id for row in run(statement, parameters)}


def _given(change: Change) -> dict[str, Any]:
    subscription, pending = change.subscription, change.subscription.pending
    return {
        "id": subscription.id,
        "address_key": subscription.address_key,
        "address": subscription.address,
        "standing": subscription.standing,
        "generation": subscription.generation,
        "preferences": subscription.preferences,
        "confirmed_at": subscription.confirmed_at,
        "pending_since": pending and pending.since,
        "pending_expires_at": pending and pending.expires_at,
        "pending_preferences": pending and pending.preferences,
        "pending_mailed_at": pending and pending.mailed_at,
        "status": change.logged,
        "mail_id": uuid7() if change.is_mailed else None,
    }


def _json(value: Any) -> str:
    # Whatever JSON does not know (ids, times) is written as text, which is what the columns read.
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)
