"""Removes what has ended long ago, of every tenant, as the owner of the database.

The owner is fenced like everybody else: the policy `upkeep` shows it exactly the rows that may go, and no others.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from member_center.storage.tables import confirmation_mails, revocations, subscriptions


def remove_ended_mails(connection: Connection) -> int:
    """Removes confirmation mails that ended 30 days ago; returns how many."""
    return connection.execute(sa.delete(confirmation_mails)).rowcount


def remove_never_confirmed(connection: Connection) -> int:
    """Removes those who did not confirm within 30 days after they last could, with their log; returns how many."""
    return connection.execute(sa.delete(subscriptions)).rowcount


def remove_past_revocations(connection: Connection) -> int:
    """Removes revocations of tokens that have expired anyway; returns how many."""
    return connection.execute(sa.delete(revocations)).rowcount
