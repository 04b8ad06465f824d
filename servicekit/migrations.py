"""Brings a service's database to the schema of this version, and says how a tenant's tables are fenced.

Each service has its own revisions (`<service>/storage/migrations`); what is the same in both is here: the roles, the
clock, row level security and its grants. It is run by the owner role, and knows no table of a service.

Roles, named after the database: `<database>_app`, which the processes log in as, owns nothing and bypasses nothing;
`<database>_dispatch`, which the app role enters (SET LOCAL ROLE) to find work, and which sees no people.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import psycopg
import sqlalchemy as sa
from alembic import command, op
from alembic.config import Config
from sqlalchemy.engine import Connection

_LOCK = 0x6D6573736D61696C


def migrate(owner_url: str, app_password: str, revisions: Path) -> str:
    """Runs what is missing of the revisions in that folder, and returns the URL of the app role.

    All or nothing, and safe to run at any time and from several places at once. Without a password the app role keeps
    the one it has.
    """
    with owner(owner_url) as connection:
        _create_roles(connection, app_password)
        config = Config()
        config.set_main_option("script_location", str(revisions).replace("%", "%%"))
        config.set_main_option("path_separator", "os")
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        database = connection.execute(sa.text("SELECT current_database()")).scalar_one()
    app = sa.make_url(owner_url).set(drivername="postgresql", username=f"{database}_app", password=app_password or None)
    return app.render_as_string(hide_password=False)


@contextmanager
def owner(owner_url: str) -> Iterator[Connection]:
    """Opens a transaction as the owner of a database. One at a time: whoever comes second waits for the first."""
    url = sa.make_url(owner_url).set(drivername="postgresql+psycopg")
    engine = sa.create_engine(url, poolclass=sa.NullPool, connect_args={"connect_timeout": 5})
    with engine.begin() as connection:
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        yield connection


def app_role() -> str:
    """Returns the quoted name of the app role, in a revision."""
    return _quoted(f"{_database()}_app")


def dispatch_role() -> str:
    """Returns the quoted name of the dispatch role, in a revision."""
    return _quoted(f"{_database()}_dispatch")


def create_clock() -> None:
    """Creates messmail_now(): the database's clock, plus an offset that only the owner can set (and only tests do)."""
    op.execute(
        """
        CREATE TABLE messmail_clock (
            single boolean PRIMARY KEY DEFAULT true CHECK (single),
            ahead interval NOT NULL DEFAULT '0'
        )
        """
    )
    op.execute("INSERT INTO messmail_clock DEFAULT VALUES")
    op.execute(
        """
        CREATE FUNCTION messmail_now() RETURNS timestamptz LANGUAGE sql STABLE SECURITY DEFINER
        SET search_path = pg_catalog, pg_temp
        AS 'SELECT statement_timestamp() + (SELECT ahead FROM public.messmail_clock)'
        """
    )


def fence_tenants(table: str, privileges: str = "SELECT, INSERT, UPDATE, DELETE") -> None:
    """Forces row level security on a table, so that the app role sees the rows of the transaction's tenant only."""
    op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    op.execute(
        f"CREATE POLICY tenant ON {table} TO {app_role()} "
        "USING (tenant_id = nullif(current_setting('app.tenant', true), '')::uuid)"
    )
    op.execute(f"GRANT {privileges} ON {table} TO {app_role()}")


def open_to_dispatch(table: str, privileges: str) -> None:
    """Lets the dispatch role see every tenant's rows of a fenced table, with these (column) privileges only."""
    op.execute(f"CREATE POLICY dispatch ON {table} TO {dispatch_role()} USING (true)")
    op.execute(f"GRANT {privileges} ON {table} TO {dispatch_role()}")


def create_audit_log() -> None:
    """Creates the audit log and its head. Events are added and read, and nobody changes or removes one: not by grants,
    and not, short of taking the trigger away, as the owner.
    """
    op.execute(
        """
        CREATE TABLE audit_log (
            tenant_id uuid NOT NULL,
            number bigint NOT NULL CHECK (number > 0),
            at timestamptz NOT NULL,
            event text NOT NULL,
            client_id uuid,
            request_id text NOT NULL,
            facts jsonb NOT NULL,
            mac bytea NOT NULL CHECK (length(mac) = 32),
            PRIMARY KEY (tenant_id, number)
        )
        """
    )
    op.execute(
        """
        CREATE TABLE audit_head (
            tenant_id uuid PRIMARY KEY,
            encrypted_key bytea NOT NULL,
            number bigint NOT NULL,
            seal bytea NOT NULL CHECK (length(seal) = 32)
        )
        """
    )
    op.execute(
        """
        CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
        AS $$ BEGIN RAISE EXCEPTION 'the audit log is append-only' USING ERRCODE = 'insufficient_privilege'; END $$
        """
    )
    op.execute(
        "CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )
    op.execute("REVOKE EXECUTE ON FUNCTION refuse_change() FROM PUBLIC")
    fence_tenants("audit_log", "SELECT, INSERT")
    fence_tenants("audit_head", "SELECT, INSERT, UPDATE")


def _create_roles(connection: Connection, app_password: str) -> None:
    database = connection.execute(sa.text("SELECT current_database()")).scalar_one()
    app, dispatch = f"{database}_app", f"{database}_dispatch"
    for role, options in ((app, "LOGIN NOINHERIT"), (dispatch, "NOLOGIN")):
        if not connection.execute(sa.text("SELECT 1 FROM pg_roles WHERE rolname = :role"), {"role": role}).first():
            connection.exec_driver_sql(f"CREATE ROLE {_quoted(role)} {options}")
    if app_password:
        # The verifier is computed here: the password itself is in no statement that a server could log.
        driver = cast(psycopg.Connection, connection.connection.driver_connection)
        verifier = driver.pgconn.encrypt_password(app_password.encode(), app.encode(), b"scram-sha-256")
        connection.exec_driver_sql(f"ALTER ROLE {_quoted(app)} PASSWORD '{verifier.decode()}'")
    connection.exec_driver_sql(f"GRANT {_quoted(dispatch)} TO {_quoted(app)}")
    connection.exec_driver_sql(f"GRANT USAGE ON SCHEMA public TO {_quoted(app)}, {_quoted(dispatch)}")


def _database() -> str:
    return str(op.get_bind().execute(sa.text("SELECT current_database()")).scalar_one())


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""').replace("%", "%%") + '"'
