"""Stores which addresses are suppressed, under keyed hashes: whose a hash is cannot be told from the table."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Connection

from member_center.records.consent import Suppression, SuppressionReason, SuppressionScope
from member_center.records.installation import OPERATOR
from member_center.storage.tables import address_hash_keys, suppressions
from servicekit.database import Run
from servicekit.statements import Statement

# HMAC-SHA-256 (RFC 2104) of an address key, as AddressHashes computes it: the database looks a whole group up in one
# statement, without a column that every subscription would carry. Its parameters are hash_inner and hash_outer.
HASH = "sha256(CAST(:hash_outer AS bytea) || sha256(CAST(:hash_inner AS bytea) || convert_to(address_key, 'UTF8')))"


def lookup(address_hash: str, list_id: str, condition: str = "true") -> str:
    """Writes the SQL that tells whether an address is suppressed for a list: true, or null.

    It is a look-up for each row, with LIMIT and not EXISTS: as long as a table has no statistics, the planner would
    rather read all suppressions of the tenant, once for each statement.
    """
    return f"""(
        SELECT true FROM suppressions suppression
        WHERE suppression.tenant_id = :tenant_id AND suppression.address_hash = {address_hash}
            AND (suppression.list_id IS NULL OR suppression.list_id = {list_id}) AND {condition}
        LIMIT 1
    )"""


_SUPPRESSED = Statement(
    f"""
    SELECT address_hash FROM unnest(CAST(:hashes AS bytea[])) AS wanted (address_hash)
    WHERE {lookup("wanted.address_hash", ":list_id")}
    """
)


# Held together by all who bring people in on what they read here, and alone by whoever erases: so nobody is brought in
# on what was read before the erasure.
_ERASURES = "hashtextextended('messmail erasures ' || CAST(:tenant_id AS text), 0)"
_HOLD_OFF_ERASURES = Statement(f"SELECT pg_advisory_xact_lock_shared({_ERASURES})")
_ERASE_ALONE = sa.text(f"SELECT pg_advisory_xact_lock({_ERASURES})")


def hold_off_erasures(run: Run, tenant_id: UUID) -> None:
    """Lets nobody at a tenant be erased until the transaction ends; waits for an erasure under way."""
    run(_HOLD_OFF_ERASURES, {"tenant_id": str(tenant_id)})


def erase_alone(connection: Connection, tenant_id: UUID) -> None:
    """Waits for those who hold erasures off, and lets nobody else do so until the transaction ends."""
    connection.execute(_ERASE_ALONE, {"tenant_id": str(tenant_id)})


def read_key(connection: Connection) -> bytes | None:
    """Reads the installation's key of the hashes, encrypted, in the operator's transaction; None before the first."""
    found: bytes | None = connection.execute(sa.select(address_hash_keys.c.encrypted_key)).scalar_one_or_none()
    return found


def add_key(connection: Connection, encrypted_key: bytes) -> None:
    """Stores the installation's key, unless there is one already."""
    values = {"tenant_id": OPERATOR, "encrypted_key": encrypted_key}
    connection.execute(insert(address_hash_keys).values(values).on_conflict_do_nothing())


def replace_key(connection: Connection, encrypted_key: bytes) -> None:
    """Stores the same key, encrypted anew."""
    is_it = address_hash_keys.c.tenant_id == OPERATOR
    connection.execute(sa.update(address_hash_keys).where(is_it).values(encrypted_key=encrypted_key))


def read_suppressed(run: Run, tenant_id: UUID, list_id: UUID, hashes: Sequence[bytes]) -> set[bytes]:
    """Tells which addresses are suppressed for a list, for whatever reason."""
    rows = run(_SUPPRESSED, {"tenant_id": tenant_id, "list_id": list_id, "hashes": list(hashes)})
    return {bytes(row.address_hash) for row in rows}


def put(
    connection: Connection,
    tenant_id: UUID,
    address_hash: bytes,
    list_id: UUID | None,
    scope: SuppressionScope,
    reason: SuppressionReason,
) -> Suppression:
    """Suppresses an address, or sets the scope anew where it is suppressed for that reason already."""
    statement = insert(suppressions).values(
        tenant_id=tenant_id, id=uuid4(), address_hash=address_hash, list_id=list_id, scope=scope, reason=reason
    )
    key = [suppressions.c[name] for name in ("tenant_id", "address_hash", "list_id", "reason")]
    stored = statement.on_conflict_do_update(index_elements=key, set_={"scope": statement.excluded.scope})
    return _from_row(connection.execute(stored.returning(suppressions)).one())


def read_page(
    connection: Connection,
    tenant_id: UUID,
    address_hash: bytes | None,
    after: tuple[datetime, UUID] | None,
    limit: int | None,
) -> list[Suppression]:
    """Reads suppressions of a tenant, or of one address, oldest first. after is time and id of the last one read."""
    c = suppressions.c
    query = sa.select(suppressions).where(c.tenant_id == tenant_id).order_by(c.created_at, c.id).limit(limit)
    if address_hash is not None:
        query = query.where(c.address_hash == address_hash)
    if after is not None:
        query = query.where(sa.tuple_(c.created_at, c.id) > sa.tuple_(*after))
    return [_from_row(row) for row in connection.execute(query)]


def remove(connection: Connection, tenant_id: UUID, suppression_id: UUID) -> SuppressionReason | None:
    """Removes a suppression, and returns why there was one; None when there was none."""
    c = suppressions.c
    ended = sa.delete(suppressions).where(c.tenant_id == tenant_id, c.id == suppression_id).returning(c.reason)
    reason = connection.execute(ended).scalar_one_or_none()
    return None if reason is None else SuppressionReason(reason)


def _from_row(row: sa.Row[Any]) -> Suppression:
    return Suppression(row.id, row.list_id, SuppressionScope(row.scope), SuppressionReason(row.reason), row.created_at)
