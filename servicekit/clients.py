"""Calls a service with an internal client's token.

The token is fetched from Member Center when first needed and again shortly before it expires. Every call has a
deadline, carries the request id of the work it belongs to, and raises MessmailError instead of grpc.RpcError.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import structlog

from messmail.member_center.v1 import member_center_pb2, member_center_pb2_grpc
from servicekit.access import REQUEST_ID
from servicekit.errors import MessmailError, Reason, from_rpc_error
from servicekit.mutual_tls import MutualTls

CALL_SECONDS = 10.0
# A token is replaced this long before it expires, so that none expires on its way.
_RENEW_SECONDS = 60.0
CHANNEL_OPTIONS = [
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
    # A peer that was restarted is found again within a second, not after gRPC's default of up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # In spite of its name: how long one attempt to connect may take. A busy peer needs more than a moment to greet.
    ("grpc.min_reconnect_backoff_ms", 5000),
]
_CHANNEL_OPTIONS = [
    *CHANNEL_OPTIONS,
    # Each channel has connections of its own, so that one busy caller does not queue behind another.
    ("grpc.use_local_subchannel_pool", 1),
]


class AccessTokens:
    """The access tokens of one client: the current one, renewed when needed. Safe for threads."""

    def __init__(
        self, member_center: str, client_id: str, client_secret: str, scope: str = "", tls: MutualTls | None = None
    ) -> None:
        self._stub = member_center_pb2_grpc.MemberCenterStub(open_channel(member_center, tls))
        self._request = member_center_pb2.IssueTokenRequest(
            grant_type="client_credentials", client_id=client_id, client_secret=client_secret, scope=scope
        )
        self._lock = threading.Lock()
        self._token = ""
        self._renew_at = 0.0

    def current(self) -> str:
        """Returns a token that is good for a while; raises what the token endpoint answers."""
        with self._lock:
            if time.monotonic() >= self._renew_at:
                try:
                    answer = self._stub.IssueToken(self._request, timeout=CALL_SECONDS)
                except grpc.RpcError as error:
                    raise from_rpc_error(error) from error
                self._token = answer.access_token
                self._renew_at = time.monotonic() + max(1.0, answer.expires_in - _RENEW_SECONDS)
            return self._token

    def discard(self, token: str) -> None:
        """Drops a token that was refused, so that the next call fetches another."""
        with self._lock:
            if token == self._token:
                self._renew_at = 0.0


def open_channel(address: str, tls: MutualTls | None = None) -> grpc.Channel:
    """Opens a channel to a service at HOST:PORT. Nothing is dialled until the first call."""
    if tls is not None:
        return grpc.secure_channel(address, tls.of_client(), options=_CHANNEL_OPTIONS)
    return grpc.insecure_channel(address, options=_CHANNEL_OPTIONS)


def open_internal_channel(address: str, tokens: AccessTokens, tls: MutualTls | None = None) -> grpc.Channel:
    """Opens a channel on which every call carries the client's token and raises MessmailError."""
    return grpc.intercept_channel(open_channel(address, tls), _Authorized(tokens))


class _Authorized(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    def __init__(self, tokens: AccessTokens) -> None:
        self._tokens = tokens

    def intercept_unary_unary(
        self, continuation: Callable[..., Any], details: grpc.ClientCallDetails, request: Any
    ) -> Any:
        """Makes a call; once more, with a fresh token, when the first token was refused."""
        try:
            return self._call(continuation, details, request)
        except MessmailError as error:
            if error.reason not in (Reason.ERROR_REASON_TOKEN_INVALID, Reason.ERROR_REASON_TOKEN_EXPIRED):
                raise
        return self._call(continuation, details, request)

    def _call(self, continuation: Callable[..., Any], details: grpc.ClientCallDetails, request: Any) -> Any:
        token = self._tokens.current()
        call = continuation(_with_token(details, token, details.timeout or CALL_SECONDS), request)
        try:
            call.result()
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNAUTHENTICATED:
                self._tokens.discard(token)
            raise from_rpc_error(error) from error
        return call

    def intercept_unary_stream(
        self, continuation: Callable[..., Any], details: grpc.ClientCallDetails, request: Any
    ) -> Any:
        """Makes a call that answers a stream, without a deadline of its own."""
        call = continuation(_with_token(details, self._tokens.current(), details.timeout), request)
        try:
            yield from call
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        finally:
            call.cancel()


class _Details(grpc.ClientCallDetails):
    def __init__(
        self, details: grpc.ClientCallDetails, metadata: Sequence[tuple[str, str | bytes]], timeout: float | None
    ) -> None:
        self.method = details.method
        self.timeout = timeout
        self.metadata = tuple(metadata)
        self.credentials = details.credentials
        self.wait_for_ready = details.wait_for_ready
        self.compression = details.compression


def _with_token(details: grpc.ClientCallDetails, token: str, timeout: float | None) -> grpc.ClientCallDetails:
    metadata: list[tuple[str, str | bytes]] = [*(details.metadata or ()), ("authorization", f"Bearer {token}")]
    request_id = structlog.contextvars.get_contextvars().get("request_id")
    if request_id:
        metadata.append((REQUEST_ID, request_id))
    return _Details(details, metadata, timeout)
