"""A TCP proxy that is a bad network: latency, cuts after so many bytes, resets, silence, slow drip.

It passes bytes on in their order and knows no protocol. Its weather can be changed at any moment, and holds from then
on for open connections too. Alone, `python -m tests.rig.proxy --to HOST:PORT --round-trip 0.05` prints its address.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import struct
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import cast

import uvloop

# How much may be under way in one direction; beyond, the sender is made to wait as a full window does.
_MOST_UNDER_WAY = 8 * 2**20


class Ending(StrEnum):
    """What becomes of a connection that is cut."""

    RESET = "reset"
    CLOSE = "close"
    SILENCE = "silence"


@dataclass(frozen=True)
class Weather:
    """How the network behaves. Seconds and bytes; bytes are counted for each connection and direction."""

    round_trip: float = 0.0
    bytes_per_second: float | None = None
    cut_after_sent: int | None = None
    """Bytes from the client that arrive before the cut; none of the rest does."""
    cut_after_received: int | None = None
    """Bytes from the server that arrive before the cut."""
    ending: Ending = Ending.RESET


CLEAR = Weather()
BLACK_HOLE = Weather(cut_after_sent=0, cut_after_received=0, ending=Ending.SILENCE)


class FaultProxy:
    """The proxy, on a loop and thread of its own. Safe to call from any thread."""

    def __init__(self, to: str, weather: Weather = CLEAR, listen: str = "127.0.0.1:0") -> None:
        """Listens, and passes each connection on to HOST:PORT."""
        self.weather = weather
        self.connections = 0
        self.cuts = 0
        host, _, port = to.rpartition(":")
        self._target = host, int(port)
        self._open: set[_Connection] = set()
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._listen(listen), self._loop).result()
        host, port = cast(asyncio.Server, self._server).sockets[0].getsockname()[:2]
        self.address = f"{host}:{port}"

    def reset_all(self) -> int:
        """Resets every open connection at both ends, and returns how many there were."""
        return asyncio.run_coroutine_threadsafe(self._reset_all(), self._loop).result()

    def stop(self) -> None:
        """Resets what is open and ends the proxy."""
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _listen(self, address: str) -> asyncio.AbstractServer:
        host, _, port = address.rpartition(":")
        return await self._loop.create_server(lambda: _Connection(self, self._target).client, host, int(port))

    async def _reset_all(self) -> int:
        connections = list(self._open)
        for connection in connections:
            connection.end(Ending.RESET)
        return len(connections)

    async def _stop(self) -> None:
        self._server.close()
        while self._open:
            for connection in list(self._open):
                connection.abort()
            # The transports tell in a later turn that they are gone, and what connects gets there or is refused.
            await asyncio.sleep(0.001)

    def opened(self, connection: _Connection) -> None:
        """Counts a connection; only its own calls this."""
        self.connections += 1
        self._open.add(connection)

    def closed(self, connection: _Connection) -> None:
        """Forgets a connection; only its own calls this."""
        self._open.discard(connection)


class _Connection:
    """A client's connection and the one to the server that belongs to it."""

    def __init__(self, proxy: FaultProxy, target: tuple[str, int]) -> None:
        self.proxy = proxy
        self._target = target
        self._over = False
        self._is_connecting = True
        self.client = _End(self, from_client=True)
        self.server = _End(self, from_client=False)
        self.client.peer, self.server.peer = self.server, self.client

    def begin(self) -> None:
        self.proxy.opened(self)
        self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        # Never cancelled: a connection that just came about would end without telling its protocol.
        try:
            await asyncio.get_running_loop().create_connection(lambda: self.server, *self._target)
        except OSError:
            self.end(Ending.RESET)
        self._is_connecting = False
        if self._over:
            # It was cut while it was being opened.
            self.abort()
        self.lost()

    def end(self, ending: Ending) -> None:
        if self._over:
            return
        self.client.deaf = self.server.deaf = True
        if ending is Ending.SILENCE:
            return
        self._over = True
        if ending is Ending.RESET:
            self.abort()
            return
        for end in (self.client, self.server):
            if end.transport is not None:
                end.transport.close()

    def abort(self) -> None:
        """Resets both ends that are there."""
        for end in (self.client, self.server):
            handle = None if end.transport is None else end.transport.get_extra_info("socket")
            # The kernel may have ended it before the transport has told us.
            if end.transport is not None and handle is not None and handle.fileno() >= 0:
                handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.transport.abort()

    def lost(self) -> None:
        """Is done with when both ends are gone, and none is still to come."""
        if not self._is_connecting and all(end.transport is None or end.gone for end in (self.client, self.server)):
            self.proxy.closed(self)


