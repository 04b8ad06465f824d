"""A whole HTTP request into one message of the contract, and its answer back into JSON.

Path, query, body, HTTP Basic and some headers each fill their fields; no field may come from two of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from gateway.exchange import HttpRequest
from gateway.forms import (
    FORM,
    JSON,
    MULTIPART,
    media_type,
    parse_basic,
    parse_multipart,
    parse_parameters,
    refuse_encoded,
)
from gateway.json_reader import check_readable, fill, fill_from_text, load_object
from gateway.json_writer import is_absent_when_empty, json_writer
from gateway.routes import Route
from servicekit.errors import FieldViolation, MessmailError, Reason

# A small request must not be able to ask for a large answer.
MAX_VIOLATIONS = 20
_CREDENTIALS = ("client_id", "client_secret")


class RequestReader:
    """Reads the requests of one route."""

    def __init__(self, route: Route) -> None:
        check_readable(route.rpc.input_type)
        self._route = route
        self._message = GetMessageClass(route.rpc.input_type)
        self._ignored = frozenset(route.face.ignored_form_fields)
        self._accepted = accepted_types(route)

    def empty(self) -> Message:
        """Returns a request that says nothing."""
        return self._message()

    async def read(self, request: HttpRequest, path_fields: Mapping[str, str]) -> Message:
        """Reads a request; raises MessmailError, with every field that is wrong (the first 20)."""
        route, message = self._route, self._message()
        violations: list[FieldViolation] = []
        sources: list[Mapping[str, object]] = [path_fields]
        fill_from_text(message, path_fields, violations)
        query = parse_parameters(request.query, "query")
        if route.has_body and not route.face.query_with_body:
            violations += [FieldViolation(name[:100], "is not accepted in the query") for name in query]
        else:
            # What is mailed comes back with what relays and browsers hung onto it, and its reader can take nothing off.
            fill_from_text(message, query, violations, ignore_unknown=bool(route.face.page))
            sources.append(query)
        if route.has_body:
            sources.append(await self._read_body(request, message, violations))
        if route.face.oauth and "authorization" in request.headers:
            sources.append(_read_basic(request.headers["authorization"], message))
        violations += _given_twice(sources)
        violations += self._read_headers(request, message, sources)
        if violations:
            told = violations[:MAX_VIOLATIONS]
            raise MessmailError(Reason.ERROR_REASON_INVALID_FIELD, _summary(told), violations=told)
        return message

    def _read_headers(
        self, request: HttpRequest, message: Any, sources: list[Mapping[str, object]]
    ) -> list[FieldViolation]:
        """Puts the headers that carry fields into them; these fields come from nowhere else."""
        wrong = []
        for field, header in self._route.header_fields.items():
            if any(field in source for source in sources):
                wrong.append(FieldViolation(field, f"send it as the header {header}"))
            text = request.headers.get(header.lower())
            if text is not None and not (text and text.isascii() and text.isprintable()):
                wrong.append(FieldViolation(header, "must be printable ASCII, and not empty"))
            elif text is not None:
                setattr(message, field, text)
        return wrong

    async def _read_body(
        self, request: HttpRequest, message: Message, violations: list[FieldViolation]
    ) -> Mapping[str, object]:
        body = await request.body(self._route.max_body_bytes)
        if not body:
            return {}
        refuse_encoded(request.headers.get("content-encoding", ""))
        content_type = request.headers.get("content-type", "")
        kind = media_type(content_type, self._accepted)
        if kind == JSON:
            members = load_object(body)
            fill(message, members, violations)
            return members
        texts = parse_parameters(body, "body") if kind == FORM else parse_multipart(body, content_type)
        oauth = self._route.face.oauth
        # RFC 6749 section 3.2: a parameter without a value counts as left out, one that is not known is ignored.
        given = {name: text for name, text in texts.items() if name not in self._ignored and (text or not oauth)}
        fill_from_text(message, given, violations, ignore_unknown=oauth)
        return given


class AnswerWriter:
    """Writes the answers of one route: all fields, or the one field that the contract names as the body."""

    def __init__(self, route: Route) -> None:
        self._field = route.response_body
        whole = route.rpc.output_type
        part = whole.fields_by_name[self._field].message_type if self._field else whole
        if part is None:
            raise ValueError(f"{route.rpc.full_name}: response_body must name a message")
        self._write = json_writer(part)
        self._omits_absent = route.face.omit_absent
        self._absent_when_empty = {field.name for field in part.fields if is_absent_when_empty(field)}

    def value(self, message: Message) -> Any:
        """Returns the answer as a JSON value."""
        value = self._write(getattr(message, self._field) if self._field else message)
        if not self._omits_absent:
            return value
        absent = {name for name, inner in value.items() if inner is None}
        absent |= {name for name in self._absent_when_empty if value[name] == ""}
        return {name: inner for name, inner in value.items() if name not in absent}

    @staticmethod
    def encode(value: Any) -> bytes:
        """Returns a JSON value as the bytes of a body."""
        return orjson.dumps(value)


def accepted_types(route: Route) -> tuple[str, ...]:
    """Returns the media types that a body may have."""
    face = route.face
    forms = () if not face.form_body else (FORM,) if face.oauth else (FORM, MULTIPART)
    return (JSON, *forms) if face.json_body or not face.form_body else forms


def _read_basic(authorization: str, message: Any) -> dict[str, str]:
    credentials = parse_basic(authorization)
    message.client_id, message.client_secret = credentials.client_id, credentials.client_secret
    return dict.fromkeys(_CREDENTIALS, "")


def _given_twice(sources: list[Mapping[str, object]]) -> list[FieldViolation]:
    seen: set[str] = set()
    twice: set[str] = set()
    for source in sources:
        twice |= seen & source.keys()
        seen |= source.keys()
    return [FieldViolation(name, "is given in two places; give it in one") for name in sorted(twice)]


def _summary(violations: list[FieldViolation]) -> str:
    return f"{violations[0].field}: {violations[0].description}"
