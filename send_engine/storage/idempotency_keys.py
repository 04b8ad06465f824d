"""Statements on idempotency keys, in a tenant's transaction; remove_old is for the owner of the database."""

from __future__ import annotations

from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from send_engine.storage.tables import idempotency_keys


def find(connection: Connection, tenant_id: UUID, client_id: UUID, key_hash: bytes) -> tuple[UUID, bytes] | None:
    """Reads the job that was made with a key, and the fingerprint of the request."""
    c = idempotency_keys.c
    row = connection.execute(
        sa.select(c.job_id, c.fingerprint).where(
            c.tenant_id == tenant_id, c.client_id == client_id, c.key_hash == key_hash
        )
    ).first()
    return None if row is None else (row.job_id, row.fingerprint)


def try_lock(connection: Connection, number: int) -> bool:
    """Takes the lock with this number until the transaction ends; False when somebody has it."""
    return bool(connection.execute(sa.text("SELECT pg_try_advisory_xact_lock(:number)"), {"number": number}).scalar())


def insert(
    connection: Connection, tenant_id: UUID, client_id: UUID, key_hash: bytes, fingerprint: bytes, job_id: UUID
) -> None:
    """Stores a key."""
    connection.execute(
        sa.insert(idempotency_keys).values(
            tenant_id=tenant_id,
            client_id=client_id,
            key_hash=key_hash,
            fingerprint=fingerprint,
            job_id=job_id,
            created_at=sa.text("messmail_now()"),
        )
    )


def remove_old(connection: Connection) -> int:
    """Removes keys older than a day, which is what the owner's policy shows it; returns how many."""
    return connection.execute(sa.delete(idempotency_keys)).rowcount
