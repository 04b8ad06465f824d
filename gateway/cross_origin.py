"""Cross-origin calls of browsers (CORS, as the Fetch standard has it): which headers let a page read an answer.

Whose pages may is not known here: the service behind a route is asked, by the RPC that its contract marks for it. Pages
act as anybody without a token would: no credentials, and no Authorization.
"""

from __future__ import annotations

from typing import Any

import structlog
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from gateway.backends import CALL_SECONDS, Backend
from gateway.exchange import Headers, HttpRequest
from messmail.options.v1 import options_pb2
from servicekit.errors import MessmailError

PREFLIGHT_SECONDS = 600
_MAX_ORIGIN = 300
_VARY = (("vary", "origin"),)
_READABLE = "Retry-After, X-Request-Id"

_log = structlog.get_logger()


class CrossOrigin:
    """Asks one service which origins may call it."""

    def __init__(self, backend: Backend) -> None:
        """Finds the RPC that tells; raises ValueError when the service has none, or one of another shape."""
        rpc = _checking(backend.service)
        self._message = GetMessageClass(rpc.input_type)
        self._copied = frozenset(rpc.input_type.fields_by_name) - {"origin"}
        self._call = backend.call(rpc, CALL_SECONDS)

    async def preflight(self, request: HttpRequest, methods: str) -> Headers:
        """Returns what lets a page of the request's origin call with these methods. Raises MessmailError."""
        if not await self._allows(request, None):
            return _VARY
        return (
            *_allowing(request),
            ("access-control-allow-methods", methods),
            ("access-control-allow-headers", "Content-Type"),
            ("access-control-max-age", str(PREFLIGHT_SECONDS)),
        )

    async def headers(self, request: HttpRequest, message: Message | None) -> Headers:
        """Returns what lets a page of the request's origin read the answer; None: no message could be read."""
        if "origin" not in request.headers:
            return ()
        try:
            is_allowed = await self._allows(request, message)
        except MessmailError as error:
            # Of whoever nothing can be found out, the page cannot read the answer; it is given all the same.
            _log.info("origin.unchecked", reason=error.status.name)
            return _VARY
        return (*_allowing(request), ("access-control-expose-headers", _READABLE)) if is_allowed else _VARY

    async def _allows(self, request: HttpRequest, message: Message | None) -> bool:
        origin = request.headers["origin"]
        if not 0 < len(origin) <= _MAX_ORIGIN or not origin.isascii():
            return False
        named = {field.name: value for field, value in message.ListFields()} if message is not None else {}
        question = self._message(origin=origin, **{name: named[name] for name in self._copied & named.keys()})
        # That it has the field was looked at in the beginning.
        answer: Any = await self._call(question, request, "")
        return bool(answer.allowed)


def _allowing(request: HttpRequest) -> Headers:
    return (("access-control-allow-origin", request.headers["origin"]), *_VARY)


def _checking(service: ServiceDescriptor) -> MethodDescriptor:
    for rpc in service.methods:
        if rpc.GetOptions().Extensions[options_pb2.http_face].checks_origins:
            origin, allowed = rpc.input_type.fields_by_name.get("origin"), rpc.output_type.fields_by_name.get("allowed")
            if origin is None or allowed is None or allowed.type != FieldDescriptor.TYPE_BOOL:
                raise ValueError(f"{rpc.full_name} checks origins, and so must ask for an origin and answer allowed")
            return rpc
    raise ValueError(f"{service.full_name} has cross-origin routes, and no RPC that checks origins")
