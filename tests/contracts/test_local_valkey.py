"""The embedded Valkey: a broker behind a password that keeps its messages through a restart."""

from pathlib import Path

import psutil
import pytest
import redis

from local_stack.children import MARK, RunningChild
from local_stack.data_directory import DataDirectory
from local_stack.engines import running
from local_stack.engines.valkey import Valkey


def test_it_wants_its_password_and_shows_it_on_no_command_line(tmp_path: Path) -> None:
    data = DataDirectory(tmp_path / "data")
    valkey = Valkey.prepare(data)
    child = RunningChild(valkey.child, data.logs / "valkey.log")
    try:
        while not valkey.is_ready():
            assert not child.wait(0.02), "Valkey ended while starting"
        with redis.Redis(port=valkey.address.port) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()
        process = psutil.Process(child.pid)
        assert valkey.url.split("@")[0].removeprefix("redis://:") not in " ".join(process.cmdline())
        assert process.environ()[MARK] == str(data.path), "an orphan could not be told from a stranger"
    finally:
        psutil.Process(child.pid).terminate()
        child.wait()


def test_what_was_written_is_there_after_a_restart(tmp_path: Path) -> None:
    data = DataDirectory(tmp_path / "data with a space")
    log = data.logs / "valkey.log"
    with running(Valkey.prepare(data), log) as valkey, redis.Redis.from_url(valkey.url) as client:
        client.set("bell", "rung")
        assert client.config_get("appendonly", "appendfsync") == {"appendonly": "yes", "appendfsync": "everysec"}
    with running(Valkey.prepare(data), log) as again, redis.Redis.from_url(again.url) as client:
        assert client.get("bell") == b"rung"
