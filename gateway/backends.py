"""Calls the services behind the gateway, and says on whose behalf.

A service believes what is forwarded (address and browser of the caller) only beside the gateway's own token. The
caller's own token is passed on untouched: services verify it themselves.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc
import structlog
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2

from gateway.exchange import HttpRequest
from messmail.member_center.v1 import member_center_pb2, member_center_pb2_grpc
from servicekit.access import FORWARDED_IP, FORWARDED_USER_AGENT, GATEWAY_AUTHORIZATION, REQUEST_ID
from servicekit.clients import CHANNEL_OPTIONS
from servicekit.errors import MessmailError, Reason, from_rpc_error
from servicekit.mutual_tls import MutualTls

CALL_SECONDS = 10.0
HEALTH_SECONDS = 2.0
# gRPC refuses metadata above 8 KiB now and then; our own tokens have less than 1 KiB.
MAX_AUTHORIZATION = 4096
MAX_USER_AGENT_BYTES = 500
_FETCH_SECONDS = 3.0
_RETRY_SECONDS = 1.0
_RENEW_SECONDS = 60.0
_KEEP_SECONDS = 5.0
_LONG_AGO = float("-inf")
_BAD_TOKEN = {Reason.ERROR_REASON_TOKEN_INVALID, Reason.ERROR_REASON_TOKEN_EXPIRED}

_log = structlog.get_logger()

# The message, the request it came in, and the caller's own Authorization, which may be empty.
Call: TypeAlias = Callable[[Message, HttpRequest, str], Awaitable[Message]]


def open_channel(address: str, tls: MutualTls | None = None) -> grpc.aio.Channel:
    """Opens a channel to HOST:PORT for the running event loop. Nothing is dialled until the first call."""
    if tls is not None:
        return grpc.aio.secure_channel(address, tls.of_client(), options=CHANNEL_OPTIONS)
    return grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)


class GatewayToken:
    """The gateway's own access token, fetched once for all who wait, and renewed in the background before it expires.

    After a failure it is asked for again only a moment later, so that a Member Center which hangs delays few calls.
    """

    def __init__(self, member_center: grpc.aio.Channel, client_id: str, client_secret: str) -> None:
        self._stub = member_center_pb2_grpc.MemberCenterStub(member_center)
        self._request = member_center_pb2.IssueTokenRequest(
            grant_type="client_credentials", client_id=client_id, client_secret=client_secret
        )
        self._token = ""
        self._fetched_at = self._fetch_at = self._expires_at = _LONG_AGO
        self._fetching: asyncio.Task[None] | None = None
        self._failure = _unidentified()

    async def current(self) -> str:
        """Returns a token that is still good; raises what the token endpoint answered when there is none."""
        if time.monotonic() >= self._fetch_at and (self._fetching is None or self._fetching.done()):
            self._fetching = asyncio.create_task(self._fetch())
        if time.monotonic() >= self._expires_at:
            if self._fetching is not None:
                await asyncio.shield(self._fetching)
            if time.monotonic() >= self._expires_at:
                raise self._failure
        return self._token

    def replace(self, token: str) -> bool:
        """Drops a token that may have been refused; False when it is too young for another to be any better.

        A refusal can be due to the caller's own bad token: callers must not be able to make us fetch without end.
        """
        if token == self._token:
            if time.monotonic() - self._fetched_at < _KEEP_SECONDS:
                return False
            self._fetch_at = self._expires_at = _LONG_AGO
        return True

    async def _fetch(self) -> None:
        try:
            answer = await self._stub.IssueToken(self._request, timeout=_FETCH_SECONDS)
        except grpc.RpcError as error:
            self._failure = from_rpc_error(error)
            self._fetch_at = time.monotonic() + _RETRY_SECONDS
            return
        self._token = answer.access_token
        self._fetched_at = time.monotonic()
        self._expires_at = self._fetched_at + answer.expires_in
        self._fetch_at = self._expires_at - min(_RENEW_SECONDS, answer.expires_in / 2)


class Backend:
    """One service behind the gateway."""

    def __init__(self, name: str, service: ServiceDescriptor, channel: grpc.aio.Channel, token: GatewayToken) -> None:
        self.name = name
        self.service = service
        self._channel = channel
        self._token = token
        self._check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )

    def call(self, rpc: MethodDescriptor, seconds: float) -> Call:
        """Returns what calls an RPC for a request and raises MessmailError; seconds is the deadline."""
        stub = self._channel.unary_unary(
            f"/{self.service.full_name}/{rpc.name}",
            request_serializer=GetMessageClass(rpc.input_type).SerializeToString,
            response_deserializer=GetMessageClass(rpc.output_type).FromString,
        )

        async def call(message: Message, request: HttpRequest, authorization: str) -> Message:
            metadata = _forwarded(request, authorization)
            token = await self._own_token(authorization)
            try:
                return await _invoke(stub, message, metadata, token, seconds)
            except MessmailError as error:
                if error.reason not in _BAD_TOKEN or not token:
                    raise
                if not self._token.replace(token):
                    raise _blame(error, authorization) from error
            try:
                return await _invoke(stub, message, metadata, await self._own_token(authorization), seconds)
            except MessmailError as error:
                raise _blame(error, authorization) from error

        return call

    async def state(self) -> str:
        """Returns the service's health as a word: "serving", or what keeps it from that."""
        try:
            answer = await self._check(
                health_pb2.HealthCheckRequest(service=self.service.full_name), timeout=HEALTH_SECONDS
            )
        except grpc.RpcError as error:
            return str(error.code().name).lower()
        return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status).lower()

    async def _own_token(self, authorization: str) -> str:
        """Returns the gateway's token; none for a caller with a token of its own when Member Center issues none.

        Such a caller is known by its token. An anonymous one is known by its address alone, so without our token its
        call would be judged, and its consent recorded, by our own address.
        """
        try:
            return await self._token.current()
        except MessmailError as error:
            _log.warning("gateway_token.unavailable", reason=error.status.name)
            if authorization:
                return ""
            raise _unidentified() from error


