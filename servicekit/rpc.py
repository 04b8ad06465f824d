"""The one interceptor that every RPC passes, in this order.

arrival         the message is waited for a few seconds only; to gRPC every call is one of many messages, which it hands
                out as they come
request id      first, so that every answer and log line carries it
errors          around all that follows: whatever is raised leaves as a status of the contract, without a trace; what
                somebody was not allowed to do goes into the audit log
peer            under mutual TLS only callers whose certificate has an allowed name get any further
deadline        work that cannot be answered in time is not begun
access          before validation, so that a stranger learns nothing about the fields
size            before the message is parsed; told after access, like what cannot be parsed
validation      the rules on the fields (protovalidate), then the tenant_id against the token
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, NoReturn, TypeAlias

import grpc
import protovalidate
import structlog
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import DecodeError, Message

from messmail.options.v1 import options_pb2
from servicekit.access import (
    FORWARDED_IP,
    FORWARDED_USER_AGENT,
    GATEWAY_AUTHORIZATION,
    REQUEST_ID,
    Caller,
    CallerKind,
    access_of,
    authorize,
    bearer_token,
    clean_request_id,
    is_gateway,
    set_caller,
)
from servicekit.arrival import Arrivals
from servicekit.audit import AuditLog, Event
from servicekit.errors import FieldViolation, MessmailError, Reason, to_grpc_status
from servicekit.mutual_tls import check_name
from servicekit.telemetry import bind_request_id
from servicekit.tokens import TokenVerifier

DEFAULT_DEADLINE_SECONDS = 10.0
_LEAST_TIME_SECONDS = 0.1
# Of what a tenant or a stranger may call. REST may allow an RPC more; its JSON is larger than its message but for the
# names of the fields. Calls between services are bounded by the server.
_MAX_REQUEST_BYTES = 1024 * 1024
_FRAME_BYTES = 4096
_NOT_ALLOWED = {
    Reason.ERROR_REASON_PEER_NOT_ALLOWED,
    Reason.ERROR_REASON_TOKEN_MISSING,
    Reason.ERROR_REASON_TOKEN_INVALID,
    Reason.ERROR_REASON_TOKEN_EXPIRED,
    Reason.ERROR_REASON_SCOPE_MISSING,
    Reason.ERROR_REASON_TENANT_MISMATCH,
}

# The empty text, which stands first, is what is not said.
_IN_LIST = re.compile(r"must be in list \[(?:, )?(.*)\]")

# A message, or what is wrong with it.
_Received: TypeAlias = Message | MessmailError

_log = structlog.get_logger()
_validator = protovalidate.Validator()
_deadline: ContextVar[float] = ContextVar("deadline")


def time_left() -> float:
    """Returns the seconds until the caller of the RPC under way stops waiting; the default outside an RPC."""
    end = _deadline.get(None)
    return DEFAULT_DEADLINE_SECONDS if end is None else end - time.monotonic()


def validate(request: Message) -> None:
    """Raises INVALID_FIELD with every violated field rule of the contract."""
    violations = _validator.collect_violations(request)
    if not violations:
        return
    fields = []
    for violation in violations:
        elements = violation.proto.field.elements if violation.proto.field else ()
        path = ".".join(element.field_name for element in elements)
        text = violation.proto.message
        # A rule on the whole message names its field at the start of its text.
        if not path:
            path, _, text = text.partition(": ")
        fields.append(FieldViolation(path, _in_plain_words(text)))
    raise MessmailError(
        Reason.ERROR_REASON_INVALID_FIELD, f"{fields[0].field}: {fields[0].description}", violations=fields
    )


def _in_plain_words(text: str) -> str:
    """Says what the library says of a length and of a list as people say it."""
    if text == "must be at least 1 characters":
        return "value is required"
    return _IN_LIST.sub(r"must be one of \1", text)


def max_request_bytes(method: MethodDescriptor) -> int | None:
    """Returns the size in bytes above which a request is refused unread; None: what the server takes at all."""
    access = access_of(method)
    if access is None or not (access.public or access.tenant_scope):
        return None
    face = method.GetOptions().Extensions[options_pb2.http_face]
    return max(_MAX_REQUEST_BYTES, face.max_body_bytes) + _FRAME_BYTES


def _bounded(parse: Callable[[bytes], Message], max_bytes: int | None) -> Callable[[bytes], _Received]:
    """Parses a message unless it is too large, and returns what is wrong: gRPC takes what is raised for our fault."""

    def read(sent: bytes) -> _Received:
        if max_bytes is not None and len(sent) > max_bytes:
            return MessmailError(
                Reason.ERROR_REASON_BODY_TOO_LARGE,
                f"send at most {max_bytes} bytes here",
                max_bytes=str(max_bytes),
            )
        try:
            return parse(sent)
        except DecodeError:
            return MessmailError(
                Reason.ERROR_REASON_MALFORMED_BODY, "the message is not one of this call, or is nested too deeply"
            )

    return read


class Guard(grpc.ServerInterceptor):
    """Passes a call on only when it may be made and is well-formed, and answers its errors."""

    def __init__(
        self,
        methods: Mapping[str, MethodDescriptor],
        verifier: TokenVerifier,
        audit: AuditLog | None = None,
        allowed_names: frozenset[str] | None = None,
        *,
        arrivals: Arrivals,
    ) -> None:
        self._access: dict[str, options_pb2.Access] = {}
        self._max_bytes = {path: max_request_bytes(method) for path, method in methods.items()}
        for path, method in methods.items():
            access = access_of(method)
            if access is None:
                raise RuntimeError(f"{path} has no access option: say in its .proto who may call it")
            self._access[path] = access
        self._verifier = verifier
        self._audit = audit
        self._allowed_names = allowed_names
        self._arrivals = arrivals
        # A handler is the same for every call, and is wrapped once.
        self._guarded: dict[str, Any] = {}

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Any],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wraps the handler of an RPC of the contract; of others (health, reflection), only the arrival is bounded."""
        path = handler_call_details.method
        guarded = self._guarded.get(path)
        if guarded is not None:
            return guarded
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        access = self._access.get(path)
        guarded = self._bound_arrival(handler) if access is None else self._guard(path, access, handler)
        self._guarded[path] = guarded
        return guarded

    def _guard(self, path: str, access: options_pb2.Access, handler: Any) -> Any:
        read = _bounded(handler.request_deserializer, self._max_bytes[path])

        if handler.response_streaming:
            stream = handler.unary_stream

            def answer_stream(received: Iterator[_Received], context: grpc.ServicerContext) -> Iterator[Message]:
                request = self._arrivals.first(received, context)
                metadata = _metadata(context)
                request_id = _request_id(metadata, context)
                with bind_request_id(request_id):
                    try:
                        yield from stream(self._admit(path, access, request, request_id, metadata, context), context)
                    except Exception as error:
                        self._refuse(error, path, request_id, context)

            return grpc.stream_stream_rpc_method_handler(answer_stream, read, handler.response_serializer)

        unary = handler.unary_unary

        def answer(received: Iterator[_Received], context: grpc.ServicerContext) -> Any:
            request = self._arrivals.first(received, context)
            metadata = _metadata(context)
            request_id = _request_id(metadata, context)
            with bind_request_id(request_id):
                try:
                    return unary(self._admit(path, access, request, request_id, metadata, context), context)
                except Exception as error:
                    self._refuse(error, path, request_id, context)

        return grpc.stream_unary_rpc_method_handler(answer, read, handler.response_serializer)

    def _bound_arrival(self, handler: Any) -> Any:
        unary = handler.unary_unary
        if unary is None:
            # Health's Watch has a thread of its own.
            return handler

        def answer(received: Iterator[Message], context: grpc.ServicerContext) -> Any:
            request = self._arrivals.first(received, context)
            if request is None:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "a call has one message, and this one had none")
            return unary(request, context)

        return grpc.stream_unary_rpc_method_handler(answer, handler.request_deserializer, handler.response_serializer)

    def _admit(
        self,
        path: str,
        access: options_pb2.Access,
        request: _Received | None,
        request_id: str,
        metadata: Mapping[str, str],
        context: grpc.ServicerContext,
    ) -> Message:
        # Threads are reused: whoever called before has nothing to do with this call.
        set_caller(Caller(CallerKind.ANONYMOUS, request_id))
        if self._allowed_names is not None:
            check_name(context, self._allowed_names)
        remaining = context.time_remaining()
        # Without a deadline of the caller's, gRPC answers a number of years.
        seconds = DEFAULT_DEADLINE_SECONDS if remaining is None or remaining > 86_400 else remaining
        if seconds < _LEAST_TIME_SECONDS:
            raise MessmailError(Reason.ERROR_REASON_DEADLINE_EXCEEDED, "the deadline leaves too little time to answer")
        _deadline.set(time.monotonic() + seconds)
        caller = self._identify(access, request_id, metadata, context)
        set_caller(caller)
        if request is None:
            raise MessmailError(Reason.ERROR_REASON_MALFORMED_BODY, "a call has one message, and this one had none")
        if isinstance(request, MessmailError):
            raise request
        validate(request)
        tenant_id = getattr(request, "tenant_id", "")
        caller.check_tenant(tenant_id)
        # What is for internal callers only names tenants all the time; the rest, tenants could have called themselves.
        for_tenants = access.public or access.tenant_scope
        if self._audit and caller.kind is CallerKind.INTERNAL and for_tenants and tenant_id:
            self._audit.record(Event.of_caller("acted_for_tenant", rpc=path, tenant_id=tenant_id))
        return request

    def _identify(
        self,
        access: options_pb2.Access,
        request_id: str,
        metadata: Mapping[str, str],
        context: grpc.ServicerContext,
    ) -> Caller:
        authorization = metadata.get("authorization")
        claims = self._verifier.verify(bearer_token(authorization)) if authorization else None
        if claims is not None:
            known = CallerKind.INTERNAL if claims.tenant_id is None else CallerKind.TENANT
            set_caller(Caller(known, request_id, claims.client_id, claims.tenant_id))
        kind = authorize(access, claims)
        if is_gateway(self._verifier, metadata.get(GATEWAY_AUTHORIZATION)):
            ip = metadata.get(FORWARDED_IP, "")
            user_agent = metadata.get(FORWARDED_USER_AGENT, "")
        else:
            ip, user_agent = peer_ip(context.peer()), ""
        if claims is None:
            return Caller(kind, request_id, ip=ip, user_agent=user_agent)
        return Caller(kind, request_id, claims.client_id, claims.tenant_id, claims.scopes, ip, user_agent)

    def _refuse(self, error: Exception, path: str, request_id: str, context: grpc.ServicerContext) -> NoReturn:
        if isinstance(error, MessmailError):
            _log.info("rpc.refused", rpc=path, reason=error.status.name)
            if self._audit and error.reason in _NOT_ALLOWED:
                try:
                    self._audit.record(Event.of_caller("call_refused", rpc=path, reason=error.status.name))
                except MessmailError as unwritten:
                    error = unwritten
        else:
            _log.error("rpc.crashed", rpc=path, exc_info=error)
            error = MessmailError(Reason.ERROR_REASON_INTERNAL, "something went wrong here: tell us the request id")
        context.abort_with_status(to_grpc_status(error, request_id))


def _request_id(metadata: Mapping[str, str], context: grpc.ServicerContext) -> str:
    request_id = clean_request_id(metadata.get(REQUEST_ID), uuid.uuid4().hex)
    context.set_trailing_metadata(((REQUEST_ID, request_id),))
    return request_id


def _metadata(context: grpc.ServicerContext) -> dict[str, str]:
    """Reads the metadata; what is there twice becomes one text that is good for nothing, as in HTTP."""
    metadata: dict[str, str] = {}
    for key, value in context.invocation_metadata():
        text = value if isinstance(value, str) else value.decode("utf-8", "replace")
        metadata[key] = f"{metadata[key]}, {text}" if key in metadata else text
    return metadata


def peer_ip(peer: str) -> str:
    """Takes the IP address out of gRPC's name for a peer, such as ipv4:127.0.0.1:4711 or ipv6:[::1]:4711."""
    _, _, address = peer.partition(":")
    return address.rpartition(":")[0].strip("[]").replace("%5B", "").replace("%5D", "")
