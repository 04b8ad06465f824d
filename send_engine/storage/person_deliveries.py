"""Statements on the deliveries of one person, in one job after the other."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.engine import Connection

from send_engine.records import DeliveryState, PersonDelivery
from send_engine.storage.tables import send_jobs

_IDS = sa.bindparam("subscriptions", type_=ARRAY(sa.Uuid))
_FIND = sa.text(
    "SELECT d.subscription_id, j.subject, d.domain, d.state, d.reason, d.last_reply, d.attempts, d.recorded_at "
    "FROM send_jobs j JOIN batches b ON b.tenant_id = j.tenant_id AND b.job_id = j.id "
    "JOIN deliveries d ON d.tenant_id = b.tenant_id AND d.batch_id = b.id "
    "WHERE j.tenant_id = :tenant AND j.id = :job AND d.subscription_id = ANY(:subscriptions) "
    "ORDER BY d.batch_id, d.ordinal"
).bindparams(_IDS)
# An id that leads nowhere, and each time another, since deliveries are told apart by it.
_DISOWN = sa.text(
    "UPDATE deliveries d SET subscription_id = gen_random_uuid(), last_reply = '' "
    "FROM batches b WHERE b.tenant_id = :tenant AND b.job_id = :job "
    "AND d.tenant_id = b.tenant_id AND d.batch_id = b.id AND d.subscription_id = ANY(:subscriptions)"
).bindparams(_IDS)

# How far planning has got is told by a subscription's id, which nobody needs once it is done.
_FORGET_PLACE = sa.text(
    "UPDATE send_jobs SET planned_after = NULL WHERE tenant_id = :tenant AND id = :job "
    "AND planned_count IS NOT NULL AND planned_after = ANY(:subscriptions)"
).bindparams(_IDS)


def read_jobs(connection: Connection, tenant_id: UUID) -> list[UUID]:
    """Reads the jobs of a tenant, oldest first."""
    c = send_jobs.c
    return list(
        connection.execute(sa.select(c.id).where(c.tenant_id == tenant_id).order_by(c.created_at, c.id)).scalars()
    )


def find(
    connection: Connection, tenant_id: UUID, job_id: UUID, subscription_ids: Sequence[UUID]
) -> list[PersonDelivery]:
    """Reads the deliveries of a job to these subscriptions."""
    parameters = {"tenant": tenant_id, "job": job_id, "subscriptions": list(subscription_ids)}
    return [
        PersonDelivery(
            job_id,
            row.subscription_id,
            row.subject,
            row.domain,
            DeliveryState(row.state),
            row.reason,
            row.last_reply,
            row.attempts,
            row.recorded_at,
        )
        for row in connection.execute(_FIND, parameters)
    ]


def disown(connection: Connection, tenant_id: UUID, job_id: UUID, subscription_ids: Sequence[UUID]) -> int:
    """Makes the deliveries of a job to these subscriptions nobody's, and returns how many."""
    parameters = {"tenant": tenant_id, "job": job_id, "subscriptions": list(subscription_ids)}
    connection.execute(_FORGET_PLACE, parameters)
    return connection.execute(_DISOWN, parameters).rowcount
