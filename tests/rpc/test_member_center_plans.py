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


@pytest.mark.parametrize("name", sorted(BY_ADDRESS))
def test_an_address_is_looked_for_in_the_index_of_addresses(member_center: MemberCenter, name: str) -> None:
    newsletter = member_center.make_newsletter()
    grow = (
        "INSERT INTO subscriptions (tenant_id, list_id, id, address_key, address, standing, generation, preferences) "
        "SELECT %s, %s, gen_random_uuid(), key, key, 'unconfirmed', 1, '{}' "
        "FROM (SELECT 'reader' || n || '@mail.example' AS key FROM generate_series(%s::int, %s::int) n) keys"
    )
    # All in one transaction, which no one else sees: the statistics stay as they are, and nothing is left.
    with psycopg.connect(member_center.superuser_url) as connection:
        for size in range(0, 20_000, 1_000):
            cursor = psycopg.ClientCursor(connection).execute(b"EXPLAIN (GENERIC_PLAN) " + BY_ADDRESS[name].sql)
            plan = "\n".join(line for (line,) in cursor.fetchall())
            assert "subscriptions_address" in plan, f"at {size} people:\n{plan}"
            connection.execute(grow, (newsletter.tenant_id, newsletter.list_id, size, size + 999))
        connection.rollback()
