"""`messmail demo`: the walk ends well only when really everybody of the audience was mailed, and nobody else."""

import re
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from messmail_cli.stack_file import read_stack_file
from tests.stack import START_SECONDS, STOP_SECONDS, Stack, command_line, new_data_dir, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

# Nothing that the walk may show is this long without a space, dot or slash; every secret and token is.
SECRET = re.compile(r"[A-Za-z0-9_-]{40,}")


def test_the_walk_mails_exactly_its_thousand_people_again_and_again(stack: Stack) -> None:
    for _ in range(2):
        earlier = {mail.id for mail in stack.mailbox.mails()}
        ended = stack.run_command("demo", "--once", seconds=180)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert "1,000 mails arrived" in ended.stdout
        assert SECRET.search(ended.stdout) is None
        arrived = [mail for mail in stack.mailbox.mails() if mail.id not in earlier]
        weekly = Counter(mail.to for mail in arrived if mail.subject.startswith("Weekly Update"))
        assert len(weekly) == weekly.total() == 1000
        assert len(arrived) == 1001, "the thousand, and one confirmation mail"


@pytest.fixture
def own_demo(tmp_path: Path) -> Iterator["OwnDemo"]:
    """A demonstration that starts a stack of its own."""
    data_dir = new_data_dir()
    made = OwnDemo(data_dir, tmp_path / "output")
    try:
        yield made
    finally:
        made.end(signal.SIGTERM)
        shutil.rmtree(data_dir)


class OwnDemo:
    """`messmail demo` as a child process, and what it has printed."""

    def __init__(self, data_dir: Path, output: Path) -> None:
        """Starts it."""
        self.data_dir = data_dir
        self._output = output
        with output.open("wb") as stream:
            command = command_line("demo", "--data-dir", str(data_dir))
            self._process = subprocess.Popen(command, stdout=stream, stderr=stream, stdin=subprocess.DEVNULL)

    def wait_for(self, text: str) -> str:
        """Waits until a text was printed, and returns everything printed so far."""

        def printed() -> str | None:
            so_far = self._output.read_text()
            if text in so_far:
                return so_far
            assert self._process.poll() is None, so_far
            return None

        return wait_until(printed, text, START_SECONDS)

    def end(self, number: signal.Signals) -> tuple[int, str]:
        """Ends it with a signal, and returns its exit status and all that it printed."""
        self._process.send_signal(number)
        return self._process.wait(STOP_SECONDS), self._output.read_text()


def test_a_demonstration_that_started_its_stack_stays_and_ends_with_it(own_demo: OwnDemo) -> None:
    printed = own_demo.wait_for("Ctrl-C ends.")
    assert "1,000 mails arrived" in printed
    stack = read_stack_file(own_demo.data_dir)
    assert stack is not None
    assert f"{stack.http}/docs" in printed
    status, printed = own_demo.end(signal.SIGINT)
    assert status == 0
    assert printed.rstrip().endswith("Stopped.")


def test_a_demonstration_that_is_ended_early_fails_and_leaves_nothing_running(own_demo: OwnDemo) -> None:
    own_demo.wait_for("PostgreSQL answers")
    status, printed = own_demo.end(signal.SIGTERM)
    assert status == 130
    assert "Traceback" not in printed
    assert printed.rstrip().endswith("Stopped.")
