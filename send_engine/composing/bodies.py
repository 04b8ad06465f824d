"""Bodies on the wire: line ends, transfer encoding, dot-stuffing (RFC 2045, RFC 5321 4.5.2).

The encoding is the plainest that carries the text unchanged: 7bit, else 8bit, else quoted-printable for what has a
line too long for SMTP or a NUL. Base64 is never needed for text.
"""

import binascii
import re

from send_engine.composing.content import ContentError

# RFC 5321 4.5.3.1.6: 1,000 bytes with the line end.
MAX_LINE = 998
_LINE_END = re.compile(rb"\r\n|\r|\n")

SEVEN_BIT = b"7bit"
EIGHT_BIT = b"8bit"
QUOTED_PRINTABLE = b"quoted-printable"


def encoded(field: str, text: str) -> bytes:
    """Returns the text as UTF-8. Raises ContentError for half a surrogate pair, the one thing that has no UTF-8."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise ContentError(field, "contains half of a surrogate pair, which is no character") from None


def wire_lines(field: str, text: str) -> bytes:
    """Returns the text as UTF-8 with CRLF line ends, the last line ended too."""
    lines = encoded(field, text)
    lines = _LINE_END.sub(b"\r\n", lines) if b"\r" in lines else lines.replace(b"\n", b"\r\n")
    return lines if lines.endswith(b"\r\n") else lines + b"\r\n"


def transfer_encoding(lines: bytes) -> bytes:
    """Returns the name of the plainest encoding that carries these lines."""
    if b"\x00" in lines or _has_long_line(lines):
        return QUOTED_PRINTABLE
    return SEVEN_BIT if lines.isascii() else EIGHT_BIT


def _has_long_line(lines: bytes) -> bool:
    start = 0
    while len(lines) - start > MAX_LINE:
        # The last line end that a line starting here may have: one step for many short lines.
        end = lines.rfind(b"\r\n", start, start + MAX_LINE + 2)
        if end < 0:
            return True
        start = end + 2
    return False


def encode_lines(lines: bytes, encoding: bytes) -> bytes:
    """Returns the lines encoded and dot-stuffed. They must start at the beginning of a line and end with CRLF."""
    if encoding == QUOTED_PRINTABLE:
        # With istext, b2a_qp keeps CRLF as it is and, as the first line end it meets is CRLF, breaks lines with CRLF.
        lines = binascii.b2a_qp(lines, istext=True)
    stuffed = lines.replace(b"\r\n.", b"\r\n..")
    return b"." + stuffed if stuffed.startswith(b".") else stuffed
