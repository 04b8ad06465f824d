"""Gateways, each in a process of its own, in front of a real Member Center."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.member_center_fixtures import ISSUER, MemberCenter
from tests.rpc.gateway_under_test import GatewayProcess, gateway_process


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
