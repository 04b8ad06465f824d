"""Which RPC answers which HTTP method and path, read from google.api.http and http_face in the descriptors.

It finds a handler for a request; what the handler does is not its business.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from google.api import annotations_pb2, http_pb2
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions

from messmail.options.v1 import options_pb2
from servicekit.access import access_of
from servicekit.errors import MessmailError, Reason

DEFAULT_MAX_BODY_BYTES = 262_144
_VARIABLE = re.compile(r"\{([a-z][a-z0-9_]*)\}")
_HandlerT = TypeVar("_HandlerT")


@dataclass(frozen=True, slots=True)
class Route:
    """One HTTP method and path template of an RPC."""

    http_method: str
    template: str
    rpc: MethodDescriptor
    face: options_pb2.HttpFace
    has_body: bool
    # The field of the answer that is the whole JSON answer; empty: all of them are.
    response_body: str

    @property
    def path_fields(self) -> tuple[str, ...]:
        """The request's fields that the path carries."""
        return tuple(_VARIABLE.findall(self.template))

    @property
    def header_fields(self) -> dict[str, str]:
        """The request's fields that a header carries, and the name of that header."""
        return {each.field: each.header for each in self.face.header_fields}

    @property
    def safe(self) -> bool:
        """Whether the RPC has no side effects, so that HEAD may be answered by calling it."""
        return self.rpc.GetOptions().idempotency_level == MethodOptions.NO_SIDE_EFFECTS

    @property
    def access(self) -> options_pb2.Access:
        """Who may call the RPC."""
        access = access_of(self.rpc)
        if access is None:
            raise ValueError(f"{self.rpc.full_name} does not say who may call it")
        return access

    @property
    def max_body_bytes(self) -> int:
        """The largest body that is read."""
        return self.face.max_body_bytes or DEFAULT_MAX_BODY_BYTES


def read_routes(service: ServiceDescriptor) -> Iterator[Route]:
    """Yields the routes of a service; raises ValueError for an RPC that has none and is not internal."""
    for rpc in service.methods:
        options = rpc.GetOptions()
        face = options.Extensions[options_pb2.http_face]
        rule: http_pb2.HttpRule = options.Extensions[annotations_pb2.http]
        if face.internal:
            continue
        if not rule.WhichOneof("pattern"):
            raise ValueError(f"{rpc.full_name} has no route and is not internal")
        for binding in (rule, *rule.additional_bindings):
            yield _route(rpc, face, binding)


def _route(rpc: MethodDescriptor, face: options_pb2.HttpFace, rule: http_pb2.HttpRule) -> Route:
    pattern = rule.WhichOneof("pattern")
    if pattern in (None, "custom") or rule.body not in ("", "*"):
        raise ValueError(f"{rpc.full_name}: only the plain methods of HTTP and the body '*' are understood")
    template = getattr(rule, pattern)
    if "{" in _VARIABLE.sub("", template):
        raise ValueError(f"{rpc.full_name}: only {{field}} is understood in a path, not {template}")
    for each in face.header_fields:
        field = rpc.input_type.fields_by_name.get(each.field)
        if field is None or field.type != FieldDescriptor.TYPE_STRING:
            raise ValueError(
                f"{rpc.full_name}: {each.field}, which a header shall carry, is not a string of the request"
            )
    return Route(pattern.upper(), template, rpc, face, rule.body == "*", rule.response_body)


class RouteTable(Generic[_HandlerT]):
    """Finds the handler of a method and path. Fixed paths cost one look-up; templates are tried in order."""

    def __init__(self) -> None:
        self._fixed: dict[str, dict[str, _HandlerT]] = {}
        self._templates: dict[str, tuple[re.Pattern[str], dict[str, _HandlerT]]] = {}

    def add(self, method: str, template: str, handler: _HandlerT, *, safe: bool) -> None:
        """Adds a handler, and for HEAD too when it is safe; raises ValueError when the place is taken."""
        if _VARIABLE.search(template):
            pattern = re.compile(_VARIABLE.sub(r"(?P<\1>[^/]+)", template.replace(".", r"\.")))
            methods = self._templates.setdefault(template, (pattern, {}))[1]
        else:
            methods = self._fixed.setdefault(template, {})
        for name in (method, "HEAD") if method == "GET" and safe else (method,):
            if name in methods:
                raise ValueError(f"{name} {template} is there twice")
            methods[name] = handler

    def find(self, method: str, path: str) -> tuple[_HandlerT, dict[str, str]]:
        """Returns the handler and the fields in the path; raises ROUTE_NOT_FOUND or METHOD_NOT_ALLOWED."""
        methods, fields = self._methods(path)
        handler = methods.get(method)
        if handler is None:
            allow = allowed(methods)
            raise MessmailError(Reason.ERROR_REASON_METHOD_NOT_ALLOWED, f"this path has {allow}", allow=allow)
        return handler, fields

    def methods(self, path: str) -> str:
        """Returns the methods of a path as the Allow header writes them; raises ROUTE_NOT_FOUND."""
        return allowed(self._methods(path)[0])

    def _methods(self, path: str) -> tuple[dict[str, _HandlerT], dict[str, str]]:
        methods = self._fixed.get(path)
        if methods is not None:
            return methods, {}
        for pattern, methods in self._templates.values():
            match = pattern.fullmatch(path)
            if match:
                return methods, match.groupdict()
        raise MessmailError(Reason.ERROR_REASON_ROUTE_NOT_FOUND, "there is nothing under this path")


def allowed(methods: Iterable[str]) -> str:
    """Writes an Allow header; OPTIONS is answered everywhere."""
    return ", ".join(sorted({*methods, "OPTIONS"}))
