"""Whose X-Forwarded-For is believed: that of named proxies, and of it what the nearest of them cannot vouch for."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from gateway.wiring import GatewaySettings
from tests.rpc.gateway_under_test import LIST, GatewayUnderTest, running_gateway

# This machine is the nearest proxy; behind it stand others.
PROXIES = "127.0.0.1, 10.0.0.0/8, fd00::/8"


@pytest.fixture(scope="module")
def behind_proxies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayUnderTest]:
    with running_gateway(tmp_path_factory.mktemp("gateway") / "log", GATEWAY_TRUSTED_PROXIES=PROXIES) as running:
        yield running


def seen_ip(gateway: GatewayUnderTest, *forwarded: str) -> str:
    """Calls with so many X-Forwarded-For headers, and returns the address that the service was told."""
    connection = http.client.HTTPConnection(gateway.host, gateway.port, timeout=30)
    try:
        connection.putrequest("GET", f"/newsletter/preferences?list_id={LIST}&email=a@example.com")
        for value in forwarded:
            connection.putheader("X-Forwarded-For", value)
        connection.endheaders()
        assert connection.getresponse().status == 200
    finally:
        connection.close()
    return gateway.seen.callers[-1].ip


@pytest.mark.parametrize(
    ("forwarded", "ip"),
    [
        ([], "127.0.0.1"),
        (["203.0.113.9"], "203.0.113.9"),
        # What stands before the address that a named proxy added was written by whoever called that proxy.
        (["198.51.100.1, 203.0.113.9"], "203.0.113.9"),
        (["198.51.100.1, 203.0.113.9, 10.1.2.3"], "203.0.113.9"),
        (["198.51.100.1, 203.0.113.9, 10.1.2.3, 10.200.0.1"], "203.0.113.9"),
        (["10.9.9.9, 203.0.113.9, 10.1.2.3"], "203.0.113.9"),
        (["127.0.0.1, 203.0.113.9"], "203.0.113.9"),
        (["203.0.113.9 , fd00::7"], "203.0.113.9"),
        (["2001:db8::9, fd00::7"], "2001:db8::9"),
        (["[2001:db8::9]:4711, 10.1.2.3"], "2001:db8::9"),
        (["203.0.113.9:4711"], "203.0.113.9"),
        # Several headers are one, in their order.
        (["198.51.100.1", "203.0.113.9"], "203.0.113.9"),
        (["198.51.100.1, 203.0.113.9", "10.1.2.3"], "203.0.113.9"),
        (["203.0.113.9", "10.1.2.3, 10.200.0.1"], "203.0.113.9"),
    ],
)
def test_of_several_proxies_the_last_address_that_none_of_them_has_is_the_callers(
    behind_proxies: GatewayUnderTest, forwarded: list[str], ip: str
) -> None:
    assert seen_ip(behind_proxies, *forwarded) == ip


@pytest.mark.parametrize("named", ["", "10.0.0.0/8", "192.0.2.1, fd00::/8"])
def test_nobody_else_is_believed(tmp_path: Path, named: str) -> None:
    with running_gateway(tmp_path / "log", GATEWAY_TRUSTED_PROXIES=named) as gateway:
        for forwarded in (["203.0.113.9"], ["203.0.113.9, 10.1.2.3"], ["203.0.113.9", "10.1.2.3"], ["127.0.0.1"]):
            assert seen_ip(gateway, *forwarded) == "127.0.0.1"


@pytest.mark.parametrize("named", ["*", "10.0.0.0/8, *", "proxy.internal", "10.0.0.7/8", "10.0.0.0/33", "10.0.0"])
def test_what_names_no_address_is_refused_and_not_ignored(named: str) -> None:
    with pytest.raises(ValidationError, match=r"gateway_trusted_proxies\n.*write IP addresses and networks"):
        GatewaySettings(
            member_center_address="127.0.0.1:1",
            send_engine_address="127.0.0.1:2",
            gateway_client_id="x",
            gateway_client_secret=SecretStr("x"),
            public_base_url="http://news.example",
            gateway_trusted_proxies=named,
        )
