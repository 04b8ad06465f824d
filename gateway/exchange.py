"""One HTTP request and its answer: as little of ASGI as the gateway needs. It knows nothing of gRPC or JSON."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from servicekit.errors import MessmailError, Reason

AsgiMessage: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[AsgiMessage]]
Send: TypeAlias = Callable[[AsgiMessage], Awaitable[None]]
# Names, in lower case, and values.
Headers: TypeAlias = tuple[tuple[str, str], ...]

BODY_SECONDS = 12.0


class ClientGoneError(Exception):
    """The client hung up before its request was complete, so nobody waits for an answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent back. Header names are in lower case; content-length and x-request-id are added on sending."""

    status: int
    body: bytes = b""
    content_type: str = "application/json"
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request whose body has not been read yet. Header names are in lower case, repeated ones joined by commas."""

    method: str
    path: str
    query: bytes
    headers: Mapping[str, str]
    client_ip: str
    request_id: str
    receive: Receive

    async def body(self, max_bytes: int) -> bytes:
        """Reads the whole body.

        Raises BODY_TOO_LARGE before reading when Content-Length says so, and as soon as it is so otherwise;
        REQUEST_TIMEOUT when it has not arrived in time; ClientGoneError.
        """
        declared = self.headers.get("content-length", "0")
        if not declared.isdecimal() or int(declared) > max_bytes:
            raise _too_large(max_bytes)
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                more = True
                while more:
                    chunk, more = await self._chunk()
                    body += chunk
                    if len(body) > max_bytes:
                        raise _too_large(max_bytes)
        except TimeoutError:
            raise MessmailError(
                Reason.ERROR_REASON_REQUEST_TIMEOUT, f"the body must arrive within {BODY_SECONDS:.0f} seconds"
            ) from None
        return bytes(body)

    async def _chunk(self) -> tuple[bytes, bool]:
        message = await self.receive()
        if message["type"] != "http.request":
            raise ClientGoneError
        return message.get("body", b""), message.get("more_body", False)


class Handler(Protocol):
    """Answers the requests for one method and path."""

    @property
    def template(self) -> str:
        """The path as the contract writes it, for logs: without anybody's values."""

    async def answer(self, request: HttpRequest, path_fields: Mapping[str, str]) -> Answer:
        """Answers, or raises MessmailError."""

    def refuse(self, error: MessmailError, request: HttpRequest) -> Answer:
        """Puts an error into the form that is due here."""

    async def preflight(self, request: HttpRequest, methods: str) -> Headers:
        """Returns the headers that let a page of another origin call, if it may; methods are those of the path."""


def _too_large(max_bytes: int) -> MessmailError:
    return MessmailError(
        Reason.ERROR_REASON_BODY_TOO_LARGE, f"send at most {max_bytes} bytes here", max_bytes=str(max_bytes)
    )
