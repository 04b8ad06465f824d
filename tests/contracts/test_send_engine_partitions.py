"""The weekly partitions of the deliveries: made ahead, dropped whole, and found by the ids that belong to them."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from send_engine import wiring
from servicekit.identifiers import least_uuid7, uuid7
from tests.send_engine_fixtures import Engines, Ledgerbase, send_engine_engines

__all__ = ["send_engine_engines"]

PARTITIONS = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'deliveries'::regclass ORDER BY 1"


@pytest.fixture
def base(send_engine_engines: Engines) -> Ledgerbase:
    return send_engine_engines.database()


def add_delivery(base: Ledgerbase, batch_id: uuid.UUID) -> str:
    """Stores a delivery and returns the partition that it landed in."""
    tenant, job = uuid.uuid4(), uuid.uuid4()
    with psycopg.connect(base.superuser_url) as connection:
        connection.execute(
            "INSERT INTO send_jobs (tenant_id, id, list_id, name, subject, template, on_unknown, profile, status, "
            "scheduled_at, created_at) VALUES (%s, %s, %s, '', 'x', false, 'resend', '{}', 'sending', now(), now())",
            [tenant, job, uuid.uuid4()],
        )
        connection.execute(
            "INSERT INTO batches (tenant_id, id, job_id, lane, status, due_at, size) "
            "VALUES (%s, %s, %s, 'bulk', 'ready', now(), 1)",
            [tenant, batch_id, job],
        )
        row = connection.execute(
            "INSERT INTO deliveries (tenant_id, batch_id, ordinal, subscription_id, domain) "
            "VALUES (%s, %s, 0, %s, 'x') RETURNING tableoid::regclass::text",
            [tenant, batch_id, uuid.uuid4()],
        ).fetchone()
    assert row is not None
    return str(row[0])


def test_partitions_are_there_before_they_are_needed(base: Ledgerbase) -> None:
    names = [row[0] for row in base.rows(PARTITIONS)]
    assert len(names) == 8
    assert names[-1] == "deliveries_default"
    assert add_delivery(base, uuid7()) == names[0]
    assert add_delivery(base, least_uuid7(datetime.now(UTC) + timedelta(weeks=6))) == names[6]


def test_a_delivery_of_an_unforeseen_time_is_kept_all_the_same(base: Ledgerbase) -> None:
    assert add_delivery(base, least_uuid7(datetime.now(UTC) + timedelta(weeks=60))) == "deliveries_default"


def test_upkeep_makes_the_coming_weeks_and_drops_those_past_keeping_that_are_done_with(base: Ledgerbase) -> None:
    first = base.rows(PARTITIONS)[0][0]
    add_delivery(base, uuid7())
    base.move_clock(timedelta(weeks=4).total_seconds())
    wiring.maintain(base.owner_url)
    assert len(base.rows(PARTITIONS)) == 12
    assert base.rows("SELECT count(*) FROM deliveries") == [(1,)]
    wiring.maintain(base.owner_url, keep_weeks=5)
    assert base.rows(PARTITIONS)[0][0] == first
    # Somebody of that week may still be to be sent a mail.
    wiring.maintain(base.owner_url, keep_weeks=2)
    assert base.rows(PARTITIONS)[0][0] == first
    assert base.rows("SELECT count(*) FROM deliveries") == [(1,)]
    base.change("UPDATE batches SET status = 'closed', recorded_until = 1, marked_until = 1, failed = 1")
    wiring.maintain(base.owner_url, keep_weeks=2)
    assert first not in [row[0] for row in base.rows(PARTITIONS)]
    assert base.rows("SELECT count(*) FROM deliveries") == [(0,)]


def test_a_week_whose_rows_went_elsewhere_does_not_stop_upkeep(base: Ledgerbase) -> None:
    add_delivery(base, least_uuid7(datetime.now(UTC) + timedelta(weeks=8)))
    base.move_clock(timedelta(weeks=4).total_seconds())
    wiring.maintain(base.owner_url)
    assert len(base.rows(PARTITIONS)) == 11