async def _invoke(stub: Any, message: Message, metadata: list[tuple[str, Any]], token: str, seconds: float) -> Message:
    own = [(GATEWAY_AUTHORIZATION, f"Bearer {token}")] if token else []
    try:
        answer: Message = await stub(message, metadata=(*metadata, *own), timeout=seconds)
    except grpc.RpcError as error:
        raise from_rpc_error(error) from error
    return answer


def _forwarded(request: HttpRequest, authorization: str) -> list[tuple[str, Any]]:
    metadata: list[tuple[str, Any]] = [(REQUEST_ID, request.request_id), (FORWARDED_IP, request.client_ip)]
    if authorization:
        if len(authorization) > MAX_AUTHORIZATION or not authorization.isascii() or not authorization.isprintable():
            raise MessmailError(
                Reason.ERROR_REASON_TOKEN_INVALID, "the Authorization header must read 'Bearer <ACCESS_TOKEN>'"
            )
        metadata.append(("authorization", authorization))
    user_agent = request.headers.get("user-agent", "").encode("latin-1")[:MAX_USER_AGENT_BYTES]
    if user_agent:
        metadata.append((FORWARDED_USER_AGENT, user_agent))
    return metadata


def _blame(error: MessmailError, authorization: str) -> MessmailError:
    """A caller that sent no token cannot be told that it is bad: then it was ours."""
    if error.reason in _BAD_TOKEN and not authorization:
        _log.error("gateway_token.refused", reason=error.status.name)
        return _unidentified()
    return error


def _unidentified() -> MessmailError:
    return MessmailError(
        Reason.ERROR_REASON_UNAVAILABLE, "the gateway cannot identify itself at the moment", retry_after=1.0
    )
