"""Transactions that see one tenant, or only work to dispatch.

Row level security decides what a transaction sees, by a setting that ends with it: tenant() sees one tenant's rows,
dispatch() sees the work tables as the dispatch role, and directory() sees no tenant at all, only the point look-ups
that find one. There is no transaction that sees everything.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Connection
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from servicekit.errors import MessmailError, Reason

STATEMENT_SECONDS = 30
_SET_TENANT = sa.text("SELECT set_config('app.tenant', :tenant, true)")


class Database:
    """A pool of connections to one service's database, as its app role."""

    def __init__(self, url: str, *, pool_size: int = 10, name: str = "messmail") -> None:
        parsed = sa.make_url(url).set(drivername="postgresql+psycopg")
        # The role is named after the database (see the migrations); quoted, because a database name may be anything.
        self._set_dispatch_role = sa.text(f'SET LOCAL ROLE "{parsed.database}_dispatch"')
        self._engine = sa.create_engine(
            parsed,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=5,
            pool_pre_ping=False,
            connect_args={
                "application_name": name,
                "connect_timeout": 5,
                "options": f"-c statement_timeout={STATEMENT_SECONDS}s -c idle_in_transaction_session_timeout=60s",
            },
        )
        event.listen(self._engine, "connect", _prepare_after_few_runs)

    @contextmanager
    def tenant(self, tenant_id: UUID) -> Iterator[Connection]:
        """Opens a transaction that sees this tenant's rows only; commits at the end. Raises UNAVAILABLE."""
        with self._begin() as connection:
            connection.execute(_SET_TENANT, {"tenant": str(tenant_id)})
            yield connection

    @contextmanager
    def dispatch(self) -> Iterator[Connection]:
        """Opens a transaction as the dispatch role, which sees work and no people. Raises UNAVAILABLE."""
        with self._begin() as connection:
            connection.execute(self._set_dispatch_role)
            yield connection

    @contextmanager
    def directory(self) -> Iterator[Connection]:
        """Opens a transaction without a tenant: row level security hides every tenant's rows. Raises UNAVAILABLE."""
        with self._begin() as connection:
            yield connection

    @contextmanager
    def _begin(self) -> Iterator[Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except (OperationalError, InterfaceError, PoolTimeoutError) as error:
            raise _unavailable() from error
        except DBAPIError as error:
            if error.connection_invalidated:
                raise _unavailable() from error
            raise

    def close(self) -> None:
        """Closes every connection."""
        self._engine.dispose()


def _prepare_after_few_runs(connection: DBAPIConnection, _record: object) -> None:
    connection.prepare_threshold = 3


def _unavailable() -> MessmailError:
    return MessmailError(
        Reason.ERROR_REASON_UNAVAILABLE, "the database does not answer at the moment: try again", retry_after=2.0
    )
