"""Requests that two servers in a row could read as different ones: the gateway answers once, and hangs up.

Each is followed by a second request on the same connection. Whoever reads on after the first answers twice.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rpc.gateway_under_test import GatewayUnderTest, running_gateway

POST = b"POST /newsletter/subscribe HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n"
SECOND = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"

REQUESTS = {
    "a length and chunks": POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and a length": CHUNKED + b"Content-Length: 2\r\n\r\n0\r\n\r\n",
    "two lengths": POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "one length twice": POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "a list of equal lengths": POST + b"Content-Length: 2, 2\r\n\r\n{}",
    "a list of lengths": POST + b"Content-Length: 2, 3\r\n\r\n{}",
    "a length with a sign": POST + b"Content-Length: +2\r\n\r\n{}",
    "a negative length": POST + b"Content-Length: -2\r\n\r\n{}",
    "a length in hexadecimal": POST + b"Content-Length: 0x2\r\n\r\n{}",
    "a length with an exponent": POST + b"Content-Length: 2e0\r\n\r\n{}",
    "a length of two words": POST + b"Content-Length: 2 3\r\n\r\n{}",
    "a length in other digits": POST + b"Content-Length: \xef\xbc\x92\r\n\r\n{}",
    "a length beyond 64 bits": POST + b"Content-Length: 18446744073709551618\r\n\r\n{}",
    "an empty length": POST + b"Content-Length:\r\n\r\n{}",
    "a space before the colon": POST + b"Content-Length : 2\r\n\r\n{}",
    "a tab before the colon": POST + b"Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n",
    "a folded header": GET + b"A: b\r\n folded\r\n\r\n",
    "a folded coding": POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "a first header that is folded": b"GET /healthz HTTP/1.1\r\n Host: x\r\n\r\n",
    "an unknown coding": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a coding after chunked": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "a coding that is not chunked": POST + b"Transfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "a coding in quotes": POST + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n',
    "a coding behind a vertical tab": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "chunks in HTTP/1.0": CHUNKED.replace(b"HTTP/1.1", b"HTTP/1.0") + b"\r\n0\r\n\r\n",
    "chunks with bare line feeds": CHUNKED + b"\r\n2\n{}\n0\n\n",
    "a chunk's size in 0x": CHUNKED + b"\r\n0x2\r\n{}\r\n0\r\n\r\n",
    "a chunk's size with a sign": CHUNKED + b"\r\n+2\r\n{}\r\n0\r\n\r\n",
    "a chunk's size beyond 64 bits": CHUNKED + b"\r\n10000000000000002\r\n{}\r\n0\r\n\r\n",
    "a chunk's extension that ends in a line feed": CHUNKED + b"\r\n2;a\n{}\r\n0\r\n\r\n",
    "a chunk that is longer than it says": CHUNKED + b"\r\n2\r\n{}{}\r\n0\r\n\r\n",
    "a chunk that ends in a line feed": CHUNKED + b"\r\n2\r\n{}\n0\r\n\r\n",
    "bare line feeds in the head": b"POST /newsletter/subscribe HTTP/1.1\nHost: x\nContent-Length: 0\n\n",
    "a bare carriage return in a header": GET + b"A: b\rTransfer-Encoding: chunked\r\n\r\n",
    "NUL in a header's name": GET + b"Bad\x00Name: y\r\n\r\n",
    "NUL in a header": GET + b"A: b\x00c\r\n\r\n",
    "a header without a colon": GET + b"Transfer-Encoding chunked\r\n\r\n",
    "a header without a name": GET + b": chunked\r\n\r\n",
    "two hosts": GET + b"Host: y\r\n\r\n",
    "no host": b"GET /healthz HTTP/1.1\r\n\r\n",
    "a host after an at": b"GET @evil.example/healthz HTTP/1.1\r\nHost: x\r\n\r\n",
    "a target without a slash": b"GET healthz HTTP/1.1\r\nHost: x\r\n\r\n",
    "a tunnel": b"CONNECT evil.example:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    "a target with a space": b"GET /healthz /x HTTP/1.1\r\nHost: x\r\n\r\n",
    "a target that is not ASCII": b"GET /caf\xc3\xa9 HTTP/1.1\r\nHost: x\r\n\r\n",
    "a tab for a space": b"GET\t/healthz\tHTTP/1.1\r\nHost: x\r\n\r\n",
    "a method that is none": b"G@T /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
    "a version that is none": b"GET /healthz HTTP/9.9\r\nHost: x\r\n\r\n",
    "a version in lower case": b"GET /healthz http/1.1\r\nHost: x\r\n\r\n",
    "no version": b"GET /healthz\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "a head of 40,000 bytes": GET + b"A: " + b"b" * 40_000 + b"\r\n\r\n",
}
I10 = pytest.mark.claim("I10", "smuggled requests: one refusal, then the connection ends", asked=40)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayUnderTest]:
    log: Path = tmp_path_factory.mktemp("gateway") / "log"
    with running_gateway(log) as running:
        yield running


def everything_answered(gateway: GatewayUnderTest, sent: bytes) -> tuple[bytes, bool]:
    """Returns all that comes back, and whether the gateway hung up."""
    with socket.create_connection((gateway.host, gateway.port), timeout=5) as connection:
        connection.sendall(sent)
        received = b""
        try:
            while chunk := connection.recv(65536):
                received += chunk
        except TimeoutError:
            return received, False
        except ConnectionResetError:
            # It hung up before it had read everything.
            return received, True
        return received, True


@I10
@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_that_two_servers_could_read_differently_gets_one_refusal(
    gateway: GatewayUnderTest, name: str
) -> None:
    before = len(gateway.seen.rpcs)
    received, hung_up = everything_answered(gateway, REQUESTS[name] + SECOND)
    assert received.count(b"HTTP/1.1 ") == 1, received
    assert received.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 501 ")), received
    assert hung_up
    assert gateway.seen.rpcs[before:] == []
