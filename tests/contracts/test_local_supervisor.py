"""The supervisor, with real small children: readiness, restarts, ordered stop, and what a killed run leaves behind."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from local_stack.children import MARK, Child
from local_stack.data_directory import DataDirectory
from local_stack.errors import StackError
from local_stack.leftovers import end_leftovers
from local_stack.supervisor import StoppedError, Supervisor

READY = 'print(\'{"event": "ready"}\', flush=True)\n'
STAY = "import signal\nwhile True: signal.pause()\n"
NOTE_THE_STOP = """
import pathlib, signal, sys
def stop(*_):
    with open(sys.argv[1], "a") as stops: stops.write(sys.argv[2] + "\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
"""


@pytest.fixture
def data(tmp_path: Path) -> DataDirectory:
    return DataDirectory(tmp_path / "data")


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def supervisor(data: DataDirectory, said: list[str]) -> Iterator[Supervisor]:
    supervisor = Supervisor(data, said.append)
    yield supervisor
    supervisor.stop()


def python(data: DataDirectory, name: str, script: str, *arguments: str) -> Child:
    environment = {"PATH": os.defpath, MARK: str(data.path)}
    return Child(name, (sys.executable, "-c", script, *arguments), environment, grace=10)


def wait_for(condition: Callable[[], object], what: str, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.02)


@contextlib.contextmanager
def supervising(supervisor: Supervisor) -> Iterator[None]:
    """Supervises in a thread, which is where the test is not."""
    thread = threading.Thread(target=supervisor.supervise)
    thread.start()
    try:
        yield
    finally:
        supervisor.request_stop()
        thread.join()


def test_a_child_that_dies_while_starting_is_shown_with_the_end_of_its_log(
    supervisor: Supervisor, data: DataDirectory
) -> None:
    with pytest.raises(StackError, match=r"(?s)broken ended with status 3 while starting.*no such table"):
        supervisor.start(python(data, "broken", "import sys; print('no such table'); sys.exit(3)"))


def test_of_a_logged_crash_a_person_is_shown_what_happened(supervisor: Supervisor, data: DataDirectory) -> None:
    trace = "Traceback (most recent call last):\\n  File x, line 1\\nValueError: the URL has no path"
    crash = f'{{"event": "process crashed", "level": "critical", "exception": "{trace}"}}'
    with pytest.raises(StackError, match=r"process crashed: ValueError: the URL has no path$") as shown:
        supervisor.start(python(data, "broken", f"import sys; print({crash!r}); sys.exit(1)"))
    assert "Traceback" not in str(shown.value)


def test_a_child_that_never_gets_ready_is_given_up(supervisor: Supervisor, data: DataDirectory) -> None:
    with pytest.raises(StackError, match="silent was not ready in time"):
        supervisor.start(python(data, "silent", STAY), timeout=0.5)


def test_a_line_of_an_earlier_run_does_not_make_a_child_ready(supervisor: Supervisor, data: DataDirectory) -> None:
    supervisor.log("silent").write_text('{"event": "ready"}\n')
    with pytest.raises(StackError, match="not ready"):
        supervisor.start(python(data, "silent", STAY), timeout=0.5)


def test_a_stop_asked_for_while_a_child_starts_is_heeded(supervisor: Supervisor, data: DataDirectory) -> None:
    timer = threading.Timer(0.3, supervisor.request_stop)
    timer.start()
    with pytest.raises(StoppedError):
        supervisor.start(python(data, "silent", STAY))
    timer.join()


def test_a_killed_child_is_restarted_and_that_is_said(
    supervisor: Supervisor, data: DataDirectory, said: list[str]
) -> None:
    supervisor.start(python(data, "worker-1", READY + STAY), python(data, "worker-2", READY + STAY))
    first, second = supervisor.pids()["worker"]
    with supervising(supervisor):
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: supervisor.pids()["worker"][0] != first, "another worker runs")
        again = supervisor.pids()["worker"][0]
        assert supervisor.pids()["worker"] == [again, second]
        wait_for(lambda: len(said) == 2, "the restart is said")
    assert said[0].startswith("worker-1 was killed by SIGKILL; starting it again in 0.5 s")
    assert said[1] == f"worker-1 runs again (pid {again})"


def test_a_child_that_keeps_dying_is_restarted_after_longer_and_longer_pauses(
    supervisor: Supervisor, data: DataDirectory, said: list[str]
) -> None:
    supervisor.start(python(data, "frail", READY + "import time; time.sleep(0.3)"))
    with supervising(supervisor):
        wait_for(lambda: len(said) >= 5, "it died three times")
    pauses = [line.split(" in ")[1].split(" s ")[0] for line in said if "starting it again" in line]
    assert pauses[:3] == ["0.5", "1", "2"]


def test_what_a_killed_child_had_started_is_ended_before_its_successor_runs(
    supervisor: Supervisor, data: DataDirectory
) -> None:
    grandchild = data.path / "grandchild"
    script = (
        "import pathlib, subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'])\n"
        f"pathlib.Path({str(grandchild)!r}).write_text(str(child.pid))\n" + READY + STAY
    )
    supervisor.start(python(data, "worker-1", script))
    left = psutil.Process(int(grandchild.read_text()))
    os.kill(supervisor.pids()["worker"][0], signal.SIGKILL)
    wait_for(lambda: not left.is_running() or left.status() == psutil.STATUS_ZOMBIE, "the grandchild has ended")


def test_higher_stages_stop_before_lower_ones(supervisor: Supervisor, data: DataDirectory, tmp_path: Path) -> None:
    stops = tmp_path / "stops"
    stages = {"engine": 0, "worker-1": 2, "gateway": 4}
    for name, stage in stages.items():
        script = NOTE_THE_STOP + READY + STAY
        supervisor.start(replace(python(data, name, script, str(stops), name), stage=stage))
    supervisor.stop()
    assert stops.read_text().split() == ["gateway", "worker-1", "engine"]


def test_a_child_that_ignores_the_stop_is_killed_after_its_grace(
    supervisor: Supervisor, data: DataDirectory, said: list[str]
) -> None:
    script = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + READY + STAY
    supervisor.start(replace(python(data, "deaf", script), grace=0.3))
    pid = supervisor.pids()["deaf"][0]
    supervisor.stop()
    assert not psutil.pid_exists(pid)
    assert said == ["deaf did not stop within 0.3 s and was killed"]


def test_the_output_of_a_completed_child_is_returned_and_not_logged(
    supervisor: Supervisor, data: DataDirectory
) -> None:
    script = "import sys; print('the secret'); print('the story', file=sys.stderr)"
    assert supervisor.complete(python(data, "bootstrap", script)) == b"the secret\n"
    assert supervisor.log("bootstrap").read_text() == "the story\n"
    with pytest.raises(StackError, match=r"(?s)migrate ended with status 1.*boom"):
        supervisor.complete(python(data, "migrate", "raise SystemExit('boom')"))


def orphan(data: DataDirectory, name: str, environment: dict[str, str] | None = None) -> psutil.Process:
    """Leaves a child behind the way a killed supervisor does: its parent is gone, its record may be there."""
    script = "import os, signal, sys\nif os.fork(): os._exit(0)\nprint(os.getpid(), flush=True)\nsignal.pause()"
    with subprocess.Popen(
        [sys.executable, "-c", script, name],
        env={"PATH": os.defpath, MARK: str(data.path)} if environment is None else environment,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as parent:
        assert parent.stdout
        return psutil.Process(int(parent.stdout.readline()))


def test_what_a_killed_run_left_is_ended_and_strangers_are_not(data: DataDirectory, tmp_path: Path) -> None:
    ours = orphan(data, "ours")
    other = DataDirectory(tmp_path / "other")
    neighbour = orphan(other, "neighbour")
    stranger = orphan(data, "stranger", environment={"PATH": os.defpath})
    try:
        record = {"name": "worker-1", "started": 0.0, "command": ["worker"], "stage": 2, "stop_signal": 15}
        # The stranger has the number that the record gives to a worker.
        rows = [record | {"pid": stranger.pid}, record | {"pid": ours.pid, "name": "gateway"}]
        (data.path / "processes.json").write_text(json.dumps(rows))
        assert end_leftovers(data) == ["gateway"]
        assert not ours.is_running()
        assert neighbour.is_running()
        assert stranger.is_running()
    finally:
        end_leftovers(other)
        stranger.kill()


def test_the_children_of_a_killed_supervisor_are_ended_by_the_next_one(data: DataDirectory, tmp_path: Path) -> None:
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from local_stack.children import MARK, Child\n"
        "from local_stack.data_directory import DataDirectory\n"
        "from local_stack.supervisor import Supervisor\n"
        "data = DataDirectory(Path(sys.argv[1])); data.lock()\n"
        "supervisor = Supervisor(data, print)\n"
        f"code = {READY + STAY!r}\n"
        "for name in ('worker-1', 'gateway'):\n"
        "    supervisor.start(Child(name, (sys.executable, '-c', code), {'PATH': os.defpath, MARK: str(data.path)}))\n"
        "print([pid for pids in supervisor.pids().values() for pid in pids], flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.run(
        [sys.executable, "-c", script, str(data.path)], capture_output=True, text=True, env=environment, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    left = [psutil.Process(pid) for pid in json.loads(killed.stdout)]
    assert all(process.is_running() for process in left)
    data.lock()
    assert end_leftovers(data) == ["gateway", "worker-1"]
    assert not any(process.is_running() for process in left)
    assert end_leftovers(data) == []
    data.unlock()
