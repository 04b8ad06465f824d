"""Engines, a Member Center and a gateway, for every test of the RPCs that asks for one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.member_center_fixtures import clock as clock
from tests.member_center_fixtures import engines as engines
from tests.member_center_fixtures import member_center as member_center
from tests.rpc.gateway_under_test import GatewayUnderTest, running_gateway


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayUnderTest]:
    """A gateway before services that answer by themselves, for all tests of a module."""
    log: Path = tmp_path_factory.mktemp("gateway") / "log"
    with running_gateway(log) as running:
        yield running
