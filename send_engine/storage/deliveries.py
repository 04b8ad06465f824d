"""Statements on deliveries, always many rows of one batch at once.

A row is found by its batch, so that PostgreSQL looks into one partition only.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.engine import Connection

from send_engine.records import Addressee, AudienceMember, DeliveryState, Result

_UUIDS, _TEXTS, _INTEGERS = ARRAY(sa.Uuid), ARRAY(sa.Text), ARRAY(sa.Integer)

_INSERT = sa.text(
    "INSERT INTO deliveries (tenant_id, batch_id, ordinal, subscription_id, domain) "
    "SELECT :tenant, batch, ordinal, subscription, domain "
    "FROM unnest(:batches, :ordinals, :subscriptions, :domains) AS t (batch, ordinal, subscription, domain)"
).bindparams(
    sa.bindparam("batches", type_=_UUIDS),
    sa.bindparam("ordinals", type_=_INTEGERS),
    sa.bindparam("subscriptions", type_=_UUIDS),
    sa.bindparam("domains", type_=_TEXTS),
)
_SELECT = sa.text(
    "SELECT ordinal, subscription_id, attempts FROM deliveries "
    "WHERE tenant_id = :tenant AND batch_id = :batch AND ordinal >= :start AND ordinal < :until ORDER BY ordinal"
)
_RECORD = sa.text(
    "UPDATE deliveries d SET state = r.state, reason = r.reason, last_reply = r.reply, "
    "attempts = attempts + r.tried::int, recorded_at = messmail_now() "
    "FROM unnest(:ordinals, :states, :reasons, :replies, :tried) AS r (ordinal, state, reason, reply, tried) "
    "WHERE d.tenant_id = :tenant AND d.batch_id = :batch AND d.ordinal = r.ordinal"
).bindparams(
    sa.bindparam("ordinals", type_=_INTEGERS),
    sa.bindparam("states", type_=_TEXTS),
    sa.bindparam("reasons", type_=_TEXTS),
    sa.bindparam("replies", type_=_TEXTS),
    sa.bindparam("tried", type_=ARRAY(sa.Boolean)),
)
_MOVE = sa.text(
    "UPDATE deliveries d SET batch_id = :target, ordinal = m.new_ordinal, attempts = attempts + :more_attempts "
    "FROM unnest(:ordinals, :new_ordinals) AS m (ordinal, new_ordinal) "
    "WHERE d.tenant_id = :tenant AND d.batch_id = :batch AND d.ordinal = m.ordinal"
).bindparams(sa.bindparam("ordinals", type_=_INTEGERS), sa.bindparam("new_ordinals", type_=_INTEGERS))


def insert(connection: Connection, tenant_id: UUID, batches: Sequence[tuple[UUID, Sequence[AudienceMember]]]) -> None:
    """Writes down the members of some batches, in their order."""
    connection.execute(
        _INSERT,
        {
            "tenant": tenant_id,
            "batches": [batch_id for batch_id, members in batches for _ in members],
            "ordinals": [ordinal for _, members in batches for ordinal in range(len(members))],
            "subscriptions": [member.subscription_id for _, members in batches for member in members],
            "domains": [member.domain for _, members in batches for member in members],
        },
    )


def find(connection: Connection, tenant_id: UUID, batch_id: UUID, start: int, until: int) -> list[Addressee]:
    """Reads rows start to until of a batch."""
    rows = connection.execute(_SELECT, {"tenant": tenant_id, "batch": batch_id, "start": start, "until": until})
    return [Addressee(row.ordinal, row.subscription_id, row.attempts) for row in rows]


def record(connection: Connection, tenant_id: UUID, batch_id: UUID, results: Sequence[Result]) -> None:
    """Writes results into their rows."""
    connection.execute(
        _RECORD,
        {
            "tenant": tenant_id,
            "batch": batch_id,
            "ordinals": [result.ordinal for result in results],
            "states": [result.state.value for result in results],
            "reasons": [result.reason for result in results],
            "replies": [result.reply for result in results],
            "tried": [result.tried for result in results],
        },
    )


def move(
    connection: Connection,
    tenant_id: UUID,
    batch_id: UUID,
    ordinals: Sequence[int],
    target: UUID,
    first: int,
    more_attempts: int = 0,
) -> None:
    """Moves rows to another batch, where they stand in their order from first on."""
    connection.execute(
        _MOVE,
        {
            "tenant": tenant_id,
            "batch": batch_id,
            "target": target,
            "ordinals": list(ordinals),
            "new_ordinals": list(range(first, first + len(ordinals))),
            "more_attempts": more_attempts,
        },
    )


def give_up(
    connection: Connection, tenant_id: UUID, batch_id: UUID, start: int, until: int, state: DeliveryState, reason: str
) -> None:
    """Ends rows start to until without a reply."""
    connection.execute(
        sa.text(
            "UPDATE deliveries SET state = :state, reason = :reason, attempts = attempts + 1, "
            "recorded_at = messmail_now() "
            "WHERE tenant_id = :tenant AND batch_id = :batch AND ordinal >= :start AND ordinal < :until"
        ),
        {
            "tenant": tenant_id,
            "batch": batch_id,
            "start": start,
            "until": until,
            "state": state.value,
            "reason": reason,
        },
    )
