"""Reads on which lists of a tenant the person behind a link is, or has been."""

from __future__ import annotations

from datetime import datetime

from member_center.records.consent import Link, Membership
from member_center.storage.subscriptions import COLUMNS, from_row, has_address
from servicekit.database import Run
from servicekit.statements import Statement


def _find(lock: str) -> Statement:
    # Each list is looked into by its key (LATERAL with LIMIT), always in the same order, so that two who lock never
    # wait for each other. One row comes back even where there is nobody, because the time is asked for too.
    return Statement(
        f"""
        SELECT clock.now, found.* FROM (SELECT messmail_now() AS now) clock LEFT JOIN (
            SELECT wanted.name AS list_name, present.*
            FROM (
                SELECT address_key FROM subscriptions WHERE tenant_id = :tenant_id AND list_id = :list_id AND id = :id
            ) person
            CROSS JOIN (SELECT id, name FROM lists WHERE tenant_id = :tenant_id ORDER BY id) wanted
            CROSS JOIN LATERAL (
                SELECT {COLUMNS} FROM subscriptions
                WHERE tenant_id = :tenant_id AND {has_address("person.address_key", "wanted.id")} LIMIT 1 {lock}
            ) present
        ) found ON true
        """
    )


_READ, _READ_LOCKED = _find(""), _find("FOR UPDATE")


def read_memberships(run: Run, link: Link, *, lock: bool = False) -> tuple[datetime, list[Membership]]:
    """Reads the subscriptions of a link's person to all lists of its tenant, ordered by the lists' names.

    Locked, they stay as read until the transaction ends.
    """
    parameters = {"tenant_id": link.tenant_id, "list_id": link.list_id, "id": link.subscription_id}
    rows = run(_READ_LOCKED if lock else _READ, parameters)
    memberships = [Membership(row.list_name, from_row(row)) for row in rows if row.id is not None]
    memberships.sort(key=lambda membership: (membership.list_name, membership.subscription.list_id))
    return rows[0].now, memberships
