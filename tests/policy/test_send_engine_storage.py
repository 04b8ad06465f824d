"""Send Engine's tables: as the revisions make them, tenant by tenant, fenced twice."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from send_engine import wiring
from send_engine.storage.tables import metadata
from servicekit.database import Database
from tests.send_engine_fixtures import PASSWORD, Engines, Ledgerbase, send_engine_engines

__all__ = ["send_engine_engines"]

# Not of any tenant: the clock that tests move, and the number of the revision.
WITHOUT_TENANT = {"messmail_clock", "alembic_version"}
# What the dispatch role may do, and nothing on people.
DISPATCH = {
    ("batches", "SELECT"),
    ("batches", "UPDATE"),
    ("esp_accounts", "SELECT"),
    ("held_domains", "SELECT"),
    ("held_domains", "UPDATE"),
    ("tenant_turns", "SELECT"),
    ("tenant_turns", "UPDATE"),
}
DISPATCH_WRITES = {
    ("batches", "lease_until"),
    ("batches", "fence"),
    ("batches", "worker"),
    ("held_domains", "due_at"),
    ("tenant_turns", "served_at"),
}
IS_PARTITION = "SELECT 1 FROM pg_inherits WHERE inhrelid = c.oid"
T4 = pytest.mark.claim("T4", "row level security, by raw SQL: each role sees what it may, and nothing without a tenant")
T5 = pytest.mark.claim(
    "T5", "rows that point across tenants, by raw SQL as the superuser: refused by every foreign key"
)


@pytest.fixture(scope="module")
def database(send_engine_engines: Engines) -> Ledgerbase:
    return send_engine_engines.database()


@pytest.fixture(scope="module")
def tables(database: Ledgerbase) -> set[str]:
    return {
        row[0]
        for row in database.rows(
            "SELECT relname FROM pg_class c WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') "
            f"AND NOT EXISTS ({IS_PARTITION})"
        )
    }


def test_tables_equal_revisions(database: Ledgerbase) -> None:
    engine = sa.create_engine(sa.make_url(database.superuser_url).set(drivername="postgresql+psycopg"))
    partitions = {row[0] for row in database.rows("SELECT inhrelid::regclass::text FROM pg_inherits")}

    def is_ours(name: str | None, kind: str, parents: object) -> bool:
        return not (kind == "table" and (name in WITHOUT_TENANT or name in partitions))

    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"include_name": is_ours, "compare_type": True, "compare_server_default": True}
        )
        differences = compare_metadata(context, metadata)
    engine.dispose()
    assert differences == []


def test_migrating_again_changes_nothing(database: Ledgerbase) -> None:
    schema = "SELECT attrelid::regclass::text, attname, atttypid FROM pg_attribute WHERE attnum > 0 ORDER BY 1, 2"
    before = database.rows(schema)
    assert wiring.migrate(database.owner_url, PASSWORD) == database.app_url
    assert database.rows(schema) == before


def test_tenant_id_leads_every_key_and_index(database: Ledgerbase, tables: set[str]) -> None:
    leading = database.rows(
        "SELECT c.relname, i.indexrelid::regclass::text, a.attname FROM pg_index i "
        "JOIN pg_class c ON c.oid = i.indrelid JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[0] "
        "WHERE c.relnamespace = 'public'::regnamespace"
    )
    wrong = [index for table, index, column in leading if table in tables - WITHOUT_TENANT and column != "tenant_id"]
    assert wrong == []
    assert {table for table, _, _ in leading} >= tables


@T5
def test_foreign_keys_are_composite(database: Ledgerbase) -> None:
    keys = database.rows(
        "SELECT conrelid::regclass::text, confrelid::regclass::text, "
        "(SELECT attname FROM pg_attribute WHERE attrelid = conrelid AND attnum = conkey[1]), cardinality(conkey) "
        "FROM pg_constraint k WHERE contype = 'f' AND conparentid = 0"
    )
    assert sorted(keys) == [
        ("batches", "send_jobs", "tenant_id", 2),
        ("error_windows", "send_jobs", "tenant_id", 2),
        ("idempotency_keys", "send_jobs", "tenant_id", 2),
    ]


@T4
def test_row_level_security_is_forced_on_every_tenants_table(database: Ledgerbase, tables: set[str]) -> None:
    forced = database.rows("SELECT relname FROM pg_class WHERE relrowsecurity AND relforcerowsecurity")
    assert {row[0] for row in forced} == tables - WITHOUT_TENANT == set(metadata.tables)


@T4
def test_the_app_role_is_neither_owner_nor_above_the_fences(database: Ledgerbase) -> None:
    with psycopg.connect(database.app_url) as connection:
        row = connection.execute(
            "SELECT rolsuper, rolbypassrls, rolinherit, rolcreaterole, rolcreatedb FROM pg_roles "
            "WHERE rolname = current_user"
        ).fetchone()
        assert row == (False, False, False, False, False)
        owned = connection.execute("SELECT count(*) FROM pg_class WHERE relowner = current_user::regrole").fetchone()
        assert owned == (0,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("UPDATE messmail_clock SET ahead = '1 day'")


@pytest.fixture(scope="module")
def two_tenants(database: Ledgerbase) -> Iterator[tuple[uuid.UUID, uuid.UUID]]:
    tenants = (uuid.uuid4(), uuid.uuid4())
    for tenant in tenants:
        job, batch = uuid.uuid4(), uuid.uuid4()
        database.change(
            "INSERT INTO send_jobs (tenant_id, id, list_id, name, subject, template, on_unknown, profile, status, "
            "scheduled_at, created_at) VALUES (%s, %s, %s, '', 'x', false, 'resend', '{}', 'scheduled', now(), now())",
            tenant, job, uuid.uuid4(),
        )  # fmt: skip
        database.change(
            "INSERT INTO batches (tenant_id, id, job_id, lane, status, due_at, size) "
            "VALUES (%s, %s, %s, 'bulk', 'ready', now(), 1)",
            tenant, batch, job,
        )  # fmt: skip
        database.change(
            "INSERT INTO deliveries (tenant_id, batch_id, ordinal, subscription_id, domain) "
            "VALUES (%s, %s, 0, %s, 'x')",
            tenant, batch, uuid.uuid4(),
        )  # fmt: skip
        database.change("INSERT INTO idempotency_keys VALUES (%s, %s, 'x', 'x', %s, now())", tenant, uuid.uuid4(), job)
        database.change("INSERT INTO esp_accounts VALUES (%s, 'x', 'x')", tenant)
        database.change("INSERT INTO tenant_turns (tenant_id) VALUES (%s)", tenant)
        database.change("INSERT INTO held_domains VALUES (%s, 'x.example', now())", tenant)
        database.change(
            "INSERT INTO buckets (tenant_id, scope, rate, filled_at) VALUES (%s, 'tenant', 1, now())", tenant
        )
        database.change("INSERT INTO error_windows VALUES (%s, %s, now(), 0, 0)", tenant, job)
        # The audit log is the operator's alone; the fences hold whoever's it were.
        database.change("INSERT INTO audit_log VALUES (%s, 1, now(), 'x', NULL, '', '{}', sha256('x'))", tenant)
        database.change("INSERT INTO audit_head VALUES (%s, 'x', 0, sha256('x'))", tenant)
    yield tenants


@T4
def test_without_a_tenant_the_app_role_sees_nothing(
    database: Ledgerbase, two_tenants: tuple[uuid.UUID, uuid.UUID]
) -> None:
    with psycopg.connect(database.app_url, autocommit=True) as connection:
        for table in metadata.tables:
            assert connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone() == (0,)
        # Nor afterwards on a connection that a tenant has used.
        with connection.transaction():
            connection.execute("SELECT set_config('app.tenant', %s, true)", [str(two_tenants[0])])
            assert connection.execute("SELECT count(*) FROM send_jobs").fetchone() == (1,)
        for table in metadata.tables:
            assert connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone() == (0,)


@T4
def test_a_tenants_transaction_sees_its_own_rows_only(
    database: Ledgerbase, two_tenants: tuple[uuid.UUID, uuid.UUID]
) -> None:
    app = Database(database.app_url)
    for tenant in two_tenants:
        with app.tenant(tenant) as connection:
            for table in metadata.tables:
                seen = connection.execute(sa.text(f"SELECT tenant_id FROM {table}")).scalars().all()
                assert seen == [tenant], table
            with pytest.raises(sa.exc.ProgrammingError, match="row-level security"), connection.begin_nested():
                connection.execute(sa.text("INSERT INTO tenant_turns (tenant_id) VALUES (gen_random_uuid())"))
    app.close()


@T5
def test_a_row_cannot_point_across_tenants(database: Ledgerbase, two_tenants: tuple[uuid.UUID, uuid.UUID]) -> None:
    one, other = two_tenants
    for child, parent, column in (
        ("batches", "send_jobs", "job_id"),
        ("deliveries", "batches", "batch_id"),
        ("idempotency_keys", "send_jobs", "job_id"),
        ("error_windows", "send_jobs", "job_id"),
    ):
        with pytest.raises(psycopg.errors.ForeignKeyViolation):
            database.change(
                f"UPDATE {child} SET {column} = (SELECT id FROM {parent} WHERE tenant_id = %s LIMIT 1) "
                "WHERE tenant_id = %s",
                other, one,
            )  # fmt: skip


@T5
def test_a_delivery_is_of_a_batch_of_its_tenant(database: Ledgerbase, two_tenants: tuple[uuid.UUID, uuid.UUID]) -> None:
    one, other = two_tenants
    ((theirs,),) = database.rows("SELECT id FROM batches WHERE tenant_id = %s LIMIT 1", other)
    insert = (
        "INSERT INTO deliveries (tenant_id, batch_id, ordinal, subscription_id, domain) "
        "SELECT %s, %s, 1000, gen_random_uuid(), ''"
    )
    for batch in (theirs, uuid.uuid4()):
        with pytest.raises(psycopg.errors.ForeignKeyViolation):
            database.change(insert, one, batch)
        with pytest.raises(psycopg.errors.ForeignKeyViolation):
            database.change("UPDATE deliveries SET batch_id = %s WHERE tenant_id = %s", batch, one)
    ((ours,),) = database.rows("SELECT id FROM batches WHERE tenant_id = %s LIMIT 1", one)
    database.change(insert, one, ours)


def test_the_app_role_reaches_deliveries_through_their_table_only(database: Ledgerbase) -> None:
    granted = "SELECT has_table_privilege(%s, inhrelid, 'INSERT, UPDATE') FROM pg_inherits"
    role = sa.make_url(database.app_url).username
    assert {row[0] for row in database.rows(granted, role)} == {False}


@T4
def test_the_dispatch_role_sees_work_of_all_tenants_and_nothing_else(
    database: Ledgerbase, two_tenants: tuple[uuid.UUID, uuid.UUID]
) -> None:
    app = Database(database.app_url)
    with app.dispatch() as connection:
        seen = set(connection.execute(sa.text("SELECT tenant_id FROM batches")).scalars())
        assert seen == set(two_tenants)
        for table in ("send_jobs", "deliveries", "audit_log", "idempotency_keys", "buckets", "error_windows"):
            with pytest.raises(sa.exc.ProgrammingError, match="permission denied"), connection.begin_nested():
                connection.execute(sa.text(f"SELECT 1 FROM {table}"))
        # Whose accounts there are, for encrypting them anew tenant by tenant; and not one of them.
        with pytest.raises(sa.exc.ProgrammingError, match="permission denied"), connection.begin_nested():
            connection.execute(sa.text("SELECT encrypted_url FROM esp_accounts"))
        with pytest.raises(sa.exc.ProgrammingError, match="permission denied"), connection.begin_nested():
            connection.execute(sa.text("UPDATE batches SET status = 'closed'"))
    app.close()
    name = database.rows("SELECT current_database()")[0][0]
    granted = database.rows(
        "SELECT table_name, privilege_type, column_name FROM information_schema.column_privileges WHERE grantee = %s",
        f"{name}_dispatch",
    )
    assert {(table, privilege) for table, privilege, _ in granted} == DISPATCH
    assert {(table, column) for table, privilege, column in granted if privilege == "UPDATE"} == DISPATCH_WRITES


def test_the_ledger_refuses_counters_that_do_not_add_up(
    database: Ledgerbase, two_tenants: tuple[uuid.UUID, uuid.UUID]
) -> None:
    for change in (
        "sent = 1",
        "recorded_until = 1, sent = 1",
        "marked_until = 2",
        "marked_until = 1, recorded_until = 1",
    ):
        with pytest.raises(psycopg.errors.CheckViolation):
            database.change(f"UPDATE batches SET {change} WHERE tenant_id = %s", two_tenants[0])
