"""One TCP or TLS connection: bytes out, replies in. What they mean is the listener's business.

A plain asyncio.Protocol, because streams cost several times as much per mail.
"""

import asyncio
from collections.abc import Sequence
from typing import Protocol, cast

from send_engine.esp.replies import Reply, ReplyReader


class Listener(Protocol):
    """Whoever is talking over a wire at the moment."""

    def on_replies(self, replies: Sequence[Reply]) -> None:
        """Takes the replies that came in one piece, in their order."""

    def on_drained(self) -> None:
        """Learns that all bytes written have left for the kernel."""

    def on_lost(self, reason: str) -> None:
        """Learns, once and last, that the wire is gone."""


class Wire(asyncio.Protocol):
    """The connection. `paused` is true while bytes that were written have not all left for the kernel."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.listener: Listener | None = None
        self.paused = False
        self.lost: str | None = None
        self.closed = asyncio.get_running_loop().create_future()
        self._reader = ReplyReader()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Is called by the event loop, and again by whoever has put TLS under this wire."""
        self.transport = cast(asyncio.Transport, transport)
        # With no allowance, the transport says at once when a byte has not left, so we know when a final dot has.
        self.transport.set_write_buffer_limits(high=0)
        self.write = self.transport.write

    def data_received(self, data: bytes) -> None:
        """Passes on the replies; what comes unasked ends the connection."""
        if self.lost is not None:
            return
        replies = self._reader.feed(data)
        if self.listener is not None:
            self.listener.on_replies(replies)
        elif replies:
            self.drop("the server spoke unasked")
        if self._reader.broken:
            self.drop(f"the server sent {self._reader.broken}")

    @property
    def is_quiet(self) -> bool:
        """True when nothing is left unread, not even a part of a reply."""
        return not self._reader.has_rest

    def pause_writing(self) -> None:
        """Notes that bytes wait."""
        self.paused = True

    def resume_writing(self) -> None:
        """Notes that none waits any more."""
        self.paused = False
        if self.listener is not None:
            self.listener.on_drained()

    def eof_received(self) -> None:
        """Treats a half-closed connection as closed: a server that has finished speaking answers nothing."""
        self._end("the server closed the connection")

    def connection_lost(self, exc: Exception | None) -> None:
        """Is called by the event loop."""
        self._end("the connection was lost")
        if not self.closed.done():
            self.closed.set_result(None)

    def drop(self, reason: str) -> None:
        """Ends the connection at once."""
        self._end(reason)
        self.transport.abort()

    def _end(self, reason: str) -> None:
        if self.lost is None:
            self.lost = reason
            if self.listener is not None:
                self.listener.on_lost(reason)
