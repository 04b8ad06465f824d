"""What a connection and a body may cost, seen from a raw socket."""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.rpc.gateway_under_test import LIST, GatewayUnderTest, access_token

SUBSCRIBE = b"POST /newsletter/subscribe HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


def exchange(gateway: GatewayUnderTest, *parts: bytes, seconds: float = 20.0) -> bytes:
    """Sends the parts and returns what came back until the gateway hung up or went silent."""
    with socket.create_connection((gateway.host, gateway.port), timeout=seconds) as connection:
        for part in parts:
            connection.sendall(part)
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
            # A complete answer on a connection that is kept: nothing more will come.
            if b"connection: close" not in received.lower() and b"content-length" in received and is_whole(received):
                break
        return received


def is_whole(received: bytes) -> bool:
    head, _, body = received.partition(b"\r\n\r\n")
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
    return len(body) >= int(length.partition(b":")[2])


def status(received: bytes) -> int:
    return int(received.split(b" ", 2)[1])


def test_a_body_that_announces_too_much_is_refused_before_it_is_sent(gateway: GatewayUnderTest) -> None:
    answer = exchange(gateway, SUBSCRIBE + b"Expect: 100-continue\r\nContent-Length: 262145\r\n\r\n")
    assert status(answer) == 413
    assert b'"max_bytes":"262144"' in answer
    assert b"100 Continue" not in answer


def test_a_body_of_unknown_length_is_refused_as_soon_as_it_is_too_large(gateway: GatewayUnderTest) -> None:
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    answer = exchange(gateway, SUBSCRIBE + b"Transfer-Encoding: chunked\r\n\r\n", *[chunk] * 5, b"0\r\n\r\n")
    assert status(answer) == 413


def test_a_client_that_sends_a_large_body_anyway_can_read_its_refusal(gateway: GatewayUnderTest) -> None:
    answer = gateway.post_json("/newsletter/subscribe", b" " * 4_000_000)
    assert (answer.status, answer.json["reason"]) == (413, "BODY_TOO_LARGE")


def test_the_largest_body_allowed_is_read(gateway: GatewayUnderTest) -> None:
    body = b'{"list_id": "%s", "email": "a@example.com"}' % LIST.encode()
    assert gateway.post_json("/newsletter/subscribe", body + b" " * (262_144 - len(body))).status == 200


def test_a_send_job_may_be_larger(gateway: GatewayUnderTest) -> None:
    job = {"list_id": LIST, "subject": "s", "body_html": "h" * 1_000_000, "body_text": "t" * 1_000_000}
    token = access_token("newsletter:send.write")
    assert gateway.post_json("/api/send-jobs", job, Authorization=f"Bearer {token}").status == 201
    too_large = gateway.post_json("/api/send-jobs", b" " * 2_097_153, Authorization=f"Bearer {token}")
    assert too_large.status == 413


@pytest.mark.parametrize(
    "request_bytes",
    [
        SUBSCRIBE + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        SUBSCRIBE + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        SUBSCRIBE + b"Content-Length: +2\r\n\r\n{}",
        SUBSCRIBE + b"Content-Length: 2, 2\r\n\r\n{}",
        SUBSCRIBE + b"Content-Length : 2\r\n\r\n{}",
        SUBSCRIBE + b"Transfer-Encoding: chunked\r\n\r\n2\n{}\n0\n\n",
        SUBSCRIBE + b"Transfer-Encoding: xchunked\r\n\r\n",
        SUBSCRIBE + b"Transfer-Encoding: chunked\r\n\r\n0x2\r\n{}\r\n0\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n folded: yes\r\n\r\n",
        b"GET @evil.example HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nBad\x00Name: y\r\n\r\n",
        b"GET /healthz HTTP/9.9\r\n\r\n",
        b"GET /caf\xc3\xa9 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"A: " + b"b" * 40_000 + b"\r\n\r\n",
    ],
)
def test_a_request_that_two_servers_could_read_differently_gets_one_refusal(
    gateway: GatewayUnderTest, request_bytes: bytes
) -> None:
    smuggled = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
    answer = exchange(gateway, request_bytes + smuggled)
    assert status(answer) in (400, 404)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"connection: close" in answer.lower() or status(answer) == 404


@pytest.mark.parametrize("upgrade", [b"Upgrade: h2c", b"uPGRADE:websocket", b"X: y"])
def test_an_offer_to_change_the_protocol_loses_no_body(gateway: GatewayUnderTest, upgrade: bytes) -> None:
    body = b'{"list_id": "%s", "email": "a@example.com"}' % LIST.encode()
    head = SUBSCRIBE + b"Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk\r\n" + upgrade
    head += b"\r\nContent-Length: %d\r\n\r\n" % len(body)
    assert status(exchange(gateway, head + body)) == 200
    assert status(exchange(gateway, head, body)) == 200


@pytest.mark.slow
def test_whoever_sends_too_slowly_is_cut_off_within_15_seconds(gateway: GatewayUnderTest) -> None:
    unfinished_head = SUBSCRIBE
    unfinished_body = SUBSCRIBE + b"Content-Length: 100\r\n\r\n{"
    after_an_answer = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" + SUBSCRIBE
    with ThreadPoolExecutor(4) as pool:
        cut = list(pool.map(lambda sent: seconds_until_cut(gateway, sent), [
            b"", unfinished_head, unfinished_body, after_an_answer,
        ]))  # fmt: skip
    assert all(5 < seconds < 15.5 for seconds, _ in cut), cut
    answer = cut[2][1]
    assert status(answer) == 408
    assert b'"REQUEST_TIMEOUT"' in answer


def seconds_until_cut(gateway: GatewayUnderTest, sent: bytes) -> tuple[float, bytes]:
    started = time.monotonic()
    with socket.create_connection((gateway.host, gateway.port), timeout=30) as connection:
        connection.sendall(sent)
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    return time.monotonic() - started, received
