"""Whom a call is about is found by the address at once, however large the list is when the statement is planned."""

from __future__ import annotations

import psycopg
import pytest

from member_center.storage import memberships, subscriptions
from servicekit.statements import Statement
from tests.member_center_fixtures import MemberCenter

BY_ADDRESS = {
    f"{module.__name__.rpartition('.')[2]}{name}": statement
    for module in (subscriptions, memberships)
    for name, statement in vars(module).items()
    if isinstance(statement, Statement) and b" address_key = " in statement.sql
}


def test_there_are_statements_that_look_for_an_address() -> None:
    assert len(BY_ADDRESS) == 5


@pytest.mark.parametrize("small_tenants", [None, 10, 100, 3_000])
def test_an_address_is_looked_for_in_the_index_of_addresses(
    member_center: MemberCenter, small_tenants: int | None
) -> None:
    """small_tenants is how many there were when statistics were last made; None: they were never made."""
    newsletter = member_center.make_newsletter()
    grow = (
        "INSERT INTO subscriptions (tenant_id, list_id, id, address_key, address, standing, generation, preferences) "
        "SELECT %s, %s, gen_random_uuid(), key, key, 'unconfirmed', 1, '{}' "
        "FROM (SELECT 'reader' || n || '@mail.example' AS key FROM generate_series(%s::int, %s::int) n) keys"
    )
    # All in one transaction, which no one else sees: the statistics stay as they are, and nothing is left.
    with psycopg.connect(member_center.superuser_url) as connection:
        if small_tenants is None:
            connection.execute("DELETE FROM pg_statistic WHERE starelid = 'subscriptions'::regclass")
            connection.execute("UPDATE pg_class SET reltuples = -1, relpages = 0 WHERE oid = 'subscriptions'::regclass")
        else:
            connection.execute("SET LOCAL session_replication_role = replica")
            connection.execute(
                "INSERT INTO subscriptions (tenant_id, list_id, id, address_key, address, standing, generation, "
                "preferences) SELECT gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), key, key, 'unconfirmed', "
                "1, '{}' FROM (SELECT 'other' || n || '@mail.example' AS key FROM generate_series(1, %s::int) n) keys",
                [small_tenants],
            )
            connection.execute("ANALYZE subscriptions")
        for size in range(0, 16_000, 1_000):
            for name, statement in BY_ADDRESS.items():
                cursor = psycopg.ClientCursor(connection).execute(b"EXPLAIN (GENERIC_PLAN) " + statement.sql)
                plan = "\n".join(line for (line,) in cursor.fetchall())
                assert "subscriptions_address" in plan, f"{name} at {size} people:\n{plan}"
            connection.execute(grow, (newsletter.tenant_id, newsletter.list_id, size, size + 999))
        connection.rollback()
