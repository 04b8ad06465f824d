"""Mails for a server without 8BITMIME: what was 8bit becomes quoted-printable (RFC 6152 section 3).

Hardly any server lacks it, so mails are composed for those that have it, and put into another form only where needed.
"""

from __future__ import annotations

import binascii
import re

from send_engine.esp.port import ComposedMail

_BOUNDARY = re.compile(rb'^Content-Type: multipart/[a-z]+; boundary="([^"]+)"\r?$', re.MULTILINE)
_EIGHT_BIT = b"\r\nContent-Transfer-Encoding: 8bit"
_QUOTED_PRINTABLE = b"\r\nContent-Transfer-Encoding: quoted-printable"
_BLANK_LINE = b"\r\n\r\n"


def seven_bit(mail: ComposedMail) -> ComposedMail:
    """Returns the same mail with every 8bit part in quoted-printable.

    Headers stay as they are: those of a mail that needs SMTPUTF8 have no such form.
    """
    boundary = _BOUNDARY.search(mail.data.partition(_BLANK_LINE)[0])
    delimiter = b"\r\n--" + boundary[1] if boundary else None
    parts = mail.data.split(delimiter) if delimiter else [mail.data]
    return mail._replace(data=(delimiter or b"").join(map(_quoted, parts)), eight_bit=False)


def _quoted(part: bytes) -> bytes:
    """Quotes what stands behind the headers of an 8bit part, whose last one says so; another part stays as it is."""
    headers, blank_line, stuffed = part.partition(_BLANK_LINE)
    if not headers.endswith(_EIGHT_BIT):
        return part
    lines = (b"\r\n" + stuffed).replace(b"\r\n.", b"\r\n").removeprefix(b"\r\n")
    quoted = b"\r\n" + binascii.b2a_qp(lines, istext=True)
    restuffed = quoted.replace(b"\r\n.", b"\r\n..").removeprefix(b"\r\n")
    return headers.removesuffix(_EIGHT_BIT) + _QUOTED_PRINTABLE + blank_line + restuffed
