"""Stores confirmation mails that wait to be sent."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from member_center.records.mailing import Lease, MailResult, WaitingMail
from member_center.storage import subscriptions as subscription_store
from member_center.storage.suppressions import HASH, lookup
from servicekit.database import Run
from servicekit.statements import Statement

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


# Each mail is looked up by itself, as each recipient of a group is (see audience), and by its key alone: whoever holds
# its fence holds a mail that has not ended.
_WAITING = Statement(
    f"""
    SELECT mail.id AS mail_id, held.fence, (SELECT messmail_now()) AS now, subscription.*,
        coalesce({lookup(HASH, "subscription.list_id", "suppression.scope = 'everything'")}, false) AS is_suppressed
    FROM unnest(CAST(:ids AS uuid[]), CAST(:fences AS bigint[])) AS held (id, fence)
    CROSS JOIN LATERAL (
        SELECT id, list_id, subscription_id, fence FROM confirmation_mails
        WHERE tenant_id = :tenant_id AND id = held.id LIMIT 1
    ) mail
    CROSS JOIN LATERAL (
        SELECT tenant_id, list_id, id, address_key, address, standing, generation, preferences, confirmed_at,
            pending_since, pending_expires_at, pending_preferences, pending_mailed_at
        FROM subscriptions
        WHERE tenant_id = :tenant_id AND list_id = mail.list_id AND id = mail.subscription_id LIMIT 1
    ) subscription
    WHERE mail.fence = held.fence
    ORDER BY mail.id
    """
)

_RECORD = Statement(
    """
    UPDATE confirmation_mails mail
    SET outcome = coalesce(result.outcome, CASE WHEN mail.created_at <= clock.too_old THEN 'failed' END),
        ended_at = CASE WHEN result.outcome IS NOT NULL OR mail.created_at <= clock.too_old THEN clock.now END,
        due_at = clock.now + least(CAST(:first_wait AS interval) * power(2, mail.deferrals), interval '1 hour'),
        deferrals = mail.deferrals + CASE WHEN result.outcome IS NULL THEN 1 ELSE 0 END,
        fence = mail.fence + 1,
        last_reply = result.reply
    FROM unnest(
        CAST(:ids AS uuid[]), CAST(:fences AS bigint[]), CAST(:outcomes AS text[]), CAST(:replies AS text[])
    ) AS result (id, fence, outcome, reply), (
        SELECT messmail_now() AS now, messmail_now() - CAST(:give_up AS interval) AS too_old
    ) clock
    WHERE mail.tenant_id = :tenant_id AND mail.id = result.id AND mail.fence = result.fence
    RETURNING mail.id
    """
)


def read_due_tenants(connection: Connection, most: int) -> list[UUID]:
    """Reads which tenants have a mail due, longest waiting first, in a dispatch transaction."""
    return list(connection.execute(_DUE_TENANTS, {"most": most}).scalars())


def lease(connection: Connection, tenants: Sequence[UUID], share: int, most: int, seconds: int) -> list[Lease]:
    """Leases up to a share of the due mails of each tenant, in a dispatch transaction; others' leases are passed by."""
    parameters = {"tenants": list(tenants), "share": share, "most": most, "lease": timedelta(seconds=seconds)}
    return [Lease(row.tenant_id, row.id, row.fence) for row in connection.execute(_LEASE, parameters)]


def read_waiting(
    run: Run, tenant_id: UUID, leases: Sequence[Lease], *, hash_inner: bytes, hash_outer: bytes
) -> list[WaitingMail]:
    """Reads leased mails of the transaction's tenant that are still the holder's, with their subscriptions."""
    held = {(each.mail_id, each.fence): each for each in leases}
    parameters = {
        "tenant_id": tenant_id,
        "ids": [each.mail_id for each in leases],
        "fences": [each.fence for each in leases],
        "hash_inner": hash_inner,
        "hash_outer": hash_outer,
    }
    return [
        WaitingMail(held[row.mail_id, row.fence], subscription_store.from_row(row), row.now, row.is_suppressed)
        for row in run(_WAITING, parameters)
    ]


def record(run: Run, results: Sequence[MailResult], first_wait: timedelta, give_up: timedelta) -> int:
    """Records results of the transaction's tenant whose fence is still the mail's, and returns how many.

    Each ends its lease. A deferred mail waits twice as long each time, up to an hour, and has failed once it is older
    than give_up.
    """
    if not results:
        return 0
    parameters = {
        "tenant_id": results[0].lease.tenant_id,
        "ids": [result.lease.mail_id for result in results],
        "fences": [result.lease.fence for result in results],
        "outcomes": [result.outcome and result.outcome.value for result in results],
        "replies": [result.reply for result in results],
        "first_wait": first_wait,
        "give_up": give_up,
    }
    return len(run(_RECORD, parameters))
