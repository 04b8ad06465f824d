"""`messmail up` itself: its ports, its children, its end, and its return after everything was killed."""

import json
import os
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from local_stack.data_directory import DataDirectory
from local_stack.leftovers import end_leftovers
from servicekit.errors import MessmailError
from tests.stack import Stack, command_line, new_data_dir, unique_address, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PARTS = {"gateway", "member-center", "send-engine", "worker", "mailbox", "postgres", "valkey", "up"}


@pytest.fixture
def own_stack() -> Iterator[Stack]:
    """A stack that only this test uses, not started yet."""
    made = Stack(new_data_dir())
    yield made
    if made.ready:
        made.stop()
        # Of a stack whose `up` was killed nobody else ends the rest.
        end_leftovers(DataDirectory(made.data_dir))
    made.remove()


def processes(stack: Stack) -> dict[str, list[psutil.Process]]:
    return {part: [psutil.Process(pid) for pid in pids] for part, pids in stack.ready["pids"].items()}


def still_running(stack: Stack) -> list[str]:
    """Names the parts of the last start of which a process still runs."""
    return sorted(part for part in PARTS for pid in stack.ready["pids"][part] if psutil.pid_exists(pid))


def events(stack: Stack, name: str) -> dict[str, str]:
    """The time at which a part last logged each event."""
    log = stack.data_dir / "logs" / f"{name}.log"
    rows = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    return {row["event"]: row["timestamp"] for row in rows}


def test_a_stop_ends_gateway_services_workers_and_engines_in_this_order(own_stack: Stack) -> None:
    own_stack.start()
    assert set(own_stack.ready["pids"]) == PARTS
    assert len(own_stack.ready["pids"]["worker"]) == 2
    assert own_stack.stop(signal.SIGINT) == 0
    assert still_running(own_stack) == []
    stopped = [events(own_stack, name)["stopped"] for name in ("gateway", "member-center", "worker-1", "mailbox")]
    assert stopped == sorted(stopped)
    log = (own_stack.data_dir / "logs/postgres.log").read_text()
    assert "database system is shut down" in log
    assert "was killed" not in own_stack.output()


def test_after_everything_of_up_was_killed_the_next_one_replaces_it_and_resumes(own_stack: Stack) -> None:
    own_stack.start()
    newsletter = own_stack.make_newsletter()
    address = unique_address()
    own_stack.import_members(newsletter, [address])
    left = processes(own_stack)
    assert own_stack.stop(signal.SIGKILL) == -signal.SIGKILL
    left["postgres"][0].kill()
    assert left["worker"][0].is_running(), "children live in sessions of their own"

    own_stack.start()
    assert "Ended what an earlier run left:" in own_stack.output()
    assert [part for part, gone in left.items() if any(process.is_running() for process in gone)] == []
    token = own_stack.access_token(newsletter.client)
    created = own_stack.site.post_json(
        "/api/send-jobs",
        {"tenant_id": newsletter.tenant_id, "list_id": newsletter.list_id, "subject": "Again", "body_text": "Hello"},
        token,
    )
    assert created.status == 201, created.answer
    job = own_stack.wait_for_job(created.answer["id"], token)
    assert job["counters"]["sent"] in (1, "1")


@pytest.mark.parametrize("part", ["worker", "gateway", "member-center", "postgres", "valkey"])
def test_a_killed_child_is_restarted_and_that_is_said(stack: Stack, part: str) -> None:
    before = stack.pids(part)
    os.kill(before[-1], signal.SIGKILL)
    wait_until(lambda: stack.pids(part) != before, f"another {part}")
    said = [line for line in stack.output().splitlines() if line.startswith(f"• {part}")]
    assert "was killed by SIGKILL; starting it again" in said[-2]
    assert "runs again" in said[-1]

    def works() -> bool:
        try:
            return bool(stack.access_token(stack.make_newsletter().client))
        except (MessmailError, OSError):
            return False

    wait_until(works, "the stack to work again", 60)


def test_a_taken_default_port_moves_and_says_so(own_stack: Stack) -> None:
    ready = own_stack.data_dir.with_name(own_stack.data_dir.name + ".moved.json")
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("127.0.0.1", 8080))
            taken.listen()
        except OSError:
            pass  # somebody else has it, which is as good
        command = command_line(
            "up", "--data-dir", str(own_stack.data_dir), "--ready-file", str(ready), "--workers", "1"
        )
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as up:
            try:
                wait_until(lambda: ready.exists() or up.poll() is not None, "the stack", 120)
            finally:
                up.terminate()
                said, _ = up.communicate(timeout=90)
    assert up.returncode == 0, said
    http = json.loads(ready.read_text())["http"]
    ready.unlink()
    assert http != "http://127.0.0.1:8080"
    assert f"127.0.0.1:8080 is taken, so http listens on {http.removeprefix('http://')}" in said


@pytest.mark.parametrize("option", ["http", "smtp"])
def test_an_asked_port_that_is_taken_is_an_error_in_words(own_stack: Stack, option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        command = command_line("up", "--data-dir", str(own_stack.data_dir), f"--{option}", address)
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert f"{address} is taken by another program" in ended.stdout + ended.stderr


@pytest.mark.parametrize("place", ["nowhere/ready.json", "."])
def test_a_ready_file_that_cannot_be_written_is_an_error_in_words(tmp_path: Path, place: str) -> None:
    data = tmp_path / "data"
    command = command_line("up", "--data-dir", str(data), "--ready-file", str(tmp_path / place))
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert "--ready-file" in ended.stdout + ended.stderr
    assert not data.exists()


def test_a_second_up_on_the_same_data_directory_is_refused_and_harms_nothing(stack: Stack) -> None:
    ended = subprocess.run(
        command_line("up", "--data-dir", str(stack.data_dir)), capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 1
    assert "Another `messmail up` is using" in ended.stdout + ended.stderr
    assert stack.site.get("/readyz").status == 200


def test_a_folder_with_somebody_elses_files_is_not_taken_as_data_directory(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    before = tmp_path.stat().st_mode
    command = command_line("up", "--data-dir", str(tmp_path))
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert "not a data directory of Messmail" in " ".join((ended.stdout + ended.stderr).split())
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]
    assert tmp_path.stat().st_mode == before


def test_what_the_data_directory_holds_is_for_its_owner_only_and_no_log_shows_a_secret(stack: Stack) -> None:
    assert stat.S_IMODE(stack.data_dir.stat().st_mode) == 0o700
    for name in ("stack.json", "processes.json"):
        assert stat.S_IMODE((stack.data_dir / name).stat().st_mode) == 0o600
    secrets = [file.read_text() for file in (stack.data_dir / "secrets").iterdir() if file.name != "credentials"]
    credentials = json.loads((stack.data_dir / "secrets/credentials").read_text())
    secrets += [client["client_secret"] for client in credentials.values()]
    assert len(secrets) > 8
    logs = {log: log.read_text(errors="replace") for log in (stack.data_dir / "logs").iterdir()}
    assert [log.name for log, text in logs.items() if any(secret in text for secret in secrets)] == []
