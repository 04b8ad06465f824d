"""The embedded PostgreSQL: private, durable by setting, and able to start again whatever happened to it."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from local_stack.children import MARK, RunningChild
from local_stack.data_directory import DataDirectory
from local_stack.engines import running
from local_stack.engines.postgres import Postgres


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    data = DataDirectory(tmp_path_factory.mktemp("postgres") / "data")
    with running(Postgres.prepare(data), data.logs / "postgres.log") as postgres:
        yield postgres


def test_it_is_postgresql_18_with_durable_commits_that_nobody_can_switch_off(server: Postgres) -> None:
    with psycopg.connect(server.superuser_url(), autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET fsync = off")
        connection.execute("ALTER SYSTEM SET synchronous_commit = off")
        connection.execute("SELECT pg_reload_conf()")
    with psycopg.connect(server.superuser_url()) as connection:
        assert connection.info.server_version // 10_000 == 18
        assert connection.execute("SHOW fsync").fetchone() == ("on",)
        assert connection.execute("SHOW synchronous_commit").fetchone() == ("on",)


def test_no_local_process_is_trusted_without_the_password(server: Postgres) -> None:
    host, port = server.address.host, server.address.port
    for where in (host, server.socket_directory):
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(host=where, port=port, user="postgres", dbname="postgres", passfile="/dev/null")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(host=host, port=port, user="postgres", dbname="postgres", password="guess")


def test_an_owner_makes_roles_and_tables_in_its_own_database_only(server: Postgres) -> None:
    url = server.create_database("member_center")
    assert url == server.create_database("member_center"), "a second call finds what the first one made"
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE letters (id int)")
        connection.execute("CREATE ROLE member_center_app LOGIN NOINHERIT PASSWORD 'x'")
        row = connection.execute(
            "SELECT current_user, current_database(), rolsuper, rolbypassrls FROM pg_roles WHERE rolname = current_user"
        ).fetchone()
    assert row == ("member_center_owner", "member_center", False, False)


def test_its_files_are_private_and_belong_to_whoever_runs_it(server: Postgres) -> None:
    home = server.data.path / "postgres"
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert stat.S_IMODE(server.data.path.stat().st_mode) == 0o700
    process = next(
        one for one in psutil.process_iter() if one.name() == "postgres" and str(server.address.port) in _words(one)
    )
    assert process.uids().effective == home.stat().st_uid != 0
    password = (server.data.path / "secrets/postgres-superuser").read_text()
    assert password not in " ".join(process.cmdline())
    assert process.environ()[MARK] == str(server.data.path), "an orphan could not be told from a stranger"


def test_what_was_committed_is_there_after_a_kill_and_a_reused_pid(tmp_path: Path) -> None:
    data = DataDirectory(tmp_path / "data")
    postgres = Postgres.prepare(data)
    log = data.logs / "postgres.log"
    child = RunningChild(postgres.child, log)
    try:
        _wait_until_ready(postgres, child)
        url = postgres.create_database("send_engine")
        with psycopg.connect(url) as connection:
            connection.execute("CREATE TABLE ledger AS SELECT 42 AS row")
    finally:
        psutil.Process(child.pid).kill()
        child.wait()
    pid_file = data.path / "postgres/cluster/postmaster.pid"
    # The number in the stale file is now that of a living process of somebody else: this one.
    pid_file.write_text(pid_file.read_text().replace(str(child.pid), str(os.getpid()), 1))
    with running(Postgres.prepare(data), log) as again, psycopg.connect(again.create_database("send_engine")) as found:
        assert found.execute("SELECT row FROM ledger").fetchone() == (42,)


def test_a_data_directory_with_a_very_long_path_works(tmp_path: Path) -> None:
    data = DataDirectory(tmp_path / ("long" * 40) / "data")
    postgres = Postgres.prepare(data)
    assert len(postgres.socket_directory) < 90
    with (
        running(postgres, data.logs / "postgres.log"),
        pytest.raises(psycopg.OperationalError, match="no password supplied"),
    ):
        psycopg.connect(
            host=postgres.socket_directory, port=postgres.address.port, user="postgres", passfile="/dev/null"
        )


@pytest.mark.skipif("os.geteuid() != 0", reason="an ordinary user's PostgreSQL runs as himself")
def test_root_may_keep_the_data_where_no_other_account_can_enter(tmp_path: Path) -> None:
    barred = tmp_path / "barred"
    barred.mkdir(mode=0o700)
    before = {folder: folder.stat().st_mode for folder in (barred, *barred.parents)}
    data = DataDirectory(barred / "data")
    with running(Postgres.prepare(data), data.logs / "postgres.log") as postgres:
        postgres.create_database("member_center")
    assert {folder: folder.stat().st_mode for folder in before} == before


def test_stopping_is_quick_although_a_client_is_connected(tmp_path: Path) -> None:
    data = DataDirectory(tmp_path / "data")
    log = data.logs / "postgres.log"
    with running(Postgres.prepare(data), log) as postgres:
        connection = psycopg.connect(postgres.superuser_url())
    connection.close()
    assert "received fast shutdown request" in log.read_text()
    assert "database system is shut down" in log.read_text()


def test_a_second_process_cannot_open_a_locked_data_directory(tmp_path: Path) -> None:
    data = DataDirectory(tmp_path / "data")
    data.lock()
    script = (
        "import sys; from pathlib import Path; from local_stack.data_directory import DataDirectory\n"
        "DataDirectory(Path(sys.argv[1])).lock()"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", script, str(data.path)]
    refused = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert refused.returncode != 0
    assert "Another `messmail up` is using" in refused.stderr
    data.unlock()
    subprocess.run(command, env=environment, check=True)


def _wait_until_ready(postgres: Postgres, child: RunningChild) -> None:
    while not postgres.is_ready():
        assert not child.wait(0.02), "PostgreSQL ended while starting"


def _words(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
