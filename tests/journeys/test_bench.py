"""The benchmarks run through, and print and save every ratio. No speed is asserted."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

CALLS = {
    "a sketch of subscribe",
    "keys (passing through)",
    "token",
    "subscribe",
    "preferences",
    "job read",
    "subscribe without RLS",
    "subscribe without consent log",
    "subscribe without mails",
}


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_benchmark_measures_every_call_against_bare_inserts(tmp_path: Path) -> None:
    saved = tmp_path / "rest.json"
    command = [sys.executable, "-m", "bench.rest", "--rounds", "1", "--seconds", "1", "--save", str(saved)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert saved.exists(), done.stderr
    result = json.loads(saved.read_text())
    assert set(result["ratios"]) == CALLS
    assert all(ratio > 0 for ratio in result["ratios"].values())
    assert all(name in done.stdout for name in CALLS)
    assert result["machine"]["cores"] > 0


@pytest.mark.slow
@pytest.mark.postfix
@pytest.mark.timeout(240)
def test_the_benchmark_of_sending_holds_sink_ledger_and_audience_against_each_other(tmp_path: Path) -> None:
    saved = tmp_path / "send.json"
    command = [sys.executable, "-m", "bench.send", "--rounds", "1", "--members", "2500", "--save", str(saved)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    # A run in which they differ ends with an error, and saves nothing.
    assert saved.exists(), done.stderr
    result = json.loads(saved.read_text())
    assert result["members"] == 2500
    assert set(result["ratios"]) == {"aiosmtplib", "Messmail, sending", "Messmail, whole job"}
    assert 2500 < result["mail_bytes"] < 3500
    assert all(
        result["cpu_microseconds_per_mail"][name] > 0 for name in ("worker", "member-center", "postgres", "sink")
    )
    assert all(result["peak_private_mebibytes"][name] > 0 for name in ("worker", "member-center", "send-engine"))


@pytest.mark.slow
@pytest.mark.postfix
@pytest.mark.timeout(240)
def test_the_benchmark_of_size_measures_a_large_job_beside_small_ones(tmp_path: Path) -> None:
    saved = tmp_path / "size.json"
    command = [sys.executable, "-m", "bench.size", "--rounds", "1", "--small", "500", "--large", "1500"]
    done = subprocess.run([*command, "--save", str(saved)], capture_output=True, text=True, check=False)
    assert saved.exists(), done.stderr
    result = json.loads(saved.read_text())
    assert result["members"] == {"small": 500, "large": 1500}
    assert len(result["mails_per_second"]["small"][0]) == 10
    assert result["cpu_ratio"] > 0
    assert set(result["memory_ratios"]) >= {"worker", "member-center", "send-engine"}
