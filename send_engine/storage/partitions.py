"""The weekly partitions of the deliveries: made ahead, and dropped when old and done with. For the owner role only."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from servicekit.identifiers import least_uuid7

WEEKS_AHEAD = 6
_WEEK = timedelta(days=7)
_NAME = "deliveries_%Y_%m_%d"


def make_ahead(connection: Connection, today: datetime) -> list[str]:
    """Makes the missing partitions of this week and the next WEEKS_AHEAD, and returns their names.

    A week for which the default partition already holds rows stays there.
    """
    made = []
    for number in range(WEEKS_AHEAD + 1):
        monday = _monday(today) + number * _WEEK
        name, low, high = _name(monday), least_uuid7(monday), least_uuid7(monday + _WEEK)
        if _exists(connection, name) or _default_holds(connection, str(low), str(high)):
            continue
        connection.exec_driver_sql(
            f"CREATE TABLE {name} PARTITION OF deliveries FOR VALUES FROM ('{low}') TO ('{high}') "
            "WITH (fillfactor = 50)"
        )
        made.append(name)
    return made


def drop_before(connection: Connection, day: datetime) -> tuple[list[str], list[str]]:
    """Drops the partitions of the weeks that ended before that day, save those with batches that are not closed.

    A job may be paused for longer than deliveries are kept, and without its rows it could never end. Returns the names
    of those dropped, and of those that had to stay.
    """
    names = connection.execute(
        sa.text(
            "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "
            "WHERE i.inhparent = 'deliveries'::regclass AND c.relname LIKE 'deliveries\\_20%' AND c.relname < :first "
            "ORDER BY 1"
        ),
        {"first": _name(_monday(day))},
    ).scalars()
    dropped, open_weeks = [], []
    for name in list(names):
        if _has_open_batches(connection, datetime.strptime(name, _NAME).replace(tzinfo=UTC)):
            open_weeks.append(name)
            continue
        connection.exec_driver_sql(f"DROP TABLE {name}")
        dropped.append(name)
    return dropped, open_weeks


def _monday(day: datetime) -> datetime:
    midnight = day.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight - timedelta(days=midnight.weekday())


def _name(monday: datetime) -> str:
    return monday.strftime(_NAME)


def _exists(connection: Connection, name: str) -> bool:
    return connection.execute(sa.text("SELECT to_regclass(:name)"), {"name": f"public.{name}"}).scalar() is not None


def _default_holds(connection: Connection, low: str, high: str) -> bool:
    found = connection.execute(
        sa.text("SELECT 1 FROM deliveries_default WHERE batch_id >= :low AND batch_id < :high LIMIT 1"),
        {"low": low, "high": high},
    ).first()
    return found is not None


def _has_open_batches(connection: Connection, monday: datetime) -> bool:
    # The owner's policy shows it those that are not closed, and no others.
    found = connection.execute(
        sa.text("SELECT 1 FROM batches WHERE id >= :low AND id < :high AND status <> 'closed' LIMIT 1"),
        {"low": least_uuid7(monday), "high": least_uuid7(monday + _WEEK)},
    ).first()
    return found is not None
