"""Many clients that send or read as slowly as they can: they are cut off, and others hardly notice."""

from __future__ import annotations

import asyncio
import http.client
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.claims_table import ClaimRow, cases, hand_in_claim
from tests.rpc.gateway_under_test import LIST, GatewayUnderTest, running_gateway

CONNECTIONS = cases(1000, least=60)
# Of attack, in each round. A full run attacks for five minutes.
SECONDS, ROUNDS = (60.0, 5) if CONNECTIONS >= 500 else (3.0, 1)
REQUESTS = 200
ALLOWED_SECONDS = 15.5
POST = b"POST /newsletter/subscribe HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
GET = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"
# What is sent at once, and again every second.
WAYS = {
    "slow head": (POST, b"A: b\r\n"),
    "slow body": (POST + b"Content-Length: 4000\r\n\r\n{", b" "),
    "no reading": (GET * 12, GET),
}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayUnderTest]:
    log: Path = tmp_path_factory.mktemp("gateway") / "log"
    with running_gateway(log) as running:
        yield running


class Attack:
    """Keeps many slow connections to a gateway open, and notes how long each lived."""

    def __init__(self, gateway: GatewayUnderTest) -> None:
        self._address = (gateway.host, gateway.port)
        self.lives: list[float] = []

    def run(self, seconds: float) -> None:
        """Attacks for so many seconds, and waits until every connection is cut."""
        asyncio.run(self._run(seconds))

    async def _run(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        await asyncio.gather(*(self._keep(end, *list(WAYS.values())[n % len(WAYS)]) for n in range(CONNECTIONS)))

    async def _keep(self, end: float, first: bytes, then: bytes) -> None:
        while time.monotonic() < end:
            with socket.socket() as sock:
                # Little room for what is not read.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                sock.setblocking(False)
                loop = asyncio.get_running_loop()
                await loop.sock_connect(sock, self._address)
                began = time.monotonic()
                await loop.sock_sendall(sock, first)
                await self._until_cut(sock, then, began)
                self.lives.append(time.monotonic() - began)

    @staticmethod
    async def _until_cut(sock: socket.socket, then: bytes, began: float) -> None:
        loop = asyncio.get_running_loop()
        while time.monotonic() < began + 2 * ALLOWED_SECONDS:
            try:
                async with asyncio.timeout(1):
                    await loop.sock_sendall(sock, then)
                    if then == GET:
                        await asyncio.sleep(1)
                    # Whoever reads sees an end or a refusal at once.
                    elif await loop.sock_recv(sock, 4096) == b"":
                        return
            except TimeoutError:
                continue
            except OSError:
                return


def healthy_p95(gateway: GatewayUnderTest, until: Callable[[], bool] = lambda: False) -> float:
    """Returns the 95th percentile of the seconds that a good client waits for an answer."""
    connection = http.client.HTTPConnection(gateway.host, gateway.port, timeout=30)
    body = b'{"list_id": "%s", "email": "a@example.com"}' % LIST.encode()
    waited: list[float] = []
    while len(waited) < REQUESTS and not until():
        began = time.monotonic()
        connection.request("POST", "/newsletter/subscribe", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        response.read()
        waited.append(time.monotonic() - began)
        assert response.status == 200
        time.sleep(0.005)
    connection.close()
    return statistics.quantiles(waited, n=20)[-1]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_slow_clients_are_cut_off_and_others_hardly_notice(gateway: GatewayUnderTest, record_property: object) -> None:
    process = psutil.Process(gateway.process.pid)
    attack, ratios, resident = Attack(gateway), list[float](), list[int]()
    healthy_p95(gateway)
    for _ in range(ROUNDS):
        with ThreadPoolExecutor(1) as pool:
            alone = [healthy_p95(gateway)]
            attacking = pool.submit(attack.run, SECONDS)
            time.sleep(1)
            beside = [healthy_p95(gateway) for _ in range(3)]
            resident.append(process.memory_info().rss)
            attacking.result()
            alone.append(healthy_p95(gateway))
            # What else the machine does disturbs single moments.
            ratios.append(statistics.median(beside) / statistics.mean(alone))
    late = sum(life > ALLOWED_SECONDS for life in attack.lives)
    print(f"ratios {ratios}, longest {max(attack.lives):.1f} s, {len(attack.lives)} connections, resident {resident}")
    hand_in_claim(
        record_property,
        ClaimRow("I11", "slow connections (head, body, reading): cut off within 15 s", 1000, len(attack.lives), late),
    )
    assert late == 0, max(attack.lives)
    assert statistics.median(ratios) <= 2
    assert resident[-1] <= 1.1 * resident[0]
    # Nothing is left of them once they are gone.
    assert process.memory_info().rss - resident[0] < 50_000_000


@pytest.mark.claim("I11", "requests sent ahead without end: the connection ends")
def test_whoever_sends_too_many_requests_ahead_is_cut_off(gateway: GatewayUnderTest) -> None:
    with socket.create_connection((gateway.host, gateway.port), timeout=10) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 5000)
        received = b""
        try:
            while chunk := connection.recv(65536):
                received += chunk
        except ConnectionResetError:
            pass
        assert received.count(b"HTTP/1.1 ") < 5000
