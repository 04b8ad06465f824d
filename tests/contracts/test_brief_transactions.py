"""Brief transactions: a few hot statements in as few messages, with what any transaction promises."""

import threading
import uuid
from collections.abc import Iterator

import psycopg
import pytest
import sqlalchemy as sa

from local_stack.data_directory import DataDirectory
from local_stack.engines import running
from local_stack.engines.postgres import Postgres
from servicekit.database import Database
from servicekit.errors import MessmailError, Reason
from servicekit.statements import Statement

ADD = Statement("INSERT INTO notes (id, text, at) VALUES (:id, :text, now()) RETURNING id, text")
READ = Statement("SELECT id, text FROM notes WHERE id = :id")
SEES = Statement("SELECT current_setting('app.tenant', true) AS tenant")
LOCK = Statement("SELECT id FROM notes WHERE id = :id FOR UPDATE")
FAIL = Statement("SELECT 1 / CAST(:divisor AS int) AS result")
SLEEP = Statement("SELECT pg_sleep(CAST(:seconds AS float8))")
TENANT, OTHER = uuid.uuid4(), uuid.uuid4()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    data = DataDirectory(tmp_path_factory.mktemp("postgres") / "data")
    with running(Postgres.prepare(data), data.logs / "postgres.log") as postgres:
        with psycopg.connect(postgres.create_database("notes"), autocommit=True) as connection:
            connection.execute("CREATE TABLE notes (id uuid PRIMARY KEY, text text UNIQUE, at timestamptz)")
        yield postgres


@pytest.fixture
def database(server: Postgres) -> Iterator[Database]:
    database = Database(server.create_database("notes"), pool_size=2)
    yield database
    database.close()


def end_every_connection(server: Postgres) -> None:
    with psycopg.connect(server.superuser_url("notes"), autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND datname = 'notes'"
        )


def add(database: Database, text: str) -> uuid.UUID:
    made = uuid.uuid4()
    with database.brief(TENANT) as transaction:
        (row,) = transaction.finish(ADD, {"id": made, "text": text})
    assert (row.id, row.text) == (made, text)
    return made


def count(database: Database, made: uuid.UUID) -> int:
    with database.brief(OTHER) as transaction:
        return len(transaction.finish(READ, {"id": made}))


def test_what_is_finished_is_committed_and_what_raises_is_not(database: Database) -> None:
    kept = add(database, "kept : :text ::uuid")
    lost = uuid.uuid4()
    with pytest.raises(RuntimeError), database.brief(TENANT) as transaction:
        transaction.run(ADD, {"id": lost, "text": "lost"})
        raise RuntimeError
    assert (count(database, kept), count(database, lost)) == (1, 0)


def test_what_was_run_is_committed_at_the_end_without_a_finish(database: Database) -> None:
    made = uuid.uuid4()
    with database.brief(TENANT) as transaction:
        transaction.run(ADD, {"id": made, "text": "run"})
        assert transaction.run(READ, {"id": made})
    assert count(database, made) == 1


def test_an_error_of_the_last_statement_takes_all_before_it_along(database: Database) -> None:
    made = uuid.uuid4()
    with pytest.raises(psycopg.errors.DivisionByZero), database.brief(TENANT) as transaction:
        transaction.run(ADD, {"id": made, "text": "doomed"})
        transaction.finish(FAIL, {"divisor": 0})
    assert count(database, made) == 0
    add(database, "the connection is as good as new")


def test_a_statement_that_cannot_be_prepared_is_an_error_each_time(database: Database) -> None:
    nonsense = Statement("SELECTT 1")
    for _ in range(2):
        with pytest.raises(psycopg.errors.SyntaxError), database.brief(TENANT) as transaction:
            transaction.finish(nonsense, {})


def test_each_sees_its_own_tenant_and_leaves_nothing_behind(database: Database) -> None:
    for tenant in (TENANT, OTHER, TENANT):
        with database.brief(tenant) as transaction:
            assert transaction.run(SEES, {})[0].tenant == str(tenant)
            assert transaction.finish(SEES, {})[0].tenant == str(tenant)
        with database.brief(tenant) as transaction:
            assert transaction.finish(SEES, {})[0].tenant == str(tenant)
        with database.directory() as connection:
            assert not connection.execute(sa.text("SELECT current_setting('app.tenant', true)")).scalar()


def test_a_lock_is_held_until_the_finish(database: Database) -> None:
    made = add(database, "locked")
    got_it = threading.Event()

    def wait_for_it() -> None:
        with database.brief(TENANT) as transaction:
            transaction.finish(LOCK, {"id": made})
        got_it.set()

    with database.brief(TENANT) as transaction:
        transaction.run(LOCK, {"id": made})
        waiting = threading.Thread(target=wait_for_it)
        waiting.start()
        assert not got_it.wait(0.3)
        transaction.finish(READ, {"id": made})
    assert got_it.wait(10)
    waiting.join()


def test_connections_that_the_server_ended_are_replaced_unnoticed(server: Postgres, database: Database) -> None:
    for text in ("one", "two", "three"):
        add(database, text)
        end_every_connection(server)


def test_a_connection_lost_under_way_is_told_as_unavailable(server: Postgres, database: Database) -> None:
    ending = threading.Timer(0.3, end_every_connection, [server])
    ending.start()
    with pytest.raises(MessmailError) as refused, database.brief(TENANT) as transaction:
        transaction.finish(SLEEP, {"seconds": 30})
    ending.join()
    assert refused.value.reason == Reason.ERROR_REASON_UNAVAILABLE
    add(database, "and the next one works")


def test_other_threads_go_on_while_one_waits_for_its_answer(database: Database) -> None:
    ended = threading.Event()

    def sleep() -> None:
        with database.brief(TENANT) as transaction:
            transaction.finish(SLEEP, {"seconds": 0.5})
        ended.set()

    sleeping = threading.Thread(target=sleep)
    sleeping.start()
    rounds = 0
    while not ended.is_set():
        with database.brief(OTHER) as transaction:
            transaction.finish(SEES, {})
        rounds += 1
    sleeping.join()
    assert rounds > 10


def test_values_larger_than_the_buffers_of_the_network_arrive_whole(database: Database) -> None:
    made = uuid.uuid4()
    with database.brief(TENANT) as transaction:
        transaction.run(Statement("SELECT length(CAST(:text AS text)) AS n"), {"text": "x" * 20_000_000})
        (row,) = transaction.finish(
            Statement("SELECT repeat('y', 20000000) AS text, CAST(:id AS uuid) AS id"), {"id": made}
        )
    assert len(row.text) == 20_000_000
    assert row.id == made
