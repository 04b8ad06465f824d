"""The ASGI application: finds the handler of a request, sends its answer, and logs one line about it.

Logged is the route's template, never the path: paths and queries carry ids and tokens.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from typing import TypeAlias

import structlog

from gateway.exchange import Answer, AsgiMessage, ClientGoneError, Handler, Headers, HttpRequest, Receive, Send
from gateway.problems import problem_answer
from gateway.request_log import RequestLog
from gateway.routes import RouteTable
from servicekit.access import clean_request_id
from servicekit.errors import MessmailError, Reason

Routes: TypeAlias = RouteTable[Handler]
_DRAIN_SECONDS = 2.0

_log = structlog.get_logger()


class Gateway:
    """An ASGI application. What opens its routes is entered when the server starts and left when it stops."""

    def __init__(self, opened: Callable[[], AbstractAsyncContextManager[Routes]], documentation: str) -> None:
        self._opened = opened
        self._documentation = documentation
        self._routes: Routes = RouteTable()
        self._log = RequestLog()

    async def __call__(self, scope: AsgiMessage, receive: Receive, send: Send) -> None:
        """Serves one HTTP request, or the lifespan of the server."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        started = time.perf_counter()
        incoming = _Incoming(receive)
        request = _request(scope, incoming)
        try:
            template, answer = await self._answer(request)
        except ClientGoneError:
            _log.info("request.abandoned", method=request.method, request_id=request.request_id)
            return
        await _send(answer, request, incoming, send)
        self._log.write(
            method=request.method,
            route=template,
            status=answer.status,
            ms=round((time.perf_counter() - started) * 1000, 1),
            request_id=request.request_id,
        )

    async def _answer(self, request: HttpRequest) -> tuple[str, Answer]:
        try:
            if request.method == "OPTIONS":
                return "-", await self._options(request)
            handler, path_fields = self._routes.find(request.method, request.path)
        except MessmailError as error:
            return "-", problem_answer(error, request.request_id, self._documentation)
        try:
            return handler.template, await handler.answer(request, path_fields)
        except MessmailError as error:
            return handler.template, handler.refuse(error, request)
        except ClientGoneError:
            raise
        except Exception as error:
            _log.error("request.crashed", route=handler.template, request_id=request.request_id, exc_info=error)
            internal = MessmailError(Reason.ERROR_REASON_INTERNAL, "something went wrong here: tell us the request id")
            return handler.template, handler.refuse(internal, request)

    async def _options(self, request: HttpRequest) -> Answer:
        methods = self._routes.methods(request.path)
        headers: Headers = (("allow", methods),)
        asked_for = request.headers.get("access-control-request-method")
        if "origin" in request.headers and asked_for is not None:
            handler, _ = self._routes.find(asked_for, request.path)
            headers += await handler.preflight(request, methods)
        return Answer(204, headers=headers)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        async with self._opened() as self._routes:
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})


class _Incoming:
    """The messages of a request as they come in, and whether that was all."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.more = True

    async def __call__(self) -> AsgiMessage:
        message = await self._receive()
        self.more = bool(message.get("more_body", False))
        return message

    async def drop_rest(self) -> None:
        """Reads on for a moment without keeping anything: a peer that is cut off while it sends loses the answer."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                while self.more:
                    await self()


def _request(scope: AsgiMessage, receive: Receive) -> HttpRequest:
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    client = scope.get("client")
    return HttpRequest(
        method=scope["method"],
        path=scope["path"],
        query=scope["query_string"],
        headers=headers,
        client_ip=client[0] if client else "",
        request_id=clean_request_id(headers.get("x-request-id"), uuid.uuid4().hex),
        receive=receive,
    )


async def _send(answer: Answer, request: HttpRequest, incoming: _Incoming, send: Send) -> None:
    headers = [
        (b"x-request-id", request.request_id.encode()),
        (b"x-content-type-options", b"nosniff"),
        *((name.encode(), value.encode("latin-1", "replace")) for name, value in answer.headers),
    ]
    if answer.status != 204:
        headers.append((b"content-type", answer.content_type.encode()))
        headers.append((b"content-length", str(len(answer.body)).encode()))
    body = b"" if request.method == "HEAD" else answer.body
    unread = incoming.more and ("content-length" in request.headers or "transfer-encoding" in request.headers)
    if unread:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": unread})
    if unread:
        # A client that expects 100 Continue has not begun to send, and must not be told to go on now.
        if "expect" not in request.headers:
            await incoming.drop_rest()
        await send({"type": "http.response.body"})
