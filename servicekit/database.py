"""Transactions that see one tenant, or only work to dispatch.

Row level security decides what a transaction sees, by a setting that ends with it: tenant() sees one tenant's rows,
dispatch() sees the work tables as the dispatch role, and directory() sees no tenant at all, only the point look-ups
that find one. There is no transaction that sees everything.

A transaction is opened by one message to the server: BEGIN and what it may see go together, outside SQLAlchemy, which
would send them one by one. A brief one, of hot statements only, has no messages of its own: its opening goes with its
first statement and its end with its last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any
from uuid import UUID

import psycopg
import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import PoolProxiedConnection

from servicekit.errors import MessmailError, Reason
from servicekit.statements import Call, Statement, exchange, execute, is_stale

STATEMENT_SECONDS = 30
# When the server should have ended a statement long ago, the network is to blame.
_ANSWER_SECONDS = STATEMENT_SECONDS + 5.0
_AWAY = (OperationalError, InterfaceError, PoolTimeoutError, psycopg.OperationalError)

_BEGIN, _COMMIT = Statement("BEGIN"), Statement("COMMIT")
_SEE_TENANT = Statement("SELECT set_config('app.tenant', :tenant, true)")

# How a statement of a brief transaction is run: its run, or its finish.
Run = Callable[[Statement, Mapping[str, Any]], list[Any]]


class BriefTransaction:
    """A transaction of a few hot statements. Its lock and its reads are those of any other."""

    def __init__(self, pooled: PoolProxiedConnection, opening: Call) -> None:
        self._pooled = pooled
        self._opening: list[Call] = [opening]
        self.is_open = False

    def run(self, statement: Statement, parameters: Mapping[str, Any]) -> list[Any]:
        """Runs a statement after which others follow; returns named tuples."""
        begins = [] if self.is_open else [(_BEGIN, {}), *self._opening]
        self.is_open = True
        return exchange(self._pooled, [*begins, (statement, parameters)], _ANSWER_SECONDS)[-1]

    def finish(self, statement: Statement, parameters: Mapping[str, Any]) -> list[Any]:
        """Runs the last statement and commits; returns named tuples."""
        if not self.is_open:
            return exchange(self._pooled, [*self._opening, (statement, parameters)], _ANSWER_SECONDS)[-1]
        answers = exchange(self._pooled, [(statement, parameters), (_COMMIT, {})], _ANSWER_SECONDS)
        self.is_open = False
        return answers[0]


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
            # Transactions are begun and ended here, by statements of our own, before a connection goes back.
            isolation_level="AUTOCOMMIT",
            pool_reset_on_return=None,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=5,
            # The connection used last has its statements prepared and its caches warm.
            pool_use_lifo=True,
            connect_args={
                "application_name": name,
                "connect_timeout": 5,
                "prepare_threshold": 3,
                # A server that vanished without a word is noticed after seconds, not after a quarter of an hour.
                "keepalives_idle": 5,
                "keepalives_interval": 5,
                "keepalives_count": 3,
                "tcp_user_timeout": 20_000,
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
    def brief(self, tenant_id: UUID) -> Iterator[BriefTransaction]:
        """Opens a brief transaction that sees this tenant's rows only; commits at the end. Raises UNAVAILABLE."""
        with self.brief_directory((_SEE_TENANT, {"tenant": str(tenant_id)})) as transaction:
            yield transaction

    @contextmanager
    def brief_directory(self, look_up: Call) -> Iterator[BriefTransaction]:
        """Opens a brief transaction that sees the tenant whom a point look-up finds and enters. Raises UNAVAILABLE."""
        try:
            pooled = self._take()
            transaction = BriefTransaction(pooled, look_up)
            try:
                yield transaction
                if transaction.is_open:
                    execute(pooled, "COMMIT")
            except BaseException as error:
                if isinstance(error, psycopg.Error) and error.sqlstate is None:
                    pooled.invalidate()
                elif transaction.is_open:
                    with suppress(psycopg.Error):
                        execute(pooled, "ROLLBACK")
                raise
            finally:
                if self._closed:
                    pooled.invalidate()
                pooled.close()
        except _AWAY as error:
            raise _unavailable() from error

    @contextmanager
    def _transaction(self, opening: str) -> Iterator[Connection]:
        try:
            connection = self._open(opening)
            try:
                yield connection
                execute(connection.connection, "COMMIT")
            except BaseException:
                # Without an answer to COMMIT, or with a broken connection, the server ends the transaction by itself.
                with suppress(psycopg.Error, SQLAlchemyError):
                    execute(connection.connection, "ROLLBACK")
                raise
            finally:
                if self._closed:
                    connection.invalidate()
                connection.close()
        except _AWAY as error:
            raise _unavailable() from error
        except DBAPIError as error:
            if error.connection_invalidated:
                raise _unavailable() from error
            raise

    def _take(self) -> PoolProxiedConnection:
        """Takes a connection. Pooled connections that died with the server are thrown away on the way."""
        for _ in range(self._pool_size + 1):
            pooled = self._engine.pool.connect()
            if not is_stale(pooled):
                return pooled
            pooled.invalidate()
            pooled.close()
        raise _unavailable()

    def _open(self, opening: str) -> Connection:
        """Takes a connection and begins. Pooled connections that died with the server are thrown away on the way."""
        for _ in range(self._pool_size + 1):
            connection = self._engine.connect()
            try:
                execute(connection.connection, opening)
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


def _unavailable() -> MessmailError:
    return MessmailError(
        Reason.ERROR_REASON_UNAVAILABLE, "the database does not answer at the moment: try again", retry_after=2.0
    )
