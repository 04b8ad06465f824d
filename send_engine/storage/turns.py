"""Statements on turns: whose work is claimed next, and who rests because there are no permits.

A tenant has a turn, and so has each recipient domain of which it holds batches. Claims, in batches, go by them.
"""

from __future__ import annotations

from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection


def rest_tenant(connection: Connection, tenant_id: UUID, seconds: float) -> None:
    """Lets nothing of a tenant be sent for so long."""
    connection.execute(
        sa.text(
            "UPDATE tenant_turns SET rests_until = messmail_now() + make_interval(secs => :seconds) "
            "WHERE tenant_id = :tenant"
        ),
        {"tenant": tenant_id, "seconds": seconds},
    )


def rest_domain(connection: Connection, tenant_id: UUID, domain: str, seconds: float) -> None:
    """Lets nothing be sent for so long of what a tenant holds for a domain."""
    connection.execute(
        sa.text(
            "UPDATE held_domains SET due_at = messmail_now() + make_interval(secs => :seconds) "
            "WHERE tenant_id = :tenant AND domain = :domain"
        ),
        {"tenant": tenant_id, "domain": domain, "seconds": seconds},
    )


def give_turn(connection: Connection, tenant_id: UUID, domain: str) -> None:
    """Gives a domain of which a tenant holds batches a turn, if it has none."""
    connection.execute(
        sa.text(
            "INSERT INTO held_domains (tenant_id, domain, due_at) VALUES (:tenant, :domain, messmail_now()) "
            "ON CONFLICT DO NOTHING"
        ),
        {"tenant": tenant_id, "domain": domain},
    )
