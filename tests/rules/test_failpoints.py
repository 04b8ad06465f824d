"""A failpoint kills at its own boundary, at its own passing, and without the variable nothing ever does."""

import os
import signal
import subprocess
import sys

import pytest

PASSES = (
    "from servicekit.failpoints import reached\nfor n in range(3):\n    reached('claimed'); reached('marked'); print(n)"
)


def run(failpoint: str | None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "MESSMAIL_FAILPOINT"}
    if failpoint is not None:
        environment["MESSMAIL_FAILPOINT"] = failpoint
    return subprocess.run(
        [sys.executable, "-u", "-c", PASSES], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(("failpoint", "printed"), [("claimed:1", ""), ("marked:2", "0\n"), ("claimed:3", "0\n1\n")])
def test_a_process_ends_at_the_passing_that_was_asked_for(failpoint: str, printed: str) -> None:
    ended = run(failpoint)
    assert (ended.returncode, ended.stdout) == (-signal.SIGKILL, printed)


@pytest.mark.parametrize("failpoint", [None, "", "recorded:1", "claimed:4"])
def test_a_process_passes_what_it_was_not_asked_to_die_at(failpoint: str | None) -> None:
    assert run(failpoint).returncode == 0


def test_a_failpoint_without_a_count_is_refused_at_the_start() -> None:
    ended = run("claimed:soon")
    assert ended.returncode == 1
    assert "ValueError" in ended.stderr
