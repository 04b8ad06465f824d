"""Stores the two rings of keys, which belong to the operator. What is stored is encrypted."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from member_center.records.installation import OPERATOR, StoredKey
from member_center.storage.tables import link_keys, signing_keys

_LOCK = 0x6B657973


def lock_rings(connection: Connection) -> None:
    """Lets one process at a time add keys, until the transaction ends."""
    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))


def read_signing_keys(connection: Connection) -> tuple[datetime, list[StoredKey]]:
    """Reads the keys that sign access tokens, newest first, and the time."""
    rows = connection.execute(sa.select(signing_keys).order_by(signing_keys.c.created_at.desc(), signing_keys.c.kid))
    keys = [StoredKey(row.kid.encode(), "", row.encrypted_key, row.created_at) for row in rows]
    return _now(connection), keys


def add_signing_key(connection: Connection, kid: str, encrypted_key: bytes) -> None:
    """Adds a key that signs access tokens."""
    connection.execute(sa.insert(signing_keys).values(tenant_id=OPERATOR, kid=kid, encrypted_key=encrypted_key))


def remove_signing_key(connection: Connection, kid: str) -> None:
    """Removes a key that signs access tokens."""
    connection.execute(sa.delete(signing_keys).where(signing_keys.c.tenant_id == OPERATOR, signing_keys.c.kid == kid))


def read_link_keys(connection: Connection) -> tuple[datetime, list[StoredKey]]:
    """Reads the keys that seal links, newest first, and the time."""
    rows = connection.execute(sa.select(link_keys).order_by(link_keys.c.created_at.desc(), link_keys.c.key_id))
    keys = [StoredKey(row.key_id, row.purpose, row.encrypted_key, row.created_at) for row in rows]
    return _now(connection), keys


def add_link_key(connection: Connection, key_id: bytes, purpose: str, encrypted_key: bytes) -> None:
    """Adds a key of one purpose."""
    values = {"tenant_id": OPERATOR, "key_id": key_id, "purpose": purpose, "encrypted_key": encrypted_key}
    connection.execute(sa.insert(link_keys).values(values))


def remove_link_key(connection: Connection, key_id: bytes) -> None:
    """Removes a key that seals links."""
    connection.execute(sa.delete(link_keys).where(link_keys.c.tenant_id == OPERATOR, link_keys.c.key_id == key_id))


def replace_signing_key(connection: Connection, kid: str, encrypted_key: bytes) -> None:
    """Stores the same key, encrypted anew."""
    is_it = sa.and_(signing_keys.c.tenant_id == OPERATOR, signing_keys.c.kid == kid)
    connection.execute(sa.update(signing_keys).where(is_it).values(encrypted_key=encrypted_key))


def replace_link_key(connection: Connection, key_id: bytes, encrypted_key: bytes) -> None:
    """Stores the same key, encrypted anew."""
    is_it = sa.and_(link_keys.c.tenant_id == OPERATOR, link_keys.c.key_id == key_id)
    connection.execute(sa.update(link_keys).where(is_it).values(encrypted_key=encrypted_key))


def _now(connection: Connection) -> datetime:
    now: datetime = connection.execute(sa.select(sa.func.messmail_now(type_=sa.DateTime(timezone=True)))).scalar_one()
    return now
