"""Who may call an RPC, read from its access option, and who is calling.

The caller of the RPC under way is kept in a context variable that the interceptor sets, so a servicer asks caller().
"""

from __future__ import annotations

import re
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum
from uuid import UUID

from google.protobuf.descriptor import MethodDescriptor

from messmail.options.v1 import options_pb2
from servicekit.errors import MessmailError, Reason, invalid_field
from servicekit.tokens import Claims, TokenVerifier

GATEWAY_SCOPE = "internal:gateway"
# The names of the metadata with which the gateway, and only the gateway, tells who called it.
GATEWAY_AUTHORIZATION = "x-messmail-gateway-authorization"
FORWARDED_IP = "x-messmail-client-ip"
FORWARDED_USER_AGENT = "x-messmail-user-agent-bin"
REQUEST_ID = "x-request-id"
_REQUEST_ID_SHAPE = re.compile(r"[A-Za-z0-9._-]{8,64}")


class CallerKind(Enum):
    """What sort of caller is calling."""

    ANONYMOUS = "anonymous"
    TENANT = "tenant"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is calling. ip and user_agent are those of the gateway's caller where the gateway forwarded them."""

    kind: CallerKind
    request_id: str
    client_id: UUID | None = None
    tenant_id: UUID | None = None
    scopes: frozenset[str] = frozenset()
    ip: str = ""
    user_agent: str = ""

    def acting_tenant(self, named: str) -> UUID:
        """Returns the tenant that the call is for: the token's, or the one that an internal caller names.

        Raises TENANT_MISMATCH when a tenant names another, and INVALID_FIELD when an internal caller names none.
        """
        self.check_tenant(named)
        if self.tenant_id is not None:
            return self.tenant_id
        if not named:
            raise invalid_field("tenant_id", "an internal caller must name the tenant it acts for, as a UUID")
        return UUID(named)

    def check_tenant(self, named: str) -> None:
        """Raises TENANT_MISMATCH when a tenant's caller names another tenant."""
        if named and self.tenant_id is not None and UUID(named) != self.tenant_id:
            raise MessmailError(
                Reason.ERROR_REASON_TENANT_MISMATCH,
                "tenant_id: name the tenant of the access token, or leave it out",
            )


_current: ContextVar[Caller] = ContextVar("caller")


def caller() -> Caller:
    """Returns the caller of the RPC under way."""
    return _current.get()


def current_caller() -> Caller | None:
    """Returns the caller of the RPC under way; None outside of one."""
    return _current.get(None)


def set_caller(value: Caller) -> None:
    """Sets the caller of the RPC that this thread carries out. Only the interceptor calls it."""
    _current.set(value)


def access_of(method: MethodDescriptor) -> options_pb2.Access | None:
    """Reads an RPC's access option; None when it has none, or one that admits nobody."""
    access = method.GetOptions().Extensions[options_pb2.access]
    return access if access.public or access.tenant_scope or access.internal_scope else None


def authorize(access: options_pb2.Access, claims: Claims | None) -> CallerKind:
    """Decides whether a caller with these claims may call; raises TOKEN_MISSING or SCOPE_MISSING when not."""
    if claims is None:
        if access.public:
            return CallerKind.ANONYMOUS
        raise token_missing()
    if claims.tenant_id is not None:
        if access.public or (access.tenant_scope and access.tenant_scope in claims.scopes):
            return CallerKind.TENANT
        raise scope_missing(access.tenant_scope)
    if access.internal_scope and access.internal_scope in claims.scopes:
        return CallerKind.INTERNAL
    raise scope_missing(access.internal_scope)


def token_missing() -> MessmailError:
    """Makes the error for a call that needs an access token and has none."""
    return MessmailError(
        Reason.ERROR_REASON_TOKEN_MISSING, "send an access token as 'Authorization: Bearer <ACCESS_TOKEN>'"
    )


def scope_missing(scope: str) -> MessmailError:
    """Makes the error for a token without a scope; where no scope would help, an empty one."""
    if not scope:
        return MessmailError(Reason.ERROR_REASON_SCOPE_MISSING, "this call is not for clients of this kind")
    return MessmailError(Reason.ERROR_REASON_SCOPE_MISSING, f"the access token needs the scope {scope}", scope=scope)


def bearer_token(authorization: str) -> str:
    """Takes the token out of an Authorization value (RFC 6750); raises TOKEN_INVALID when it is no bearer token."""
    scheme, _, token = authorization.partition(" ")
    token = token.lstrip(" ")
    if scheme.lower() != "bearer" or not token or " " in token:
        raise MessmailError(
            Reason.ERROR_REASON_TOKEN_INVALID, "the Authorization header must read 'Bearer <ACCESS_TOKEN>'"
        )
    return token


def clean_request_id(offered: str | None, fresh: str) -> str:
    """Returns the id that a caller offered when it has the shape of one, else a fresh one."""
    return offered if offered and _REQUEST_ID_SHAPE.fullmatch(offered) else fresh


def is_gateway(verifier: TokenVerifier, authorization: str | None) -> bool:
    """Tells whether the gateway's own token accompanies a call, so that what it forwards may be believed."""
    if not authorization:
        return False
    return GATEWAY_SCOPE in verifier.verify(bearer_token(authorization)).scopes
