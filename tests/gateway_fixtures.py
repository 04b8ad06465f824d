"""Gateways, each in a process of its own, in front of a real Member Center, and a client that calls them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.member_center_fixtures import ISSUER, MemberCenter
from tests.rpc.gateway_under_test import GatewayProcess, HttpAnswer, gateway_process


@contextmanager
def gateway_before(center: MemberCenter, log: Path, **settings: str) -> Iterator[GatewayProcess]:
    """Runs a gateway in front of a Member Center."""
    credential = center.credentials["gateway"]
    with gateway_process(
        log,
        MEMBER_CENTER_ADDRESS=center.server.address,
        GATEWAY_SERVICES="member-center",
        GATEWAY_CLIENT_ID=credential["client_id"],
        GATEWAY_CLIENT_SECRET=credential["client_secret"],
        PUBLIC_BASE_URL=ISSUER,
        **settings,
    ) as started:
        yield started


@pytest.fixture(scope="module")
def gateway(member_center: MemberCenter, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway in front of the module's Member Center. It believes X-Forwarded-For: a test can be many callers."""
    log = tmp_path_factory.mktemp("gateway") / "log"
    with gateway_before(member_center, log, GATEWAY_TRUSTED_PROXIES="127.0.0.1") as started:
        yield started


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
    """Calls a gateway as a site would, and reads the JSON of its answers."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self._gateway = gateway

    def get(self, path: str) -> RestAnswer:
        """Makes a GET request."""
        return _read(self._gateway.call("GET", path, Accept="application/json"))

    def post(self, path: str, body: object) -> RestAnswer:
        """Posts JSON."""
        return _read(self._gateway.post_json(path, body, Accept="application/json"))

    def post_one_click(self, path: str) -> RestAnswer:
        """Posts what a mail program posts to a one-click link (RFC 8058 3.2)."""
        return _read(self._gateway.post_form(path, b"List-Unsubscribe=One-Click", Accept="application/json"))


@contextmanager
def running_gateway_of(center: MemberCenter, log: Path) -> Iterator[RestClient]:
    """Runs a gateway in front of a Member Center for the length of a `with` block."""
    with gateway_before(center, log) as started:
        yield RestClient(started)


def _read(answer: HttpAnswer) -> RestAnswer:
    return RestAnswer(answer.status, json.loads(answer.body))
