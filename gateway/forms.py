"""Content types, form bodies and HTTP Basic: what comes in pairs of names and texts.

Every parameter may be given once: two readers could pick different ones.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from dataclasses import dataclass
from email.message import Message as MimeMessage
from email.parser import BytesParser
from typing import Final

from gateway.json_reader import malformed
from servicekit.errors import FieldViolation, MessmailError, Reason

JSON: Final = "application/json"
FORM: Final = "application/x-www-form-urlencoded"
MULTIPART: Final = "multipart/form-data"
MAX_PARAMETERS = 100
_HEX = b"0123456789abcdefABCDEF"


@dataclass(frozen=True, slots=True)
class Credentials:
    """A client's id and secret from HTTP Basic."""

    client_id: str
    client_secret: str


def media_type(content_type: str, accepted: tuple[str, ...]) -> str:
    """Returns the media type of a body; raises UNSUPPORTED_MEDIA_TYPE unless it is accepted and in UTF-8."""
    if content_type in accepted:
        return content_type
    header = MimeMessage()
    header["Content-Type"] = content_type
    charset = header.get_param("charset", "utf-8")
    if header.get_content_type() in accepted and isinstance(charset, str) and charset.lower() in ("utf-8", "utf8"):
        return header.get_content_type()
    names = " or ".join(accepted)
    raise MessmailError(
        Reason.ERROR_REASON_UNSUPPORTED_MEDIA_TYPE, f"send the body as {names}, in UTF-8", accepted=", ".join(accepted)
    )


def refuse_encoded(content_encoding: str) -> None:
    """Raises UNSUPPORTED_MEDIA_TYPE for a body that is compressed (RFC 9110 section 15.5.16)."""
    if content_encoding.lower() not in ("", "identity"):
        raise MessmailError(
            Reason.ERROR_REASON_UNSUPPORTED_MEDIA_TYPE, "send the body as it is, without a Content-Encoding"
        )


def parse_parameters(encoded: bytes, what: str) -> dict[str, str]:
    """Reads a query or a form body; raises MALFORMED_BODY or INVALID_FIELD (a parameter that is there twice)."""
    if not encoded:
        return {}
    pairs = encoded.split(b"&", MAX_PARAMETERS + 1)
    if len(pairs) > MAX_PARAMETERS:
        raise malformed(f"the {what} has more than {MAX_PARAMETERS} parameters")
    names_and_values = (pair.partition(b"=")[::2] for pair in pairs if pair)
    return _once((_decoded(name, what), _decoded(value, what)) for name, value in names_and_values)


def parse_multipart(body: bytes, content_type: str) -> dict[str, str]:
    """Reads the text fields of a multipart/form-data body (RFC 7578); raises MALFORMED_BODY for a file."""
    head = f"Content-Type: {content_type}\r\n\r\n".encode("latin-1")
    whole = BytesParser().parsebytes(head + body)
    parts = whole.get_payload()
    if not isinstance(parts, list) or whole.defects:
        raise malformed("the body is not multipart/form-data")
    if len(parts) > MAX_PARAMETERS:
        raise malformed(f"the body has more than {MAX_PARAMETERS} parts")
    return _once(_text_field(part) for part in parts if isinstance(part, MimeMessage))


def parse_basic(authorization: str) -> Credentials:
    """Reads HTTP Basic as RFC 6749 section 2.3.1 has it; raises CLIENT_AUTHENTICATION_FAILED."""
    scheme, _, encoded = authorization.partition(" ")
    try:
        if scheme.lower() != "basic":
            raise ValueError
        client_id, colon, secret = base64.b64decode(encoded.strip(), validate=True).partition(b":")
        if not colon:
            raise ValueError
        return Credentials(_decoded(client_id, "Authorization header"), _decoded(secret, "Authorization header"))
    except (ValueError, binascii.Error, MessmailError):
        raise MessmailError(
            Reason.ERROR_REASON_CLIENT_AUTHENTICATION_FAILED,
            "the Authorization header must read 'Basic' and the base64 of id:secret, both percent-encoded",
        ) from None


def _decoded(encoded: bytes, what: str) -> str:
    head, *escapes = encoded.replace(b"+", b" ").split(b"%")
    octets = bytearray(head)
    for escape in escapes:
        if len(escape) < 2 or escape[0] not in _HEX or escape[1] not in _HEX:
            raise malformed(f"the {what} has a percent sign that does not begin an escape")
        octets.append(int(escape[:2], 16))
        octets += escape[2:]
    try:
        return octets.decode()
    except UnicodeDecodeError:
        raise malformed(f"the {what} is not in UTF-8") from None


def _text_field(part: MimeMessage) -> tuple[str, str]:
    name = part.get_param("name", header="content-disposition")
    payload = part.get_payload(decode=True)
    if not isinstance(name, str) or not isinstance(payload, bytes) or part.get_filename() is not None:
        raise malformed("the parts of the body must be named text fields, not files")
    try:
        return name, payload.decode()
    except UnicodeDecodeError:
        raise malformed("the body is not in UTF-8") from None


def _once(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in pairs:
        if name in found:
            violation = FieldViolation(name[:100], "is given twice; give it once")
            raise MessmailError(Reason.ERROR_REASON_INVALID_FIELD, "a parameter is given twice", violations=[violation])
        found[name] = value
    return found
