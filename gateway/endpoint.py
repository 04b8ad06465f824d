"""Answers the requests for one route: reads the request, calls the RPC, writes the answer in the form that is due.

Everything an RPC needs of HTTP beyond its route is in its http_face option; nothing here knows a particular RPC.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from google.protobuf.message import Message

from gateway.backends import CALL_SECONDS, Backend
from gateway.cross_origin import CrossOrigin
from gateway.exchange import Answer, Headers, HttpRequest
from gateway.pages import Pages, prefers_html
from gateway.problems import error_headers, oauth_answer, problem_answer
from gateway.routes import Route
from gateway.transcode import AnswerWriter, RequestReader
from servicekit.access import authorize
from servicekit.errors import MessmailError

_LARGE_BODY_BYTES = 1024 * 1024
_LARGE_BODY_SECONDS = 30.0
# RFC 6749 section 5.1 asks for both.
_NO_STORE = (("cache-control", "no-store"), ("pragma", "no-cache"))
_FIELD = re.compile(r"\{([a-z_]+)\}")


class Endpoint:
    """The handler of one route. With cross_origin, pages of other origins may call it where that says so."""

    def __init__(
        self, route: Route, backend: Backend, pages: Pages, documentation: str, cross_origin: CrossOrigin | None
    ) -> None:
        self.template = route.template
        self._face = route.face
        self._access = route.access
        self._reader = RequestReader(route)
        self._writer = AnswerWriter(route)
        self._call = backend.call(
            route.rpc, _LARGE_BODY_SECONDS if route.max_body_bytes > _LARGE_BODY_BYTES else CALL_SECONDS
        )
        self._pages = pages
        self._documentation = documentation
        self._cross_origin = cross_origin
        self._headers = _NO_STORE if self._face.no_store else ()

    async def answer(self, request: HttpRequest, path_fields: Mapping[str, str]) -> Answer:
        """Answers a request; raises MessmailError."""
        if self._cross_origin is None:
            return await self._answer(*await self._read(request, path_fields), request)
        message = None
        try:
            message, authorization = await self._read(request, path_fields)
            answer = await self._answer(message, authorization, request)
        except MessmailError as error:
            answer = self.refuse(error, request)
        headers = await self._cross_origin.headers(request, message)
        return replace(answer, headers=(*answer.headers, *headers))

    async def preflight(self, request: HttpRequest, methods: str) -> Headers:
        """Returns the headers that a browser asks for before a call of another origin's page; raises MessmailError."""
        return await self._cross_origin.preflight(request, methods) if self._cross_origin else ()

    async def _read(self, request: HttpRequest, path_fields: Mapping[str, str]) -> tuple[Message, str]:
        """Reads the message, and the Authorization to pass on."""
        # Under the OAuth rules the header carries the client's credentials, which become fields of the message.
        authorization = "" if self._face.oauth else request.headers.get("authorization", "")
        if not authorization:
            try:
                authorize(self._access, None)
            except MessmailError:
                # Nobody without a token shall make us read a body. The service says the same, and writes it down.
                await self._call(self._reader.empty(), request, "")
                raise
        return await self._reader.read(request, path_fields), authorization

    async def _answer(self, message: Message, authorization: str, request: HttpRequest) -> Answer:
        value = self._writer.value(await self._call(message, request, authorization))
        if self._shows_page(request):
            fields = {field.name: text for field, text in message.ListFields() if isinstance(text, str)}
            return self._pages.show(self._face.page, request, fields, value)
        if self._face.created_location:
            location = _FIELD.sub(lambda match: str(value[match[1]]), self._face.created_location)
            return Answer(201, self._writer.encode(value), headers=(*self._headers, ("location", location)))
        return Answer(200, self._writer.encode(value), headers=self._headers)

    def refuse(self, error: MessmailError, request: HttpRequest) -> Answer:
        """Puts an error into a page, RFC 6749's form or problem+json."""
        if self._shows_page(request):
            return self._pages.show_problem(error, request, error_headers(error))
        if self._face.oauth:
            return oauth_answer(error)
        return problem_answer(error, request.request_id, self._documentation)

    def _shows_page(self, request: HttpRequest) -> bool:
        return bool(self._face.page) and prefers_html(request.headers.get("accept", ""))
