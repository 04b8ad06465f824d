"""Member Center's tables: as the revisions make them, tenant by tenant, fenced twice."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from member_center import wiring
from member_center.records.installation import OPERATOR
from member_center.storage.tables import metadata
from messmail.member_center.v1 import member_center_people_pb2 as people_pb
from servicekit.database import Database
from tests.member_center_fixtures import MemberCenter, Newsletter, unique_address
from tests.member_center_fixtures import engines as engines
from tests.member_center_fixtures import member_center as member_center

# Not of any tenant: the clock that tests move, the number of the revision, and what tells the tenant of an id.
WITHOUT_TENANT = {"messmail_clock", "alembic_version"}
DIRECTORIES = {"list_directory", "client_directory", "origin_directory"}
# What the dispatch role may do, and nothing on people.
DISPATCH = {("tenants", "SELECT"), ("confirmation_mails", "SELECT"), ("confirmation_mails", "UPDATE")}
DISPATCH_COLUMNS = {
    ("confirmation_mails", "SELECT"): {"tenant_id", "id", "due_at", "fence", "outcome"},
    ("confirmation_mails", "UPDATE"): {"due_at", "fence"},
}
# What the owner may see of tenants' rows: only what is to be removed.
UPKEEP = {"subscriptions", "confirmation_mails", "revocations"}
PEOPLE = ("subscriptions", "consent_log", "confirmation_mails", "suppressions")
T4 = pytest.mark.claim("T4", "row level security, by raw SQL: each role sees what it may, and nothing without a tenant")
T5 = pytest.mark.claim(
    "T5", "rows that point across tenants, by raw SQL as the superuser: refused by every foreign key"
)


@pytest.fixture(scope="module")
def tables(member_center: MemberCenter) -> set[str]:
    query = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
    return {row[0] for row in member_center.rows(query)}


@pytest.fixture(scope="module")
def two(member_center: MemberCenter) -> tuple[Newsletter, Newsletter]:
    """Two tenants, each with a row in every table that holds tenants' rows."""
    made = []
    for _ in range(2):
        newsletter = member_center.make_newsletter()
        member_center.make_client(newsletter.tenant_id)
        member_center.subscribe(newsletter.list_id, unique_address())
        member_center.admin.AddSuppression(
            people_pb.AddSuppressionRequest(
                tenant_id=newsletter.tenant_id,
                list_id=newsletter.list_id,
                email=unique_address(),
                scope=people_pb.SUPPRESSION_SCOPE_NEWSLETTER,
                reason=people_pb.SUPPRESSION_REASON_MANUAL,
            )
        )
        made.append(newsletter)
    return made[0], made[1]


@pytest.fixture(scope="module")
def app(member_center: MemberCenter) -> Iterator[psycopg.Connection]:
    url = member_center.settings.member_center_database_url.get_secret_value()
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


def test_tables_equal_revisions(member_center: MemberCenter) -> None:
    engine = sa.create_engine(sa.make_url(member_center.superuser_url).set(drivername="postgresql+psycopg"))

    def is_ours(name: str | None, kind: str, parents: object) -> bool:
        return not (kind == "table" and name in WITHOUT_TENANT)

    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"include_name": is_ours, "compare_type": True, "compare_server_default": True}
        )
        differences = compare_metadata(context, metadata)
    engine.dispose()
    assert differences == []


def test_migrating_again_changes_nothing(member_center: MemberCenter) -> None:
    schema = (
        "SELECT attrelid::regclass::text, attname, atttypid::regtype::text FROM pg_attribute "
        "WHERE attnum > 0 AND attrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace) "
        "ORDER BY 1, 2"
    )
    before = member_center.rows(schema)
    app_url = member_center.settings.member_center_database_url.get_secret_value()
    assert wiring.migrate(member_center.owner_url, "app-password") == app_url
    assert member_center.rows(schema) == before
    psycopg.connect(app_url).close()


def test_tenant_id_leads_every_key_and_index(member_center: MemberCenter, tables: set[str]) -> None:
    leading = member_center.rows(
        "SELECT c.relname, i.indexrelid::regclass::text, a.attname FROM pg_index i "
        "JOIN pg_class c ON c.oid = i.indrelid JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[0] "
        "WHERE c.relnamespace = 'public'::regnamespace"
    )
    fenced = tables - WITHOUT_TENANT - DIRECTORIES
    assert [index for table, index, column in leading if table in fenced and column != "tenant_id"] == []
    assert {table for table, _, _ in leading} >= tables


