"""A small closed-loop HTTP client: each connection sends its next request as soon as the last one is answered.

It speaks just enough HTTP/1.1 for our own gateway (keep-alive, Content-Length), so that most of the machine is left to
what is measured.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import cast

import httptools
import uvloop


@dataclass(slots=True)
class Load:
    """What a run saw: answers by status, and the rate over the run's own clock."""

    seconds: float
    statuses: Counter[int] = field(default_factory=Counter)

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.statuses.total() / self.seconds


class _Connection(asyncio.Protocol):
    def __init__(self, requests: Iterator[bytes], load: Load, until: float, done: asyncio.Future[None]) -> None:
        self._requests, self._load, self._until, self._done = requests, load, until, done
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transport is one by its methods, not by its class.
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        self._load.statuses[self._parser.get_status_code()] += 1
        # A response parser is good for one keep-alive connection, but not for answers that end at its close.
        if time.perf_counter() < self._until:
            self._send()
        elif self._transport is not None:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done.done():
            self._done.set_result(None)

    def _send(self) -> None:
        request = next(self._requests, None)
        assert self._transport is not None
        if request is None:
            self._transport.close()
        else:
            self._transport.write(request)


async def _run(host: str, port: int, requests: Iterator[bytes], connections: int, seconds: float) -> Load:
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    load = Load(seconds)
    ends = []
    for _ in range(connections):
        done = loop.create_future()
        ends.append(done)
        await loop.create_connection(
            lambda done=done: _Connection(requests, load, started + seconds, done),  # type: ignore[misc]
            host,
            port,
        )
    await asyncio.wait_for(asyncio.gather(*ends), seconds + 60)
    load.seconds = time.perf_counter() - started
    return load


def run(host: str, port: int, requests: Iterator[bytes], *, connections: int = 32, seconds: float = 4.0) -> Load:
    """Sends requests over so many connections for so long; raises RuntimeError when any answer is not a success."""
    load = uvloop.run(_run(host, port, requests, connections, seconds))
    bad = {status: count for status, count in load.statuses.items() if not 200 <= status < 300}
    if bad:
        raise RuntimeError(f"the gateway refused requests of the measurement: {bad}")
    return load


def request(method: str, path: str, body: bytes = b"", *, content_type: str = "", token: str = "") -> bytes:
    """Writes down one request."""
    head = [f"{method} {path} HTTP/1.1", "Host: bench"]
    if body:
        head += [f"Content-Type: {content_type}", f"Content-Length: {len(body)}"]
    if token:
        head.append(f"Authorization: Bearer {token}")
    return "\r\n".join([*head, "", ""]).encode() + body
