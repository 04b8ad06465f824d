"""Verifying access tokens: ES256 JWTs as RFC 9068 profiles them.

Issuing them is Member Center's. Verification is deliberately narrow: one algorithm, one key type, no key material taken
from the token itself, every claim that matters required.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from servicekit.errors import MessmailError, Reason
from servicekit.json_bounds import without_twins

ALGORITHM = "ES256"
TOKEN_TYPE = "at+jwt"
AUDIENCE = "messmail"
MAX_TOKEN_BYTES = 8192
LEEWAY_SECONDS = 5
_CACHED_TOKENS = 10_000
_HEADER_PARAMETERS = {"alg", "typ", "kid"}
_REQUIRED = ["iss", "aud", "exp", "iat", "jti", "sub", "client_id", "scope", "usage"]


@dataclass(frozen=True, slots=True)
class Claims:
    """What a verified token says of its holder. tenant_id is None for internal clients."""

    token_id: str
    client_id: UUID
    tenant_id: UUID | None
    usage: str
    scopes: frozenset[str]
    issued_at: int
    expires_at: int


class VerificationKeys(Protocol):
    """Where the issuer's public keys come from."""

    def key(self, kid: str) -> EllipticCurvePublicKey | None:
        """Returns the key that may verify tokens now; None when there is none (any more)."""


class TokenVerifier:
    """Verifies tokens of one issuer, and remembers those it has verified.

    A remembered token is still refused once it has expired, has been revoked, or its key has left the key set.
    """

    def __init__(self, issuer: str, keys: VerificationKeys, is_revoked: Callable[[Claims], bool]) -> None:
        self._issuer = issuer
        self._keys = keys
        self._is_revoked = is_revoked
        self._verified: OrderedDict[str, tuple[str, EllipticCurvePublicKey, Claims]] = OrderedDict()
        self._lock = threading.Lock()

    def verify(self, token: str) -> Claims:
        """Returns the claims of a good token; raises TOKEN_INVALID or TOKEN_EXPIRED otherwise.

        Raises UNAVAILABLE when it cannot be told whether the token has been revoked.
        """
        claims = self._verify_itself(token)
        if self._is_revoked(claims):
            raise _invalid()
        return claims

    def _verify_itself(self, token: str) -> Claims:
        with self._lock:
            known = self._verified.get(token)
        if known is not None:
            kid, key, claims = known
            if claims.expires_at + LEEWAY_SECONDS <= time.time():
                raise _expired()
            if self._keys.key(kid) is key:
                return claims
        return self._verify_anew(token)

    def _verify_anew(self, token: str) -> Claims:
        # Before any base64: a token of megabytes costs nothing (CVE-2025-61920).
        if len(token) > MAX_TOKEN_BYTES:
            raise _invalid()
        try:
            header = _check_form(token)
            if set(header) != _HEADER_PARAMETERS or header["alg"] != ALGORITHM or header["typ"] != TOKEN_TYPE:
                raise _invalid()
            key = self._keys.key(header["kid"])
            if key is None:
                raise _invalid()
            payload = jwt.decode(
                token,
                key,
                algorithms=[ALGORITHM],
                audience=AUDIENCE,
                issuer=self._issuer,
                leeway=LEEWAY_SECONDS,
                options={"strict_aud": True, "require": _REQUIRED},
            )
            claims = Claims(
                token_id=str(payload["jti"]),
                client_id=UUID(payload["client_id"]),
                tenant_id=UUID(payload["tenant_id"]) if "tenant_id" in payload else None,
                usage=str(payload["usage"]),
                scopes=frozenset(str(payload["scope"]).split()),
                issued_at=int(payload["iat"]),
                expires_at=int(payload["exp"]),
            )
        except jwt.ExpiredSignatureError as error:
            raise _expired() from error
        except (jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise _invalid() from error
        # A tenant's token names its tenant and an internal one does not: anything else was never issued.
        if (claims.usage == "tenant_api") != (claims.tenant_id is not None):
            raise _invalid()
        with self._lock:
            self._verified[token] = (header["kid"], key, claims)
            while len(self._verified) > _CACHED_TOKENS:
                self._verified.popitem(last=False)
        return claims


def _check_form(token: str) -> dict[str, Any]:
    """Returns the header of a token that has one form only; raises ValueError for any other.

    Lenient readers disagree about what they read, so what could be read in two ways is refused (RFC 8725 2.4): base64
    that is not the one of its bytes, JSON that is not UTF-8 or has a name twice, and times that are not whole numbers.
    """
    header_part, payload_part, signature_part = token.split(".")
    decoded = []
    for part in (header_part, payload_part, signature_part):
        raw = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
        if base64.urlsafe_b64encode(raw).rstrip(b"=").decode() != part:
            raise ValueError("not the base64 of its bytes")
        decoded.append(raw)
    header, payload = (json.loads(raw.decode(), object_pairs_hook=without_twins) for raw in decoded[:2])
    if not isinstance(header, dict) or not isinstance(header.get("kid"), str) or not isinstance(payload, dict):
        raise ValueError("not a token")
    if any(type(payload[name]) is not int for name in ("exp", "iat", "nbf") if name in payload):
        raise ValueError("a time that is no number")
    return header


def _invalid() -> MessmailError:
    return MessmailError(Reason.ERROR_REASON_TOKEN_INVALID, "the access token is not valid: ask for a new one")


def _expired() -> MessmailError:
    return MessmailError(Reason.ERROR_REASON_TOKEN_EXPIRED, "the access token has expired: ask for a new one")
