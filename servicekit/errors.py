"""The one error type of Messmail and its way over gRPC.

Nouns raise MessmailError with a reason of the contract; the interceptor turns it into a gRPC status, and a client turns
that back. How a reason is answered (gRPC code, HTTP status, OAuth error, title) is written in
proto/messmail/errors/v1/errors.proto and read from its descriptor here, nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import cast

import grpc
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from messmail.errors.v1 import errors_pb2

Reason = errors_pb2.ErrorReason
DOMAIN = "messmail"
_PREFIX = "ERROR_REASON_"
_GRPC_CODES = {code.value[0]: code for code in grpc.StatusCode}


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field that is wrong: its path in the request, and what is wrong and would be right."""

    field: str
    description: str


@dataclass(frozen=True, slots=True)
class ReasonStatus:
    """How a reason is answered on each face."""

    name: str
    grpc_code: grpc.StatusCode
    http: int
    oauth_error: str
    title: str


class MessmailError(Exception):
    """A refusal with a stable reason.

    The message is for the caller's eyes: it says what is wrong and what would be right, and carries no secret, token or
    address. Metadata are short machine-readable facts. retry_after is in seconds.
    """

    def __init__(
        self,
        reason: errors_pb2.ErrorReason.ValueType,
        message: str,
        *,
        violations: Sequence[FieldViolation] = (),
        retry_after: float | None = None,
        **metadata: str,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.violations = tuple(violations)
        self.retry_after = retry_after
        self.metadata = metadata

    @property
    def status(self) -> ReasonStatus:
        """How the reason is answered."""
        return reason_status(self.reason)


def invalid_field(field: str, description: str) -> MessmailError:
    """Makes the error for one bad field."""
    return MessmailError(
        Reason.ERROR_REASON_INVALID_FIELD,
        f"{field}: {description}",
        violations=[FieldViolation(field, description)],
    )


@cache
def reason_status(reason: errors_pb2.ErrorReason.ValueType) -> ReasonStatus:
    """Reads from the contract how a reason is answered."""
    value = errors_pb2.ErrorReason.DESCRIPTOR.values_by_number[reason]
    option = value.GetOptions().Extensions[errors_pb2.status]
    return ReasonStatus(
        name=value.name.removeprefix(_PREFIX),
        grpc_code=_GRPC_CODES[option.grpc],
        http=option.http,
        oauth_error=option.oauth_error or "invalid_request",
        title=option.title,
    )


def to_grpc_status(error: MessmailError, request_id: str) -> grpc.Status:
    """Turns an error into a gRPC status with ErrorInfo, and BadRequest and RetryInfo where they apply (AIP-193)."""
    answer = error.status
    status = status_pb2.Status(code=answer.grpc_code.value[0], message=error.message)
    status.details.add().Pack(
        error_details_pb2.ErrorInfo(
            reason=answer.name, domain=DOMAIN, metadata={**error.metadata, "request_id": request_id}
        )
    )
    if error.violations:
        status.details.add().Pack(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(field=v.field, description=v.description)
                    for v in error.violations
                ]
            )
        )
    if error.retry_after is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(round(error.retry_after * 1000))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return rpc_status.to_status(status)


# How Python's gRPC server refuses a call beyond its limit, with the code that a message too large has as well.
_TOO_MANY_CALLS = "Concurrent RPC limit exceeded!"
_WITHOUT_DETAILS = {
    grpc.StatusCode.UNAVAILABLE: (Reason.ERROR_REASON_UNAVAILABLE, "the service does not answer at the moment"),
    grpc.StatusCode.DEADLINE_EXCEEDED: (Reason.ERROR_REASON_DEADLINE_EXCEEDED, "the answer was not ready in time"),
    # A server that is stopping cancels what it has not begun.
    grpc.StatusCode.CANCELLED: (Reason.ERROR_REASON_UNAVAILABLE, "the service was stopping"),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (Reason.ERROR_REASON_BODY_TOO_LARGE, "the message is too large"),
    grpc.StatusCode.UNIMPLEMENTED: (Reason.ERROR_REASON_ROUTE_NOT_FOUND, "the service does not have this call"),
}


def from_rpc_error(error: grpc.RpcError) -> MessmailError:
    """Rebuilds the error that a server raised from what its client caught.

    A status without our ErrorInfo comes from the transport; UNAVAILABLE and DEADLINE_EXCEEDED keep their meaning, and
    everything else is INTERNAL, so that nothing of the transport leaks. A reason newer than this caller is
    INTERNAL or UNAVAILABLE, by its gRPC code.
    """
    # An RpcError of either face (grpc, grpc.aio) answers as a Call does; only the stubs do not say so.
    call = cast(grpc.Call, error)
    status = rpc_status.from_call(call)
    info, bad_request, retry = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.BadRequest(),
        error_details_pb2.RetryInfo(),
    )
    if status is not None:
        for detail in status.details:
            for message in (info, bad_request, retry):
                if detail.Is(message.DESCRIPTOR):
                    detail.Unpack(message)
    if status is None or info.domain != DOMAIN:
        reason, text = _WITHOUT_DETAILS.get(
            call.code(), (Reason.ERROR_REASON_INTERNAL, "something went wrong behind this service")
        )
        if call.details() == _TOO_MANY_CALLS:
            reason, text = Reason.ERROR_REASON_UNAVAILABLE, "the service has too much to do"
        return MessmailError(reason, text, retry_after=1.0 if reason == Reason.ERROR_REASON_UNAVAILABLE else None)
    metadata = {key: value for key, value in info.metadata.items() if key != "request_id"}
    return MessmailError(
        _reason(info.reason, call.code()),
        status.message,
        violations=[FieldViolation(v.field, v.description) for v in bad_request.field_violations],
        retry_after=retry.retry_delay.ToMilliseconds() / 1000 if retry.HasField("retry_delay") else None,
        **metadata,
    )


def _reason(name: str, code: grpc.StatusCode) -> errors_pb2.ErrorReason.ValueType:
    if _PREFIX + name in errors_pb2.ErrorReason.DESCRIPTOR.values_by_name:
        return Reason.Value(_PREFIX + name)
    is_away = code is grpc.StatusCode.UNAVAILABLE
    return Reason.ERROR_REASON_UNAVAILABLE if is_away else Reason.ERROR_REASON_INTERNAL


__all__ = [
    "DOMAIN",
    "FieldViolation",
    "MessmailError",
    "Reason",
    "ReasonStatus",
    "from_rpc_error",
    "invalid_field",
    "reason_status",
    "to_grpc_status",
]
