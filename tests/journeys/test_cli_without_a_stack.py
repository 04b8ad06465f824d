"""The command line where no stack runs: it says what is missing in one line, and leaves no trace."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def python(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MESSMAIL_")}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60, check=False)


def messmail(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return python("-m", "messmail_cli", *arguments, cwd=cwd)


def test_without_an_installation_a_command_says_how_to_get_one(tmp_path: Path) -> None:
    ended = messmail("tenants", "list", cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("messmail: No installation is known here. Start one with `messmail up`")
    assert ended.stderr.count("\n") == 1


def test_an_installation_that_does_not_answer_is_named_unavailable(tmp_path: Path) -> None:
    # Nobody listens on the reserved port 1.
    ended = messmail(
        "tenants",
        "create",
        "--name=Acme",
        "--json",
        "--member-center=127.0.0.1:1",
        "--client-id=x",
        "--client-secret=y",
        cwd=tmp_path,
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("messmail: UNAVAILABLE: ")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [(), ("tenats",), ("tenants", "create"), ("serve", "nothing")])
def test_wrong_usage_ends_with_status_two(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    ended = messmail(*arguments, cwd=tmp_path)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr


def test_help_loads_no_command(tmp_path: Path) -> None:
    code = (
        "import sys, messmail_cli.main as m\n"
        "sys.argv = ['messmail', '--help']\n"
        "try: m.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'grpc', 'google.protobuf', 'structlog', 'rich.console'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)\n"
    )
    ended = python("-c", code, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "demo" in ended.stdout


@pytest.mark.parametrize("relay", ["ftp://user:s3cret@relay.example", "smtp://", "relay.example:25"])
def test_up_refuses_a_relay_that_is_none_before_anything_starts(tmp_path: Path, relay: str) -> None:
    data_dir = tmp_path / "data"
    refused = messmail("up", "--data-dir", str(data_dir), "--smtp-url", relay, cwd=tmp_path)
    assert refused.returncode == 1
    assert "smtp" in refused.stdout + refused.stderr
    assert "s3cret" not in refused.stdout + refused.stderr
    assert not data_dir.exists()
