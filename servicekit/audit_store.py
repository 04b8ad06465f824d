"""The tables of the audit log, the same in each service, and the statements on them. They belong to the operator.

Chaining and sealing are audit's; that the tables only grow is enforced by grants and triggers (migrations).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.engine import Connection

__all__ = ["OPERATOR", "Connection"]

OPERATOR = UUID(int=0)

_metadata = sa.MetaData()


def add_audit_tables(metadata: sa.MetaData) -> tuple[sa.Table, sa.Table]:
    """Adds the log and its head to a service's tables."""
    log = sa.Table(
        "audit_log",
        metadata,
        sa.Column("tenant_id", sa.Uuid, primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("event", sa.Text, nullable=False),
        sa.Column("client_id", sa.Uuid),
        sa.Column("request_id", sa.Text, nullable=False),
        sa.Column("facts", JSONB, nullable=False),
        sa.Column("mac", sa.LargeBinary, nullable=False),
    )
    # One row: the key that seals, encrypted under a master key, and the seal of the last event.
    head = sa.Table(
        "audit_head",
        metadata,
        sa.Column("tenant_id", sa.Uuid, primary_key=True),
        sa.Column("encrypted_key", sa.LargeBinary, nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("seal", sa.LargeBinary, nullable=False),
    )
    return log, head


_log, _head = add_audit_tables(_metadata)
# One statement for all events: tokens are issued on a path that is measured.
_APPEND = sa.text(
    "INSERT INTO audit_log (tenant_id, number, at, event, client_id, request_id, facts, mac) "
    f"SELECT CAST('{OPERATOR}' AS uuid), number, :at, event, client_id, request_id, CAST(facts AS jsonb), mac "
    "FROM unnest(CAST(:numbers AS bigint[]), CAST(:events AS text[]), CAST(:client_ids AS uuid[]), "
    "CAST(:request_ids AS text[]), CAST(:facts AS text[]), CAST(:macs AS bytea[])) "
    "AS appended (number, event, client_id, request_id, facts, mac)"
)
_ENTER_OPERATOR = sa.text(f"SELECT set_config('app.tenant', '{OPERATOR}', true)")


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event as the log holds it."""

    number: int
    at: datetime
    event: str
    client_id: UUID | None
    request_id: str
    facts: Any
    mac: bytes


@dataclass(frozen=True, slots=True)
class Head:
    """The head as it is stored, the last event's number and MAC, and the time."""

    encrypted_key: bytes
    number: int
    seal: bytes
    last_number: int
    last_mac: bytes
    now: datetime


def enter_operator(connection: Connection) -> None:
    """Lets a transaction see the operator's rows from now on, and no tenant's any more."""
    connection.execute(_ENTER_OPERATOR)


def add_head(connection: Connection, encrypted_key: bytes, seal: bytes) -> bool:
    """Begins the log; False when it has begun already."""
    begun = connection.execute(
        insert(_head)
        .values(tenant_id=OPERATOR, encrypted_key=encrypted_key, number=0, seal=seal)
        .on_conflict_do_nothing()
    )
    return begun.rowcount == 1


def lock_head(connection: Connection) -> Head | None:
    """Reads the head, and lets nobody else append until the transaction ends; None when there is no head."""
    # What is read beside a locked row could be older than the row; so the lock comes first.
    connection.execute(sa.select(_head.c.number).with_for_update())
    return read_head(connection)


def read_head(connection: Connection) -> Head | None:
    """Reads the head and the last event, both of one moment; None when there is no head."""
    last = sa.select(_log.c.number, _log.c.mac).order_by(_log.c.number.desc()).limit(1).subquery()
    now = sa.func.messmail_now(type_=sa.DateTime(timezone=True)).label("now")
    row = connection.execute(
        sa.select(_head, last.c.number.label("last_number"), last.c.mac, now).select_from(
            _head.outerjoin(last, sa.true())
        )
    ).first()
    if row is None:
        return None
    return Head(row.encrypted_key, row.number, row.seal, row.last_number or 0, row.mac or b"", row.now)


def append(connection: Connection, events: Sequence[StoredEvent], seal: bytes) -> None:
    """Appends events of one time and moves the head behind them."""
    connection.execute(
        _APPEND,
        {
            "at": events[0].at,
            "numbers": [event.number for event in events],
            "events": [event.event for event in events],
            "client_ids": [event.client_id for event in events],
            "request_ids": [event.request_id for event in events],
            "facts": [json.dumps(event.facts) for event in events],
            "macs": [event.mac for event in events],
        },
    )
    connection.execute(sa.update(_head).values(number=events[-1].number, seal=seal))


def replace_key(connection: Connection, encrypted_key: bytes) -> None:
    """Stores the same key, encrypted anew."""
    connection.execute(sa.update(_head).values(encrypted_key=encrypted_key))


def read_page(connection: Connection, after: int, until: int, limit: int) -> list[StoredEvent]:
    """Reads events in their order."""
    return _read(
        connection,
        sa.select(_log).where(_log.c.number > after, _log.c.number <= until).order_by(_log.c.number).limit(limit),
    )


def read_newest(connection: Connection, before: int | None, limit: int) -> list[StoredEvent]:
    """Reads events, newest first."""
    query = sa.select(_log).order_by(_log.c.number.desc()).limit(limit)
    return _read(connection, query if before is None else query.where(_log.c.number < before))


def read_mac(connection: Connection, number: int) -> bytes | None:
    """Reads the MAC of one event; None when it is not there."""
    mac: bytes | None = connection.execute(sa.select(_log.c.mac).where(_log.c.number == number)).scalar_one_or_none()
    return mac


def _read(connection: Connection, query: sa.Select[Any]) -> list[StoredEvent]:
    return [
        StoredEvent(row.number, row.at, row.event, row.client_id, row.request_id, row.facts, bytes(row.mac))
        for row in connection.execute(query)
    ]
