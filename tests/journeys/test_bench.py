"""The benchmark of the REST calls runs through, and prints and saves every ratio. No speed is asserted."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

CALLS = {"token", "subscribe", "preferences", "job read", "subscribe without RLS", "subscribe without consent log"}


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_benchmark_measures_every_call_against_bare_inserts(tmp_path: Path) -> None:
    saved = tmp_path / "rest.json"
    command = [sys.executable, "-m", "bench.rest", "--rounds", "1", "--seconds", "1", "--costs", "--save", str(saved)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    result = json.loads(saved.read_text())
    assert set(result["ratios"]) == CALLS
    assert all(ratio > 0 for ratio in result["ratios"].values())
    assert all(name in done.stdout for name in CALLS)
    assert result["machine"]["cores"] > 0