@T4
def test_row_level_security_is_forced_on_every_tenants_table(member_center: MemberCenter, tables: set[str]) -> None:
    forced = {
        row[0]
        for row in member_center.rows("SELECT relname FROM pg_class WHERE relrowsecurity AND relforcerowsecurity")
    }
    assert forced == tables - WITHOUT_TENANT - DIRECTORIES
    assert set(metadata.tables) == forced | DIRECTORIES


def test_only_the_named_policies_let_anybody_see_beyond_a_tenant(member_center: MemberCenter, tables: set[str]) -> None:
    policies = member_center.rows("SELECT policyname, tablename FROM pg_policies WHERE schemaname = 'public'")
    fenced = tables - WITHOUT_TENANT - DIRECTORIES
    assert {table for name, table in policies if name == "tenant"} == fenced
    assert {table for name, table in policies if name == "dispatch"} == {table for table, _ in DISPATCH}
    assert {table for name, table in policies if name == "upkeep"} == UPKEEP
    assert {name for name, _ in policies} == {"tenant", "dispatch", "upkeep"}


@T5
def test_foreign_keys_between_tenants_tables_are_composite(member_center: MemberCenter) -> None:
    keys = member_center.rows(
        "SELECT conrelid::regclass::text, confrelid::regclass::text, "
        "(SELECT attname FROM pg_attribute WHERE attrelid = conrelid AND attnum = conkey[1]), cardinality(conkey) "
        "FROM pg_constraint WHERE contype = 'f'"
    )
    assert {leading for _, _, leading, _ in keys} == {"tenant_id"}
    assert {(child, parent, columns) for child, parent, _, columns in keys if parent != "tenants"} == {
        ("subscriptions", "lists", 2),
        ("suppressions", "lists", 2),
        ("consent_log", "subscriptions", 3),
        ("confirmation_mails", "subscriptions", 3),
    }
    assert {columns for _, parent, _, columns in keys if parent == "tenants"} == {1}


@T5
@pytest.mark.parametrize("table", PEOPLE)
def test_no_row_can_point_across_tenants(
    member_center: MemberCenter, two: tuple[Newsletter, Newsletter], table: str
) -> None:
    mine, theirs = two
    # As the superuser, so that nothing but the foreign key can refuse it.
    with (
        psycopg.connect(member_center.superuser_url) as connection,
        pytest.raises(psycopg.errors.ForeignKeyViolation),
    ):
        connection.execute(
            f"INSERT INTO {table} SELECT (jsonb_populate_record(NULL::{table}, to_jsonb(present) || "
            "jsonb_build_object('tenant_id', %s::text))).* "
            f"FROM {table} present WHERE tenant_id = %s LIMIT 1".encode(),
            [theirs.tenant_id, mine.tenant_id],
        )


