"""Access tokens that nobody issued, made from one that somebody did; each is wrong in one way more than its signature.

A stranger has the published keys and a key of their own, never the issuer's.
"""

import base64
import hashlib
import hmac
import json
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.stack import Stack


def forged_tokens(stack: Stack, token: str) -> dict[str, str]:
    """Makes the forgeries of a good token, each by its name."""
    header = jwt.get_unverified_header(token)
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    published = next(
        key for key in stack.site.get("/.well-known/jwks.json").answer["keys"] if key["kid"] == header["kid"]
    )
    pem = jwt.PyJWK(published).key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    stranger = ec.generate_private_key(ec.SECP256R1())

    def sign(changed_claims: dict[str, Any] | None = None, **changed_header: Any) -> str:
        return jwt.encode(claims | (changed_claims or {}), stranger, "ES256", headers=header | changed_header)

    return {
        "HS256 with the published key": _sign_hs256(header | {"alg": "HS256"}, claims, pem),
        "HS256 with the published JWK": _sign_hs256(header | {"alg": "HS256"}, claims, json.dumps(published).encode()),
        "a stranger's key": sign(),
        "jku": sign(jku=f"{stack.http}/.well-known/jwks.json"),
        "a foreign kid": sign(kid="somebody-elses"),
        "a wrong iss": sign({"iss": "https://evil.example"}),
        "a wrong aud": sign({"aud": "another-service"}),
        "a wrong typ": sign(typ="JWT"),
    }


def _sign_hs256(header: dict[str, Any], claims: dict[str, Any], secret: bytes) -> str:
    # By hand: the library refuses to take a public key for a secret.
    signed = b".".join(_encode(json.dumps(part).encode()) for part in (header, claims))
    return (signed + b"." + _encode(hmac.digest(secret, signed, hashlib.sha256))).decode()


def _encode(part: bytes) -> bytes:
    return base64.urlsafe_b64encode(part).rstrip(b"=")
