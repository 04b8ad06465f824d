"""Stores confirmation mails that wait to be sent."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from member_center.records import Lease, MailResult, WaitingMail
from member_center.storage import subscriptions as subscription_store
from member_center.storage.tables import confirmation_mails, subscriptions

# Every tenant with a waiting mail, each found by one step along the index: idle tenants cost nothing.
_DUE_TENANTS = sa.text(
    """
    WITH RECURSIVE waiting AS (
        (SELECT tenant_id, due_at FROM confirmation_mails WHERE outcome IS NULL ORDER BY tenant_id, due_at LIMIT 1)
        UNION ALL
        SELECT following.tenant_id, following.due_at FROM waiting, LATERAL (
            SELECT tenant_id, due_at FROM confirmation_mails
            WHERE outcome IS NULL AND tenant_id > waiting.tenant_id
            ORDER BY tenant_id, due_at LIMIT 1
        ) following
    )
    SELECT tenant_id FROM waiting WHERE due_at <= messmail_now() ORDER BY due_at LIMIT :most
    """
).columns(tenant_id=sa.Uuid)

_LEASE = sa.text(
    """
    UPDATE confirmation_mails taken
    SET due_at = messmail_now() + :lease, fence = taken.fence + 1
    FROM (
        SELECT tenant, due.id
        FROM unnest(CAST(:tenants AS uuid[])) AS tenant, LATERAL (
            SELECT id FROM confirmation_mails
            WHERE tenant_id = tenant AND outcome IS NULL AND due_at <= messmail_now()
            ORDER BY due_at LIMIT :share FOR UPDATE SKIP LOCKED
        ) due
        LIMIT :most
    ) picked
    WHERE taken.tenant_id = picked.tenant AND taken.id = picked.id
    RETURNING taken.tenant_id, taken.id, taken.fence
    """
).columns(tenant_id=sa.Uuid, id=sa.Uuid, fence=sa.BigInteger)


def read_due_tenants(connection: Connection, most: int) -> list[UUID]:
    """Reads which tenants have a mail due, longest waiting first, in a dispatch transaction."""
    return list(connection.execute(_DUE_TENANTS, {"most": most}).scalars())


def lease(connection: Connection, tenants: Sequence[UUID], share: int, most: int, seconds: int) -> list[Lease]:
    """Leases up to a share of the due mails of each tenant, in a dispatch transaction; others' leases are passed by."""
    parameters = {"tenants": list(tenants), "share": share, "most": most, "lease": timedelta(seconds=seconds)}
    return [Lease(row.tenant_id, row.id, row.fence) for row in connection.execute(_LEASE, parameters)]


def read_waiting(connection: Connection, tenant_id: UUID, leases: Sequence[Lease]) -> list[WaitingMail]:
    """Reads leased mails of the transaction's tenant that are still the holder's, with their subscriptions."""
    held = {held.mail_id: held for held in leases}
    query = (
        sa.select(
            subscriptions,
            confirmation_mails.c.id.label("mail_id"),
            confirmation_mails.c.fence,
            sa.func.messmail_now(type_=sa.DateTime(timezone=True)).label("now"),
        )
        .join_from(
            confirmation_mails,
            subscriptions,
            sa.and_(
                subscriptions.c.tenant_id == confirmation_mails.c.tenant_id,
                subscriptions.c.list_id == confirmation_mails.c.list_id,
                subscriptions.c.id == confirmation_mails.c.subscription_id,
            ),
        )
        .where(
            confirmation_mails.c.tenant_id == tenant_id,
            confirmation_mails.c.id == sa.any_(sa.literal(list(held), sa.ARRAY(sa.Uuid))),
            confirmation_mails.c.outcome.is_(None),
        )
        .order_by(confirmation_mails.c.created_at, confirmation_mails.c.id)
    )
    return [
        WaitingMail(held[row.mail_id], subscription_store.from_row(row), row.now)
        for row in connection.execute(query)
        if row.fence == held[row.mail_id].fence
    ]


def record(
    connection: Connection, tenant_id: UUID, results: Sequence[MailResult], first_wait: timedelta, give_up: timedelta
) -> int:
    """Records results of the transaction's tenant whose fence is still the mail's; returns how many.

    A deferred mail waits twice as long each time, up to an hour, and has failed once it is older than give_up.
    """
    mails = confirmation_mails.c
    now = sa.func.messmail_now(type_=sa.DateTime(timezone=True))
    outcome = sa.bindparam("ended_as", type_=sa.Text)
    is_given_up = mails.created_at + give_up <= now
    ends_as = sa.func.coalesce(outcome, sa.case((is_given_up, "failed")))
    wait = sa.func.least(first_wait * sa.func.power(2, mails.deferrals), timedelta(hours=1))
    statement = (
        sa.update(confirmation_mails)
        .where(
            mails.tenant_id == tenant_id,
            mails.id == sa.bindparam("mail_id"),
            mails.fence == sa.bindparam("held_fence"),
            mails.outcome.is_(None),
        )
        .values(
            outcome=ends_as,
            ended_at=sa.case((ends_as.is_not(None), now)),
            due_at=now + wait,
            deferrals=mails.deferrals + sa.case((outcome.is_(None), 1), else_=0),
            last_reply=sa.bindparam("reply"),
        )
    )
    return sum(
        connection.execute(
            statement,
            {
                "mail_id": result.lease.mail_id,
                "held_fence": result.lease.fence,
                "ended_as": result.outcome,
                "reply": result.reply,
            },
        ).rowcount
        for result in results
    )
