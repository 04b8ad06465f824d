"""Access tokens are verified narrowly: whatever was not issued here is refused, and nothing crashes the verifier."""

from __future__ import annotations

import base64
import json
import time
import uuid
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from servicekit.errors import MessmailError, Reason
from servicekit.tokens import TokenVerifier

ISSUER = "https://mail.example"
PRIVATE = ec.generate_private_key(ec.SECP256R1())
STRANGER = ec.generate_private_key(ec.SECP256R1())


class Ring:
    """A key set with one key, which can be taken out."""

    def __init__(self) -> None:
        self.keys = {"k1": PRIVATE.public_key()}

    def key(self, kid: str) -> EllipticCurvePublicKey | None:
        return self.keys.get(kid)


def claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    client = str(uuid.uuid4())
    base = {
        "iss": ISSUER, "aud": "messmail", "exp": now + 600, "iat": now, "jti": "j", "sub": client, "client_id": client,
        "scope": "newsletter:send.write", "tenant_id": str(uuid.uuid4()), "usage": "tenant_api",
    }  # fmt: skip
    return {key: value for key, value in (base | changes).items() if value is not None}


def sign(payload: dict[str, Any], key: Any = PRIVATE, algorithm: str = "ES256", **header: Any) -> str:
    headers = {key: value for key, value in ({"typ": "at+jwt", "kid": "k1"} | header).items() if value is not None}
    return jwt.encode(payload, key, algorithm=algorithm, headers=headers)


def part(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def public_pem() -> bytes:
    return PRIVATE.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def unsigned(algorithm: str) -> str:
    return f"{part({'alg': algorithm, 'typ': 'at+jwt', 'kid': 'k1'})}.{part(claims())}."


def hs256_with_public_key() -> str:
    import hashlib
    import hmac

    head = f"{part({'alg': 'HS256', 'typ': 'at+jwt', 'kid': 'k1'})}.{part(claims())}"
    mac = hmac.new(public_pem(), head.encode(), hashlib.sha256).digest()
    return f"{head}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


FORGED = {
    "alg none": unsigned("none"),
    "alg nOnE": unsigned("nOnE"),
    "HS256 with the public key": hs256_with_public_key(),
    "a stranger's key": sign(claims(), STRANGER),
    "unknown kid": sign(claims(), kid="k2"),
    "no kid": sign(claims(), kid=None),
    "kid that is a path": sign(claims(), kid="../../etc/passwd"),
    "kid that is a number": f"{part({'alg': 'ES256', 'typ': 'at+jwt', 'kid': 7})}.{part(claims())}.AAAA",
    "embedded jwk": sign(claims(), STRANGER, jwk={"kty": "EC"}),
    "jku": sign(claims(), jku="https://evil.example/jwks"),
    "x5u": sign(claims(), x5u="https://evil.example/x5u"),
    "crit": sign(claims(), crit=["x"]),
    "typ JWT": sign(claims(), typ="JWT"),
    "no typ": sign(claims(), typ=None),
    "issuer with a suffix": sign(claims(iss=ISSUER + ".evil.example")),
    "issuer with a slash": sign(claims(iss=ISSUER + "/")),
    "no issuer": sign(claims(iss=None)),
    "another audience": sign(claims(aud="other")),
    "no audience": sign(claims(aud=None)),
    "no expiry": sign(claims(exp=None)),
    "expiry that is a word": f"{part({'alg': 'ES256', 'typ': 'at+jwt', 'kid': 'k1'})}.{part(claims(exp='x'))}.AAAA",
    "issued in the future": sign(claims(iat=int(time.time()) + 3600)),
    "not before the future": sign(claims(nbf=int(time.time()) + 3600)),
    "a tenant token without tenant": sign(claims(tenant_id=None)),
    "an internal token with a tenant": sign(claims(usage="internal")),
    "a client id that is none": sign(claims(client_id="x")),
    "truncated signature": sign(claims())[:-10],
    "two parts": ".".join(sign(claims()).split(".")[:2]),
    "nothing": "",
    "dots": "..",
    "a megabyte": "A" * 1_000_000,
    "not ASCII": "é.é.é",
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_token_is_refused(name: str) -> None:
    with pytest.raises(MessmailError) as refused:
        TokenVerifier(ISSUER, Ring(), lambda _: False).verify(FORGED[name])
    assert refused.value.reason == Reason.ERROR_REASON_TOKEN_INVALID


def test_a_good_token_is_accepted_until_its_key_leaves_the_key_set() -> None:
    ring = Ring()
    verifier = TokenVerifier(ISSUER, ring, lambda _: False)
    token = sign(claims())
    assert verifier.verify(token).scopes == {"newsletter:send.write"}
    assert verifier.verify(token).usage == "tenant_api"
    del ring.keys["k1"]
    with pytest.raises(MessmailError) as refused:
        verifier.verify(token)
    assert refused.value.reason == Reason.ERROR_REASON_TOKEN_INVALID


def test_a_good_token_is_refused_once_it_is_revoked() -> None:
    revoked: set[str] = set()
    verifier = TokenVerifier(ISSUER, Ring(), lambda found: found.token_id in revoked)
    token = sign(claims(jti="one"))
    assert verifier.verify(token).token_id == "one"
    revoked.add("one")
    with pytest.raises(MessmailError) as refused:
        verifier.verify(token)
    assert refused.value.reason == Reason.ERROR_REASON_TOKEN_INVALID
    assert verifier.verify(sign(claims(jti="other"))).token_id == "other"


def test_an_expired_token_is_refused_as_expired() -> None:
    with pytest.raises(MessmailError) as refused:
        TokenVerifier(ISSUER, Ring(), lambda _: False).verify(sign(claims(exp=int(time.time()) - 60)))
    assert refused.value.reason == Reason.ERROR_REASON_TOKEN_EXPIRED


def test_a_token_verified_before_is_refused_once_it_has_expired(monkeypatch: pytest.MonkeyPatch) -> None:
    verifier = TokenVerifier(ISSUER, Ring(), lambda _: False)
    token = sign(claims())
    verifier.verify(token)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3600)
    with pytest.raises(MessmailError) as refused:
        verifier.verify(token)
    assert refused.value.reason == Reason.ERROR_REASON_TOKEN_EXPIRED
