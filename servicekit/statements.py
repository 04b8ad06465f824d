"""Statements that every request runs: prepared once on a connection, and sent without a cursor around them.

A cursor and a result of SQLAlchemy cost more than most statements cost the server. Here statements go to libpq as they
are, several in one message where they follow each other (PostgreSQL manual, 34.5 Pipeline Mode). This knows no table;
what is a transaction is said in database.
"""

from __future__ import annotations

import itertools
import re
import select
from collections import namedtuple
from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
from psycopg.adapt import PyFormat, Transformer
from psycopg.errors import error_from_result
from psycopg.pq import ConnStatus, ExecStatus
from sqlalchemy.pool import PoolProxiedConnection

# A colon that is neither part of a cast (::) nor of a word.
_PARAMETER = re.compile(r"(?<![:\w]):([a-z_]\w*)")
_DONE = (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK)
_MILLISECONDS = 1000
_numbers = itertools.count(1)


class Statement:
    """One SQL statement with parameters such as :name, for hot paths; all others are SQLAlchemy's.

    Parameters are sent as text and typed by the statement, so one whose type its place does not tell needs a CAST.
    """

    def __init__(self, sql: str) -> None:
        self._names: list[str] = []
        self.sql = _PARAMETER.sub(self._place, sql).encode()
        self.name = b"messmail_%d" % next(_numbers)
        self._formats = [PyFormat.TEXT] * len(self._names)
        self._make_row: Any = None

    def values(self, transformer: Any, parameters: Mapping[str, Any]) -> Sequence[Any]:
        """Returns the parameters as they are sent; raises KeyError when one is missing."""
        sent: Sequence[Any] = transformer.dump_sequence([parameters[name] for name in self._names], self._formats)
        return sent

    def rows(self, transformer: Any, result: Any) -> list[Any]:
        """Returns the rows of an answer as named tuples; none for a mere command."""
        if not result.ntuples:
            return []
        if self._make_row is None:
            names = [(result.fname(column) or b"").decode() for column in range(result.nfields)]
            row: Any = namedtuple("Row", names, rename=True)  # type: ignore[misc]
            self._make_row = row._make
        transformer.set_pgresult(result)
        found: list[Any] = transformer.load_rows(0, result.ntuples, self._make_row)
        return found

    def _place(self, match: re.Match[str]) -> str:
        name = match[1]
        if name not in self._names:
            self._names.append(name)
        return f"${self._names.index(name) + 1}"


Call = tuple[Statement, Mapping[str, Any]]


def exchange(pooled: PoolProxiedConnection, calls: Sequence[Call], seconds: float) -> list[list[Any]]:
    """Sends statements in one message and returns the rows of each; after a failed one none is carried out.

    Outside an open transaction they are one. Raises psycopg.Error; one without an sqlstate is not the server's answer,
    and leaves the connection in the middle of something.
    """
    driver: Any = pooled.driver_connection
    pgconn, info = driver.pgconn, pooled.info
    prepared: set[bytes] = info.setdefault("messmail_prepared", set())
    transformer = info.get("messmail_transformer")
    if transformer is None:
        transformer = info["messmail_transformer"] = Transformer(driver)
    values = [statement.values(transformer, parameters) for statement, parameters in calls]
    new = [statement for statement, _ in calls if statement.name not in prepared]
    pgconn.enter_pipeline_mode()
    for statement in new:
        pgconn.send_prepare(statement.name, statement.sql)
    for (statement, _), sent in zip(calls, values, strict=True):
        pgconn.send_query_prepared(statement.name, sent)
    pgconn.pipeline_sync()
    answers = _answers(pgconn, seconds)
    pgconn.exit_pipeline_mode()
    for statement, answer in zip(new, answers, strict=False):
        if answer.status == ExecStatus.COMMAND_OK:
            prepared.add(statement.name)
    for answer in answers:
        if answer.status not in _DONE:
            raise _error_of(pgconn, answer)
    return [
        statement.rows(transformer, answer) for (statement, _), answer in zip(calls, answers[len(new) :], strict=True)
    ]


def execute(pooled: PoolProxiedConnection, statements: str) -> None:
    """Sends statements without parameters in one message. Raises psycopg.Error.

    A COMMIT of what had failed before is an error too: the server answers it with ROLLBACK.
    """
    driver: Any = pooled.driver_connection
    result = driver.pgconn.exec_(statements.encode())
    if result.status not in _DONE:
        raise _error_of(driver.pgconn, result)
    if statements == "COMMIT" and result.command_status != b"COMMIT":
        raise psycopg.InternalError("the transaction had failed before it was committed")


def _error_of(pgconn: Any, result: Any) -> psycopg.Error:
    """What a result means; of a connection that ended with it the driver only says that something is wrong."""
    if pgconn.status != ConnStatus.OK:
        return psycopg.OperationalError("the connection is lost")
    return error_from_result(result)


def is_stale(pooled: PoolProxiedConnection) -> bool:
    """Tells whether an idle connection has been ended by the server; nothing is sent."""
    driver: Any = pooled.driver_connection
    pgconn = driver.pgconn
    poll = select.poll()
    try:
        poll.register(pgconn.socket, select.POLLIN)
        # Something to read may be a farewell with the end behind it, but also a notice.
        while poll.poll(0):
            pgconn.consume_input()
    except psycopg.OperationalError:
        return True
    return bool(pgconn.status != ConnStatus.OK)


def _answers(pgconn: Any, seconds: float) -> list[Any]:
    """Reads the answers up to the end of the message, without holding up other threads."""
    poll = select.poll()
    poll.register(pgconn.socket, select.POLLIN)
    answers: list[Any] = []
    while pgconn.flush():
        # The server may wait for us to read before it reads on.
        poll.modify(pgconn.socket, select.POLLIN | select.POLLOUT)
        _wait(poll, seconds)
        pgconn.consume_input()
        poll.modify(pgconn.socket, select.POLLIN)
    while True:
        while pgconn.is_busy():
            _wait(poll, seconds)
            pgconn.consume_input()
        answer = pgconn.get_result()
        if answer is None:
            continue
        if answer.status == ExecStatus.PIPELINE_SYNC:
            return answers
        answers.append(answer)


def _wait(poll: select.poll, seconds: float) -> None:
    if not poll.poll(seconds * _MILLISECONDS):
        raise psycopg.OperationalError("the server did not answer in time")
