"""The suite's own promise: outside CI what could not run is named, in CI it fails."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.policy.source_tree import ROOT

SUITE = {
    "pyproject.toml": '[tool.pytest]\nstrict = true\nmarkers = ["browser: one", "curl: another"]\n',
    "test_marked.py": "import pytest\n\n@pytest.mark.browser\ndef test_a_page() -> None: ...\n",
    "test_lazy.py": "import pytest\n\ndef test_not_today() -> None:\n    pytest.skip('another day')\n",
    "test_absent.py": "import pytest\n\npytest.importorskip('nowhere_to_be_found')\n",
    "test_plain.py": "def test_that_runs() -> None: ...\n",
}


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A small suite with our conftest: one test of four can run on a machine without Chromium."""
    for name, content in SUITE.items():
        (tmp_path / name).write_text(content)
    shutil.copyfile(ROOT / "tests/conftest.py", tmp_path / "conftest.py")
    return tmp_path


def run(suite: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the small suite on a machine that has no programs at all."""
    kept = {name: value for name, value in os.environ.items() if name != "CI" and not name.startswith("PYTEST")}
    bare = {**kept, "PATH": str(suite), **environment}
    command = [sys.executable, "-m", "pytest", "--numprocesses", "1"]
    return subprocess.run(command, cwd=suite, env=bare, capture_output=True, text=True)


def test_outside_ci_what_did_not_run_is_named(suite: Path) -> None:
    finished = run(suite)
    assert finished.returncode == 0, finished.stdout
    assert "1 passed, 3 skipped" in finished.stdout
    assert "chromium: 1 tests marked 'browser'" in finished.stdout
    assert "curl:" not in finished.stdout


def test_in_ci_nothing_is_left_out(suite: Path) -> None:
    finished = run(suite, CI="true")
    assert finished.returncode == 1
    assert "1 failed, 1 passed, 2 errors" in finished.stdout