@T4
def test_the_app_role_is_neither_owner_nor_above_the_fences(app: psycopg.Connection) -> None:
    role = app.execute(
        "SELECT rolsuper, rolbypassrls, rolinherit, rolcreaterole, rolcreatedb FROM pg_roles "
        "WHERE rolname = current_user"
    ).fetchone()
    assert role == (False, False, False, False, False)
    owned = app.execute("SELECT count(*) FROM pg_class WHERE relowner = current_user::regrole").fetchone()
    assert owned == (0,)
    for forbidden in (
        "UPDATE messmail_clock SET ahead = '1 day'",
        "SELECT * FROM list_directory",
        "SELECT * FROM client_directory",
        "SELECT * FROM origin_directory",
        "UPDATE consent_log SET evidence = ''",
        "DELETE FROM consent_log",
        "DELETE FROM confirmation_mails",
        "UPDATE suppressions SET address_hash = ''",
        "UPDATE clients SET scopes = '{}'",
        "ALTER TABLE subscriptions DISABLE ROW LEVEL SECURITY",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            app.execute(forbidden.encode())


@T4
def test_without_a_tenant_nothing_is_seen_also_on_a_connection_used_before(
    app: psycopg.Connection, two: tuple[Newsletter, Newsletter]
) -> None:
    fenced = set(metadata.tables) - DIRECTORIES
    for used_before in (False, True):
        if used_before:
            with app.transaction():
                app.execute("SELECT set_config('app.tenant', %s, true)", [two[0].tenant_id])
                assert app.execute("SELECT 1 FROM subscriptions").fetchall() == [(1,)]
        for table in fenced:
            assert app.execute(f"SELECT * FROM {table}".encode()).fetchall() == [], table


@T4
def test_a_tenant_sees_and_writes_its_own_rows_only(
    app: psycopg.Connection, two: tuple[Newsletter, Newsletter]
) -> None:
    mine, theirs = two
    for table in (*PEOPLE, "lists", "clients", "tenants"):
        with app.transaction():
            app.execute("SELECT set_config('app.tenant', %s, true)", [mine.tenant_id])
            seen = app.execute(f"SELECT DISTINCT tenant_id::text FROM {table}".encode()).fetchall()
        assert seen == [(mine.tenant_id,)], table
    with pytest.raises(psycopg.errors.InsufficientPrivilege), app.transaction():
        app.execute("SELECT set_config('app.tenant', %s, true)", [mine.tenant_id])
        app.execute(
            "INSERT INTO lists SELECT %s, gen_random_uuid(), name, from_name, from_address, reply_to, "
            "envelope_sender, language FROM lists LIMIT 1",
            [theirs.tenant_id],
        )


@pytest.mark.claim("T4", "tenants in turns on one pooled connection: each sees its own list", asked=1000, run=1000)
def test_many_tenants_through_one_connection_never_mix(member_center: MemberCenter) -> None:
    tenants = [uuid.uuid4() for _ in range(1000)]
    with psycopg.connect(member_center.superuser_url) as connection, connection.cursor() as cursor:
        cursor.executemany("INSERT INTO tenants SELECT %s, 'A tenant', now()", [[each] for each in tenants])
        cursor.executemany(
            "INSERT INTO lists SELECT %s, gen_random_uuid(), name, from_name, from_address, reply_to, envelope_sender, "
            "language FROM (SELECT * FROM lists LIMIT 1) AS any_list",
            [[each] for each in tenants],
        )
    database = Database(member_center.settings.member_center_database_url.get_secret_value(), pool_size=1)
    query = sa.text("SELECT tenant_id FROM lists")
    try:
        for tenant in tenants:
            with database.tenant(tenant) as connected:
                assert connected.execute(query).scalars().all() == [tenant]
            with database.directory() as connected:
                assert connected.execute(query).scalars().all() == []
    finally:
        database.close()


@T4
def test_the_dispatch_role_may_do_what_is_named_and_reads_no_person(
    member_center: MemberCenter, app: psycopg.Connection, two: tuple[Newsletter, Newsletter]
) -> None:
    database = member_center.rows("SELECT current_database()")[0][0]
    grants = member_center.rows(
        "SELECT table_name, privilege_type, column_name FROM information_schema.column_privileges WHERE grantee = %s",
        f"{database}_dispatch",
    )
    assert {(table, privilege) for table, privilege, _ in grants} == DISPATCH
    for (table, privilege), columns in DISPATCH_COLUMNS.items():
        assert {column for t, p, column in grants if (t, p) == (table, privilege)} == columns
    with app.transaction():
        app.execute(f'SET LOCAL ROLE "{database}_dispatch"'.encode())
        seen = app.execute("SELECT DISTINCT tenant_id::text FROM confirmation_mails").fetchall()
        assert {tenant for (tenant,) in seen} >= {newsletter.tenant_id for newsletter in two}
    for forbidden in (
        "SELECT * FROM subscriptions",
        "SELECT subscription_id FROM confirmation_mails",
        "SELECT * FROM consent_log",
        "SELECT * FROM clients",
        "SELECT * FROM signing_keys",
        "UPDATE confirmation_mails SET outcome = 'sent'",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege), app.transaction():
            app.execute(f'SET LOCAL ROLE "{database}_dispatch"'.encode())
            app.execute(forbidden.encode())


def test_a_directory_tells_the_tenant_of_an_id_and_nothing_else(
    app: psycopg.Connection, two: tuple[Newsletter, Newsletter]
) -> None:
    for newsletter in two:
        found = app.execute("SELECT tenant_of_list(%s)::text", [newsletter.list_id]).fetchone()
        assert found == (newsletter.tenant_id,)
    assert app.execute("SELECT tenant_of_list(gen_random_uuid())").fetchone() == (None,)
    assert app.execute("SELECT tenant_of_client(gen_random_uuid())").fetchone() == (None,)


@T4
def test_the_owner_sees_nothing_but_what_is_to_be_removed(
    member_center: MemberCenter, two: tuple[Newsletter, Newsletter]
) -> None:
    assert two
    with psycopg.connect(member_center.owner_url) as owner:
        for table in set(metadata.tables) - DIRECTORIES:
            assert owner.execute(f"SELECT * FROM {table}".encode()).fetchall() == [], table


def test_internal_clients_belong_to_the_operator_and_no_other_does(member_center: MemberCenter) -> None:
    owners = member_center.rows("SELECT DISTINCT usage = 'internal', tenant_id = %s FROM clients", OPERATOR)
    assert set(owners) <= {(True, True), (False, False)}
    assert (True, True) in owners
