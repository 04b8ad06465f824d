"""The issuer's public keys, fetched from Member Center and kept fresh.

A key that has left the key set is gone here within REFRESH_SECONDS, a new one is fetched when its first token comes.
While Member Center does not answer, the keys known so far go on verifying.
"""

from __future__ import annotations

import base64
import threading
import time

import grpc
import structlog
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey, EllipticCurvePublicNumbers

from messmail.member_center.v1 import member_center_pb2, member_center_pb2_grpc
from servicekit.clients import open_channel
from servicekit.mutual_tls import MutualTls

REFRESH_SECONDS = 20.0
# Tokens with made-up key ids must not turn into a call each.
_UNKNOWN_KEY_SECONDS = 1.0
_CALL_SECONDS = 2.0

_log = structlog.get_logger()


class FetchedKeys:
    """The verification keys of the issuer at an address. Safe for threads; nothing is fetched before the first use."""

    def __init__(self, member_center: str, tls: MutualTls | None = None) -> None:
        self._channel = open_channel(member_center, tls)
        self._stub = member_center_pb2_grpc.MemberCenterStub(self._channel)
        self._keys: dict[str, EllipticCurvePublicKey] = {}
        self._fetched_at = float("-inf")
        self._lock = threading.Lock()

    def key(self, kid: str) -> EllipticCurvePublicKey | None:
        """Returns the key that may verify tokens now, the same object as long as it stays in the key set."""
        key = self._keys.get(kid)
        least_age = REFRESH_SECONDS if key is not None else _UNKNOWN_KEY_SECONDS
        if time.monotonic() - self._fetched_at < least_age:
            return key
        with self._lock:
            if time.monotonic() - self._fetched_at >= least_age:
                self._fetch()
        return self._keys.get(kid)

    def close(self) -> None:
        """Closes the channel."""
        self._channel.close()

    def _fetch(self) -> None:
        try:
            answer = self._stub.GetJsonWebKeySet(member_center_pb2.GetJsonWebKeySetRequest(), timeout=_CALL_SECONDS)
        except grpc.RpcError as error:
            _log.warning("jwks.unavailable", code=error.code().name)
        else:
            known = self._keys
            self._keys = {jwk.kid: _same_or_new(known.get(jwk.kid), jwk) for jwk in answer.keys if _is_usable(jwk)}
        self._fetched_at = time.monotonic()


def _is_usable(jwk: member_center_pb2.JsonWebKey) -> bool:
    return (jwk.kty, jwk.crv, jwk.alg) == ("EC", "P-256", "ES256")


def _same_or_new(known: EllipticCurvePublicKey | None, jwk: member_center_pb2.JsonWebKey) -> EllipticCurvePublicKey:
    numbers = EllipticCurvePublicNumbers(_number(jwk.x), _number(jwk.y), SECP256R1())
    return known if known is not None and known.public_numbers() == numbers else numbers.public_key()


def _number(text: str) -> int:
    return int.from_bytes(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), "big")
