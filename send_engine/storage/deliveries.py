"""Statements on deliveries, always many rows of one batch at once.

A row is found by its batch, so that PostgreSQL looks into one partition only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from uuid import UUID

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.engine import Connection

from send_engine.records import Addressee, AudiencePage, DeliveryState, Result

_INTEGERS = ARRAY(sa.Integer)
_ID_BYTES = 16

# The text of the arrays is written here, because psycopg takes several times as long. No domain has a line break in it.
_INSERT = sa.text(
    "INSERT INTO deliveries (tenant_id, batch_id, ordinal, subscription_id, domain) "
    "SELECT :tenant, (CAST(:batches AS uuid[]))[(place - 1) / :size + 1], (place - 1) % :size, subscription, domain "
    "FROM unnest(CAST(:subscriptions AS uuid[]), string_to_array(:domains, E'\\n')) "
    "WITH ORDINALITY AS r (subscription, domain, place)"
)
_SELECT = sa.text(
    "SELECT ordinal, uuid_send(subscription_id), domain FROM deliveries "
    "WHERE tenant_id = :tenant AND batch_id = :batch AND ordinal >= :start AND ordinal < :until ORDER BY ordinal"
)
# Most rows of a group share their result, so it is told once, with all their places. The clock is asked once too.
_RECORD = sa.text(
    "UPDATE deliveries d SET state = r.state, reason = r.reason, last_reply = r.reply, "
    "attempts = attempts + r.tried, recorded_at = (SELECT messmail_now()) "
    "FROM json_to_recordset(CAST(:results AS json)) "
    "AS r (ordinals integer[], state text, reason text, reply text, tried integer) "
    "CROSS JOIN LATERAL unnest(r.ordinals) AS place "
    "WHERE d.tenant_id = :tenant AND d.batch_id = :batch AND d.ordinal = place"
)
_MOVE = sa.text(
    "UPDATE deliveries d SET batch_id = :target, ordinal = m.new_ordinal, attempts = attempts + :more_attempts "
    "FROM unnest(:ordinals, :new_ordinals) AS m (ordinal, new_ordinal) "
    "WHERE d.tenant_id = :tenant AND d.batch_id = :batch AND d.ordinal = m.ordinal"
).bindparams(sa.bindparam("ordinals", type_=_INTEGERS), sa.bindparam("new_ordinals", type_=_INTEGERS))


def insert(connection: Connection, tenant_id: UUID, batch_ids: Sequence[UUID], size: int, page: AudiencePage) -> None:
    """Writes down a page of an audience, so many in each of these batches, in their order."""
    connection.execute(
        _INSERT,
        {
            "tenant": tenant_id,
            "batches": f"{{{','.join(map(str, batch_ids))}}}",
            "size": size,
            "subscriptions": f"{{{page.subscription_ids.hex(',', _ID_BYTES)}}}",
            "domains": "\n".join(page.domains),
        },
    )


def find(connection: Connection, tenant_id: UUID, batch_id: UUID, start: int, until: int) -> list[Addressee]:
    """Reads rows start to until of a batch."""
    rows = connection.execute(_SELECT, {"tenant": tenant_id, "batch": batch_id, "start": start, "until": until})
    return [Addressee._make(row) for row in rows]


def record(connection: Connection, tenant_id: UUID, batch_id: UUID, results: Sequence[Result]) -> None:
    """Writes results into their rows."""
    shared = defaultdict[tuple[str, str, str, bool], list[int]](list)
    for result in results:
        shared[result.state, result.reason, result.reply, result.tried].append(result.ordinal)
    rows = [
        {"ordinals": ordinals, "state": state, "reason": reason, "reply": reply, "tried": int(tried)}
        for (state, reason, reply, tried), ordinals in shared.items()
    ]
    connection.execute(_RECORD, {"tenant": tenant_id, "batch": batch_id, "results": orjson.dumps(rows).decode()})


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
            "recorded_at = (SELECT messmail_now()) "
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
