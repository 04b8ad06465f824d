"""MIME parts: a text and an HTML body as they stand on the wire, alone or as alternatives (RFC 2046 5.1.4).

A `FixedPart` is encoded once and has a gap for one link; a rendered body is encoded each time with `whole_part`.
"""

import html
from collections.abc import Sequence
from dataclasses import dataclass

from send_engine.composing.bodies import QUOTED_PRINTABLE, encode_lines, transfer_encoding, wire_lines

PLAIN = b"plain"
HTML = b"html"

# Stands for the link while the encoding is chosen: as long as the longest link allowed, so that no line surprises.
_GAP = "u" * 900


@dataclass(frozen=True, slots=True)
class FixedPart:
    """One encoded part: `head`, then the link between `before_link` and `after_link`, then `tail`.

    A quoted-printable link must be encoded with its line, so there `before_link` and `after_link` stay unencoded.
    """

    head: bytes
    before_link: bytes
    after_link: bytes
    tail: bytes
    quoted: bool
    escape_link: bool

    def wire(self, link: str) -> bytes:
        """Returns the part, its headers included, with the link in its place."""
        raw = (html.escape(link) if self.escape_link else link).encode()
        if self.quoted:
            footer = encode_lines(self.before_link + raw + self.after_link, QUOTED_PRINTABLE)
            return b"".join((self.head, footer, self.tail))
        return b"".join((self.head, self.before_link, raw, self.after_link, self.tail))


def fixed_part(subtype: bytes, field: str, before: str, footer: tuple[str, str], after: str) -> FixedPart:
    """Returns the part made of `before`, the footer (its text up to the link, and from it on) and `after`."""
    above = wire_lines(field, before)
    below = wire_lines(field, after) if after else b""
    full = wire_lines(field, footer[0] + _GAP + footer[1])
    before_link, _, after_link = full.rpartition(_GAP.encode())
    encoding = transfer_encoding(above + full + below)
    quoted = encoding == QUOTED_PRINTABLE
    return FixedPart(
        head=_part_headers(subtype, encoding) + encode_lines(above, encoding),
        before_link=before_link if quoted else encode_lines(before_link, encoding),
        after_link=after_link,
        tail=encode_lines(below, encoding),
        quoted=quoted,
        escape_link=subtype == HTML,
    )


def whole_part(subtype: bytes, field: str, body: str) -> bytes:
    """Returns the part for this body, its headers included."""
    lines = wire_lines(field, body)
    encoding = transfer_encoding(lines)
    return _part_headers(subtype, encoding) + encode_lines(lines, encoding)


def _part_headers(subtype: bytes, encoding: bytes) -> bytes:
    return b"Content-Type: text/%b; charset=utf-8\r\nContent-Transfer-Encoding: %b\r\n\r\n" % (subtype, encoding)


def alternatives(parts: Sequence[bytes], boundary: bytes) -> bytes:
    """Returns the end of a mail from its Content-Type header on: the one part, or both as alternatives."""
    if len(parts) == 1:
        return parts[0]
    delimiter = b"\r\n--" + boundary
    return b"".join(
        (
            b'Content-Type: multipart/alternative; boundary="' + boundary + b'"\r\n',
            *(delimiter + b"\r\n" + part for part in parts),
            delimiter + b"--\r\n",
        )
    )
