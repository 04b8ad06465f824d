"""Over a distance our SMTP client is several times as fast as one that waits for every reply."""

import json
import subprocess
import sys
from pathlib import Path


def test_over_50_ms_a_connection_carries_two_and_a_half_times_the_mails_of_aiosmtplib(tmp_path: Path) -> None:
    saved = tmp_path / "distance.json"
    command = [sys.executable, "-m", "bench.distance", "--rounds", "1", "--mails", "8", "--save", str(saved)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(saved.read_text())
    assert result["round_trip_seconds"] == 0.05
    assert result["ratios"]["Messmail"] >= 2.5
    assert result["ratios"]["Messmail, in groups"] >= 2.5
    assert result["rates_per_second"]["aiosmtplib"][0] > 3, "the proxy adds one round trip, not several"
