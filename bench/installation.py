"""An installation to measure: PostgreSQL, then everything else on it with `messmail up`, and its command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local_stack.data_directory import DataDirectory
from local_stack.engines import running
from local_stack.engines.postgres import Postgres


@dataclass(frozen=True)
class Stack:
    """A running installation: its command line, its gateway, its processes and its PostgreSQL."""

    data_dir: Path
    environment: dict[str, str]
    host: str
    port: int
    postgres: Postgres
    pids: dict[str, list[int]]

    def command(self, *arguments: str) -> dict[str, Any]:
        """Runs a command of the command line and returns what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "messmail_cli", *arguments, "--data-dir", str(self.data_dir), "--json"],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"messmail {arguments[0]} failed: {done.stderr.strip()}")
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def post(self, path: str, body: bytes, content_type: str, token: str = "") -> dict[str, Any]:
        """Posts to the gateway once."""
        return self._ask(path, body, {"Content-Type": content_type}, token)

    def get(self, path: str, token: str) -> dict[str, Any]:
        """Gets from the gateway once."""
        return self._ask(path, None, {}, token)

    def token(self, client: dict[str, Any]) -> str:
        """Returns an access token for a client that was made on the command line."""
        token: str = self.post("/oauth/token", token_form(client), "application/x-www-form-urlencoded")["access_token"]
        return token

    def _ask(self, path: str, body: bytes | None, headers: dict[str, str], token: str) -> dict[str, Any]:
        headers |= {"Authorization": f"Bearer {token}"} if token else {}
        request = urllib.request.Request(f"http://{self.host}:{self.port}{path}", body, headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            parsed: dict[str, Any] = json.load(answer)
            return parsed


def token_form(client: dict[str, Any]) -> bytes:
    """Writes down what the token endpoint wants of a client."""
    return urllib.parse.urlencode(
        {"grant_type": "client_credentials", "client_id": client["client_id"], "client_secret": client["client_secret"]}
    ).encode()


@contextmanager
def stack(folder: Path, *options: str) -> Iterator[Stack]:
    """Starts PostgreSQL, then everything else on it with `messmail up` and these options."""
    data = DataDirectory(folder / "postgres")
    with running(Postgres.prepare(data), data.logs / "postgres.log") as postgres:
        ready = folder / "ready.json"
        environment = os.environ | {
            "MEMBER_CENTER_DATABASE_URL": postgres.create_database("member_center"),
            "SEND_ENGINE_DATABASE_URL": postgres.create_database("send_engine"),
        }
        free = [
            part
            for name in ("http", "member-center", "send-engine", "mailbox")
            for part in (f"--{name}", "127.0.0.1:0")
        ]
        with (folder / "up.log").open("w") as log:
            up = subprocess.Popen(
                [
                    *(sys.executable, "-m", "messmail_cli", "up", "--data-dir", str(folder / "stack")),
                    *(*free, "--ready-file", str(ready), *options),
                ],
                env=environment,
                stdout=log,
                stderr=log,
            )
            try:
                while not ready.exists():
                    try:
                        up.wait(0.1)
                    except subprocess.TimeoutExpired:
                        continue
                    raise RuntimeError(f"the stack did not start:\n{(folder / 'up.log').read_text()}")
                started = json.loads(ready.read_text())
                address = urllib.parse.urlsplit(started["http"])
                postmaster = int((data.path / "postgres/cluster/postmaster.pid").read_text().split("\n", 1)[0])
                yield Stack(
                    folder / "stack",
                    environment,
                    address.hostname or "127.0.0.1",
                    address.port or 80,
                    postgres,
                    {part: pids for part, pids in started["pids"].items() if part != "up"} | {"postgres": [postmaster]},
                )
            finally:
                up.terminate()
                up.wait(60)
