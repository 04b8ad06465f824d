"""What one connection may cost: seconds and bytes for the head of a request, seconds for reading an answer.

uvicorn bounds none of them, nor how many requests wait for their turn. The seconds and bytes of a body are bounded
where it is read (exchange). Offers to change the protocol are not heard.
"""

from __future__ import annotations

import asyncio
import re
import socket

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_SECONDS = 12.0
# Within which a client must have taken what the kernel's buffers do not hold.
READ_SECONDS = 12.0
# Of the kernel, which grows it to megabytes of its memory for a client that does not read.
_SEND_BUFFER_BYTES = 64 * 1024
# Requests sent without waiting for the answer to the one before; hardly any client does.
MAX_PIPELINED = 16
MAX_HEAD_BYTES = 32 * 1024
_UPGRADE = re.compile(rb"(\r\n)(upgrade[ \t]*:)", re.IGNORECASE)


def _without_upgrade(data: bytes) -> bytes:
    """Hides an offer to change the protocol, which a server may ignore (RFC 9110 section 7.8).

    The parser takes it for accepted and drops the body. Java's HttpClient makes the offer by default, with every POST.
    """
    head, blank_line, rest = data.partition(b"\r\n\r\n")
    return _UPGRADE.sub(rb"\1x-\2", head) + blank_line + rest


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which hangs up when the head of a request takes too long, and refuses one that is too large.

    It hangs up on whoever does not read its answers, and on whoever sends too many requests ahead.

    The clock runs from the connection's beginning, and then from the first byte of each further request.
    """

    _head_timer: asyncio.TimerHandle | None = None
    _read_timer: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _hosts = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        # Whatever the kernel does not take counts as not read.
        transport.set_write_buffer_limits(high=0)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._stop_read_timer()
        super().connection_lost(exc)
        # Nobody waits for these; each would keep this object, and it them, until Python looks for such rings.
        self.pipeline.clear()
        self.cycle = None  # type: ignore[assignment]

    def pause_writing(self) -> None:
        super().pause_writing()
        # Closing would wait until everything is read.
        self._read_timer = self.loop.call_later(READ_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop_read_timer()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        between_requests = self.cycle is None or not self.cycle.more_body
        super().data_received(_without_upgrade(data) if between_requests else data)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if len(self.pipeline) > MAX_PIPELINED:
            self.transport.abort()
        self._head_bytes = self._hosts = 0
        if self._head_timer is None:
            self._start_timer()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        self._hosts += name.lower() == b"host"
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._stop_timer()
        if self.parser.should_upgrade():
            # Only a header that was cut in two gets here. Its body would be lost in silence.
            raise ValueError("the request asks for another protocol")
        # RFC 9112 section 3.2: without it, or with two, a proxy in front may have meant another site.
        if self._hosts != 1 and not (self._hosts == 0 and self.parser.get_http_version() == "1.0"):
            raise ValueError("a request names one host")
        super().on_headers_complete()

    def _count(self, octets: int) -> None:
        self._head_bytes += octets
        if self._head_bytes > MAX_HEAD_BYTES:
            # The parser passes this on as an error of its own, which uvicorn answers with 400 before it hangs up.
            raise ValueError("the head of the request is too large")

    def _start_timer(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._hang_up)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_read_timer(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None

    def _hang_up(self) -> None:
        self._head_timer = None
        self.transport.close()
