"""Transactions that see one tenant, or only work to dispatch.

Row level security decides what a transaction sees, by a setting that ends with it: tenant() sees one tenant's rows,
dispatch() sees the work tables as the dispatch role, and directory() sees no tenant at all, only the point look-ups
that find one. There is no transaction that sees everything.

A transaction is opened by one message to the server: BEGIN and what it may see go together, outside SQLAlchemy, which
would send them one by one. That is a third of what a small transaction costs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from uuid import UUID

import psycopg
import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from servicekit.errors import MessmailError, Reason

STATEMENT_SECONDS = 30


class Database:
    """A pool of connections to one service's database, as its app role."""

    def __init__(self, url: str, *, pool_size: int = 10, name: str = "messmail") -> None:
        parsed = sa.make_url(url).set(drivername="postgresql+psycopg")
        self._pool_size = pool_size
        self._closed = False
        # The role is named after the database (see the migrations); quoted, because a database name may be anything.
        self._begin_dispatch = f'BEGIN; SET LOCAL ROLE "{parsed.database}_dispatch"'
        self._engine = sa.create_engine(
            parsed,
            # Statements carry addresses and secrets; an error must not repeat them into a log.
            hide_parameters=True,
            # Transactions are begun and ended here, by statements of our own.
            isolation_level="AUTOCOMMIT",
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=5,
            # The connection used last has its statements prepared and its caches warm.
            pool_use_lifo=True,
            connect_args={
                "application_name": name,
                "connect_timeout": 5,
                "prepare_threshold": 3,
                "options": f"-c statement_timeout={STATEMENT_SECONDS}s -c idle_in_transaction_session_timeout=60s",
            },
        )

    @contextmanager
    def tenant(self, tenant_id: UUID) -> Iterator[Connection]:
        """Opens a transaction that sees this tenant's rows only; commits at the end. Raises UNAVAILABLE."""
        # A UUID's text has nothing that would need quoting.
        with self._transaction(f"BEGIN; SET LOCAL app.tenant = '{UUID(bytes=tenant_id.bytes)}'") as connection:
            yield connection

    @contextmanager
    def dispatch(self) -> Iterator[Connection]:
        """Opens a transaction as the dispatch role, which sees work and no people. Raises UNAVAILABLE."""
        with self._transaction(self._begin_dispatch) as connection:
            yield connection

    @contextmanager
    def directory(self) -> Iterator[Connection]:
        """Opens a transaction without a tenant: row level security hides every tenant's rows. Raises UNAVAILABLE."""
        with self._transaction("BEGIN") as connection:
            yield connection

    @contextmanager
    def _transaction(self, opening: str) -> Iterator[Connection]:
        try:
            connection = self._open(opening)
            try:
                yield connection
                _run(connection, "COMMIT")
            except BaseException:
                # Without an answer to COMMIT, or with a broken connection, the server ends the transaction by itself.
                with suppress(psycopg.Error, DBAPIError):
                    _run(connection, "ROLLBACK")
                raise
            finally:
                if self._closed:
                    connection.invalidate()
                connection.close()
        except (OperationalError, InterfaceError, PoolTimeoutError, psycopg.OperationalError) as error:
            raise _unavailable() from error
        except DBAPIError as error:
            if error.connection_invalidated:
                raise _unavailable() from error
            raise

    def _open(self, opening: str) -> Connection:
        """Takes a connection and begins. Pooled connections that died with the server are thrown away on the way."""
        for _ in range(self._pool_size + 1):
            connection = self._engine.connect()
            try:
                _run(connection, opening)
            except psycopg.OperationalError:
                connection.invalidate()
                connection.close()
            except BaseException:
                connection.close()
                raise
            else:
                return connection
        raise _unavailable()

    def close(self) -> None:
        """Closes every connection; those in use when their transaction ends."""
        self._closed = True
        self._engine.dispose()


def _run(connection: Connection, statements: str) -> None:
    """Sends statements without parameters in one message, which must not be prepared."""
    driver_connection: Any = connection.connection.driver_connection
    driver_connection.execute(statements, prepare=False)


def _unavailable() -> MessmailError:
    return MessmailError(
        Reason.ERROR_REASON_UNAVAILABLE, "the database does not answer at the moment: try again", retry_after=2.0
    )
