"""A gateway in a process of its own in front of a Member Center under test, and a client that calls it."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.member_center_fixtures import ISSUER, MemberCenter

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class RestAnswer:
    """An answer of the gateway: its status, and what its JSON says."""

    status: int
    json: Any

    @property
    def word(self) -> str:
        """The state that the answer tells, or the reason of its refusal."""
        return str(self.json["status"] if self.status < 400 else self.json["reason"])


class RestClient:
    """Calls a gateway, each time over a connection of its own: an idle one would be closed."""

    def __init__(self, address: str) -> None:
        self._address = address

    def get(self, path: str) -> RestAnswer:
        """Makes a GET request."""
        return self._call("GET", path, None, {})

    def post(self, path: str, body: object) -> RestAnswer:
        """Posts JSON."""
        return self._call("POST", path, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def post_one_click(self, path: str) -> RestAnswer:
        """Posts what a mail program posts to a one-click link (RFC 8058 3.2)."""
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        return self._call("POST", path, b"List-Unsubscribe=One-Click", kind)

    def _call(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> RestAnswer:
        with closing(http.client.HTTPConnection(self._address, timeout=60)) as connection:
            connection.request(method, path, body, headers | {"Accept": "application/json"})
            response = connection.getresponse()
            return RestAnswer(response.status, json.loads(response.read()))


@contextmanager
def running_gateway_of(center: MemberCenter, log: Path) -> Iterator[RestClient]:
    """Runs a gateway in front of a Member Center for the length of a `with` block."""
    credential = center.credentials["gateway"]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "generated")]),
        "GATEWAY_LISTEN": "127.0.0.1:0",
        "GATEWAY_SERVICES": "member-center",
        "MEMBER_CENTER_ADDRESS": center.server.address,
        "GATEWAY_CLIENT_ID": credential["client_id"],
        "GATEWAY_CLIENT_SECRET": credential["client_secret"],
        "PUBLIC_BASE_URL": ISSUER,
    }
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-c", "from gateway.wiring import serve; serve()"], env=environment, stderr=stream
        )
    try:
        yield RestClient(_ready_address(process, log))
    finally:
        process.terminate()
        process.wait(30)


def _ready_address(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        for line in log.read_text().rpartition("\n")[0].splitlines():
            event = json.loads(line) if line.startswith("{") else {}
            if event.get("event") == "ready":
                return str(event["address"])
        time.sleep(0.05)
    raise AssertionError(f"the gateway did not start: {log.read_text()}")
