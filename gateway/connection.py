"""What one connection may cost before there is a request: seconds and bytes for the head.

uvicorn bounds neither. The seconds and bytes of a body are bounded where it is read (exchange). Offers to change the
protocol are not heard.
"""

from __future__ import annotations

import asyncio
import re

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_SECONDS = 12.0
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

    The clock runs from the connection's beginning, and then from the first byte of each further request.
    """

    _head_timer: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _hosts = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        between_requests = self.cycle is None or not self.cycle.more_body
        super().data_received(_without_upgrade(data) if between_requests else data)

    def on_message_begin(self) -> None:
        super().on_message_begin()
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

    def _hang_up(self) -> None:
        self._head_timer = None
        self.transport.close()
