"""A corpus of access tokens that must not be accepted, each by its name, made with everything a forger could hold.

Most are signed with the issuer's own key, so that nothing but the one thing that is wrong with them can refuse them;
the others by a stranger, who has the published key and a key of their own. Only tests hold the issuer's key.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

LEEWAY = 5
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


@dataclass(frozen=True)
class Forger:
    """What there is to forge with: the issuer's key, the claims and header of a good token, and a stranger's key."""

    key: ec.EllipticCurvePrivateKey
    header: dict[str, Any]
    claims: dict[str, Any]
    # Where a token that names an address of its own key leads to.
    trap: str = "http://127.0.0.1:9"

    def good(self, **changes: Any) -> str:
        """Makes a token as the issuer would, with these claims changed."""
        return self.sign(self.header, self.claims | changes)

    def sign(self, header: Any, payload: Any, key: ec.EllipticCurvePrivateKey | None = None) -> str:
        """Signs any header and payload: objects, or the bytes themselves."""
        signed = f"{part(header)}.{part(payload)}"
        return f"{signed}.{encode(signature_of(key or self.key, signed.encode()))}"

    def forgeries(self) -> dict[str, str]:
        """Returns the corpus."""
        made = [*self._algorithms(), *self._headers(), *self._claims(), *self._times(), *self._texts(), *self._shapes()]
        corpus = dict(made)
        assert len(corpus) == len(made), "two forgeries have one name"
        return corpus

    def _jwk(self, key: ec.EllipticCurvePublicKey) -> dict[str, str]:
        numbers = key.public_numbers()
        x, y = (encode(number.to_bytes(32, "big")) for number in (numbers.x, numbers.y))
        return {"kty": "EC", "crv": "P-256", "x": x, "y": y, "use": "sig", "alg": "ES256", "kid": self.header["kid"]}

    def _algorithms(self) -> Iterator[tuple[str, str]]:
        public = self.key.public_key()
        pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        jwk = self._jwk(public)
        good_signature = self.good().rpartition(".")[2]
        for alg in ("none", "None", "NONE", "nOnE", "none ", ""):
            unsigned = f"{part(self.header | {'alg': alg})}.{part(self.claims)}"
            yield f"alg {alg!r} unsigned", f"{unsigned}."
            yield f"alg {alg!r} with another token's signature", f"{unsigned}.{good_signature}"
            yield f"alg {alg!r} signed", self.sign(self.header | {"alg": alg}, self.claims)
        secrets = {
            "the PEM": pem,
            "the PEM without its last line break": pem.rstrip(),
            "the PEM with CRLF": pem.replace(b"\n", b"\r\n"),
            "the DER": public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
            "the point": public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint),
            "the compressed point": public.public_bytes(Encoding.X962, PublicFormat.CompressedPoint),
            "the JWK": json.dumps(jwk, separators=(",", ":")).encode(),
            "the JWK with blanks": json.dumps(jwk).encode(),
            "the JWK's x": jwk["x"].encode(),
            "the kid": self.header["kid"].encode(),
            "nothing": b"",
        }
        for name, secret in secrets.items():
            for bits in (256, 384, 512):
                signed = f"{part(self.header | {'alg': f'HS{bits}'})}.{part(self.claims)}"
                mac = hmac.digest(secret, signed.encode(), f"sha{bits}")
                yield f"HS{bits} with {name}", f"{signed}.{encode(mac)}"
        others: tuple[Any, ...] = ("ES384", "ES512", "ES256K", "RS256", "PS256", "EdDSA", "es256", "ES256 ", "HS256")
        for other in (*others, None, 256, ["ES256"]):
            yield f"alg {other!r}", self.sign(self.header | {"alg": other}, self.claims)
        yield "no alg", self.sign({name: self.header[name] for name in ("typ", "kid")}, self.claims)

    def _headers(self) -> Iterator[tuple[str, str]]:
        stranger = ec.generate_private_key(ec.SECP256R1())
        yield "a stranger's key", self.sign(self.header, self.claims, stranger)
        certificate = base64.b64encode(b"certificate").decode()
        added: dict[str, Any] = {
            "jwk": self._jwk(stranger.public_key()),
            "jku": f"{self.trap}/jwks.json",
            "x5u": f"{self.trap}/certificate",
            "x5c": [certificate],
            "x5t": encode(hashlib.sha1(b"certificate").digest()),
            "x5t#S256": encode(hashlib.sha256(b"certificate").digest()),
            "crit": ["exp"],
            "b64": False,
            "zip": "DEF",
            "cty": "JWT",
            "enc": "A256GCM",
            "p2c": 2**31,
            "iss": self.claims["iss"],
        }
        for name, value in added.items():
            yield f"{name} in the header, by a stranger", self.sign(self.header | {name: value}, self.claims, stranger)
            yield f"{name} in the header", self.sign(self.header | {name: value}, self.claims)
        for name, critical in (("unknown", ["x"]), ("empty", []), ("b64", ["b64"]), ("no list", "exp")):
            yield f"crit {name}", self.sign(self.header | {"crit": critical}, self.claims)
        kid = self.header["kid"]
        for kind, value in {
            "a path": "../../../../etc/passwd",
            "a path to nothing": "/dev/null",
            "SQL": f"{kid}' OR '1'='1",
            "a union": "x' UNION SELECT 'key' --",
            "a command": "key|whoami",
            "a URL": f"{self.trap}/kid",
            "a NUL": f"{kid}\0",
            "nothing": "",
            "a blank more": f"{kid} ",
            "in capitals": kid.upper() + "X",
            "half": kid[: len(kid) // 2],
            "another one": uuid.uuid4().hex[:16],
            "6,000 characters": "k" * 6000,
            "null": None,
            "a number": 7,
            "a list": [kid],
            "an object": {"kid": kid},
        }.items():
            yield f"kid that is {kind}", self.sign(self.header | {"kid": value}, self.claims)
        yield "no kid", self.sign({name: self.header[name] for name in ("alg", "typ")}, self.claims)
        for typ in ("JWT", "jwt", "at", "AT+JWT", "at+jwt ", "dpop+jwt", "logout+jwt", "", None, ["at+jwt"]):
            yield f"typ {typ!r}", self.sign(self.header | {"typ": typ}, self.claims)
        yield "no typ", self.sign({name: self.header[name] for name in ("alg", "kid")}, self.claims)

    def _claims(self) -> Iterator[tuple[str, str]]:
        iss = str(self.claims["iss"])
        for kind, value in {
            "with a suffix": f"{iss}.evil.example",
            "with a slash": f"{iss}/",
            "with a path": f"{iss}/tenant",
            "with a port": f"{iss}:80",
            "with a blank": f"{iss} ",
            "with a query": f"{iss}?",
            "with a user": iss.replace("://", "://evil@"),
            "that is a prefix": iss[:-1],
            "in capitals": iss.upper(),
            "of a stranger": "https://evil.example",
            "in a list": [iss],
            "of null": None,
            "of nothing": "",
            "of a number": 1,
        }.items():
            yield f"iss {kind}", self.good(iss=value)
        for name, audience in {
            "another": "another-service",
            "a prefix": "messmai",
            "a suffix": "messmail.evil",
            "in capitals": "MESSMAIL",
            "a list with ours": ["messmail"],
            "a list with ours and another": ["another-service", "messmail"],
            "an empty list": [],
            "null": None,
            "nothing": "",
            "true": True,
        }.items():
            yield f"aud {name}", self.good(aud=audience)
        for missing in ("iss", "aud", "exp", "iat", "jti", "sub", "client_id", "scope", "usage", "tenant_id"):
            yield f"no {missing}", self.sign(self.header, {k: v for k, v in self.claims.items() if k != missing})
        no_ids: tuple[Any, ...] = ("x", "", None, 1, ["x"], {})
        for client_id in no_ids:
            yield f"client_id {client_id!r}", self.good(client_id=client_id)
        for tenant_id in ("x", "", None, 1, "*", ["x"]):
            yield f"tenant_id {tenant_id!r}", self.good(tenant_id=tenant_id)
        for usage in ("internal", "webhook_outbound", "TENANT_API", "", None, ["tenant_api"]):
            yield f"usage {usage!r}", self.good(usage=usage)

    def _times(self) -> Iterator[tuple[str, str]]:
        now = int(time.time())
        yield "iat in the future", self.good(iat=now + 3600)
        yield "iat beyond the leeway", self.good(iat=now + LEEWAY + 60)
        yield "nbf in the future", self.good(nbf=now + 3600)
        no_times: dict[str, Any] = {
            "text": "9999999999", "a word": "x", "null": None, "true": True, "a list": [now], "an object": {},
            "a fraction": now + 60.5,
        }  # fmt: skip
        for name in ("exp", "iat", "nbf"):
            for kind, value in no_times.items():
                yield f"{name} that is {kind}", self.good(**{name: value})
            for literal in ("NaN", "Infinity", "1e400", "-Infinity"):
                text = json.dumps(self.claims | {name: "HERE"}).replace('"HERE"', literal)
                yield f"{name} that is {literal}", self.sign(self.header, text.encode())

    def _texts(self) -> Iterator[tuple[str, str]]:
        claims, header = json.dumps(self.claims), json.dumps(self.header)
        for name, value in self.claims.items():
            twice = f"{{{json.dumps(name)}: {json.dumps(value)}, {claims[1:]}"
            yield f"{name} twice", self.sign(self.header, twice.encode())
        for name, value in self.header.items():
            yield (
                f"{name} twice in the header",
                self.sign(f"{{{json.dumps(name)}: {json.dumps(value)}, {header[1:]}".encode(), self.claims),
            )
        for kind, raw in {
            "a list": b"[]", "text": b'"x"', "a number": b"1", "null": b"null", "nothing": b"", "not JSON": b"{iss:1}",
            "cut off": claims[:-5].encode(), "two objects": (claims + claims).encode(),
            "with a byte order mark": b"\xef\xbb\xbf" + claims.encode(), "UTF-16": claims.encode("utf-16"),
            "Latin-1": claims.replace("messmail", "m\xe9ssmail").encode("latin-1"),
            "900 levels deep": b'{"a":' * 900 + b"1" + b"}" * 900,
        }.items():  # fmt: skip
            yield f"a payload that is {kind}", self.sign(self.header, raw)
            if kind != "900 levels deep":
                yield f"a header that is {kind}", self.sign(raw.replace(claims.encode(), header.encode()), self.claims)

    def _shapes(self) -> Iterator[tuple[str, str]]:
        good = self.good()
        head, payload, signature = good.split(".")
        raw = decode(signature)
        r, s = int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big")
        assert 0 < r < _ORDER and 0 < s < _ORDER
        for kind, forged in {
            "cut by one byte": raw[:-1], "cut to half": raw[:32], "of one byte": b"x", "of nothing": b"",
            "longer by one byte": raw + b"\0", "twice": raw + raw, "reversed": raw[::-1],
            "with halves exchanged": raw[32:] + raw[:32], "of zeros": bytes(64), "of zero and s": bytes(32) + raw[32:],
            "of r and zero": raw[:32] + bytes(32), "of the order twice": _ORDER.to_bytes(32, "big") * 2,
            "beyond the order": raw[:32] + ((s + _ORDER) % 2**256).to_bytes(32, "big"), "of ones": b"\xff" * 64,
            "in DER": self.key.sign(f"{head}.{payload}".encode(), ec.ECDSA(hashes.SHA256())),
            "with one bit flipped": bytes([raw[0] ^ 1]) + raw[1:],
        }.items():  # fmt: skip
            yield f"a signature {kind}", f"{head}.{payload}.{encode(forged)}"
        other = self.good(scope="internal:admin", usage="internal")
        yield "another payload under a good signature", f"{head}.{other.split('.')[1]}.{signature}"
        unused = "".join(c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
        last = unused[unused.index(signature[-1]) + 1]
        for kind, text in {
            "two parts": f"{head}.{payload}", "one part": head, "a dot at the end": f"{good}.",
            "a dot in front": f".{good}", "five parts": f"{head}.{payload}.{signature}.x.y", "dots": "..",
            "four dots": "....", "padding": f"{head}.{payload}.{signature}==", "a line break": f"{good}%0a",
            "parts exchanged": f"{payload}.{head}.{signature}", "the last character's unused bits": good[:-1] + last,
            "standard base64": f"{head}.{payload}.{signature.replace('-', '+').replace('_', '/')}+",
            "twice": f"{good}.{good}", "a comma": f"{good},{good}", "quotes": f'"{good}"', "a word": "x",
            "JSON": json.dumps({"payload": payload, "protected": head, "signature": signature}, separators=(",", ":")),
        }.items():  # fmt: skip
            yield f"the form of {kind}", text
        yield "more than 8 KiB", self.good(padding="x" * 8192)


def part(value: Any) -> str:
    """Encodes a header or payload."""
    return encode(value if isinstance(value, bytes) else json.dumps(value).encode())


def encode(raw: bytes) -> str:
    """Encodes bytes as JWTs do."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    """Decodes what JWTs encode."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def signature_of(key: ec.EllipticCurvePrivateKey, signed: bytes) -> bytes:
    """Signs as ES256 does (RFC 7518 3.4)."""
    r, s = decode_dss_signature(key.sign(signed, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")