class _End(asyncio.Protocol):
    """One end of a connection: what comes in here goes out at the other end, later."""

    peer: _End

    def __init__(self, connection: _Connection, *, from_client: bool) -> None:
        self._connection = connection
        self._from_client = from_client
        self.transport: asyncio.Transport | None = None
        # Nothing passes any more, and nobody is told.
        self.deaf = False
        self.gone = False
        self._passed = 0
        # What is due at the other end; None is the end of the stream.
        self._under_way: deque[bytes | None] = deque()
        self._bytes_under_way = 0
        self._last_due = 0.0
        self._early: list[bytes | None] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if self._from_client:
            self._connection.begin()
            return
        for piece in self.peer._early:
            self.peer._write(piece)
        self.peer._early.clear()

    def data_received(self, data: bytes) -> None:
        weather = self._connection.proxy.weather
        limit = weather.cut_after_sent if self._from_client else weather.cut_after_received
        if self.deaf:
            return
        is_cut = limit is not None and self._passed + len(data) >= limit
        if is_cut and limit is not None:
            data = data[: max(0, limit - self._passed)]
        self._passed += len(data)
        rate = weather.bytes_per_second
        step = len(data) if rate is None else max(1, int(rate / 20))
        for start in range(0, len(data), step or 1):
            self._pass_on(data[start : start + step], weather)
        if is_cut:
            self._connection.proxy.cuts += 1
            self.deaf = True
            delay = max(0.0, self._last_due - self._now())
            asyncio.get_running_loop().call_later(delay, self._connection.end, weather.ending)

    def eof_received(self) -> bool:
        if not self.deaf:
            self._pass_on(None, self._connection.proxy.weather)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone = True
        self._connection.lost()
        if not self.deaf:
            # Behind whatever is still on its way.
            delay = max(0.0, self._last_due - self._now())
            ending = Ending.CLOSE if exc is None else Ending.RESET
            asyncio.get_running_loop().call_later(delay, self._connection.end, ending)

    def _pass_on(self, piece: bytes | None, weather: Weather) -> None:
        size = len(piece or b"")
        due = max(self._last_due, self._now() + weather.round_trip / 2)
        if weather.bytes_per_second is not None:
            due += size / weather.bytes_per_second
        self._last_due = due
        self._under_way.append(piece)
        self._bytes_under_way += size
        if self._bytes_under_way > _MOST_UNDER_WAY and self.transport is not None:
            self.transport.pause_reading()
        delay = due - self._now()
        if delay <= 0:
            self._arrive()
        else:
            asyncio.get_running_loop().call_later(delay, self._arrive)

    def _arrive(self) -> None:
        piece = self._under_way.popleft()
        before, self._bytes_under_way = self._bytes_under_way, self._bytes_under_way - len(piece or b"")
        if before > _MOST_UNDER_WAY >= self._bytes_under_way and self.transport is not None:
            self.transport.resume_reading()
        if self.peer.transport is None:
            self._early.append(piece)
        else:
            self._write(piece)

    def _write(self, piece: bytes | None) -> None:
        transport = self.peer.transport
        if transport is None or transport.is_closing():
            return
        if piece is None:
            transport.write_eof()
        else:
            transport.write(piece)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


@contextmanager
def fault_proxy(to: str, weather: Weather = CLEAR, listen: str = "127.0.0.1:0") -> Iterator[FaultProxy]:
    """Runs a proxy to HOST:PORT for the length of a `with` block."""
    proxy = FaultProxy(to, weather, listen)
    try:
        yield proxy
    finally:
        proxy.stop()


def main() -> None:
    """Runs a proxy until it is killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", required=True, metavar="HOST:PORT")
    parser.add_argument("--listen", default="127.0.0.1:0", metavar="HOST:PORT")
    parser.add_argument("--round-trip", type=float, default=0.0, metavar="SECONDS")
    options = parser.parse_args()
    proxy = FaultProxy(options.to, Weather(round_trip=options.round_trip), options.listen)
    print(proxy.address, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
