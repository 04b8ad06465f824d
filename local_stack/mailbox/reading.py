"""Reads a mail for people: its headers decoded, its text and HTML found.

It is forgiving where the SMTP side is strict: what cannot be decoded is shown with replacement characters. It is not a
validator.
"""

import email
import email.errors
import re
from dataclasses import dataclass
from email.header import decode_header
from email.message import Message
from email.utils import getaddresses
from html import unescape

_FOLD = re.compile(r"\r?\n(?=[ \t])")
_SPACES = re.compile(r"\s+")
_TAGS = re.compile(r"(?is)<(script|style|head)\b.*?</\1>|<[^>]*>")
_SNIPPET_LENGTH = 250


@dataclass(frozen=True)
class Person:
    """A name and an address out of a header."""

    name: str
    address: str


@dataclass(frozen=True)
class Attachment:
    """A part of a mail that is neither its text nor its HTML."""

    part: str
    file_name: str
    content_type: str
    content_id: str
    size: int


@dataclass(frozen=True)
class Body:
    """What a mail says: both alternatives, empty where one is missing, and what hangs on it."""

    text: str
    html: str
    attachments: tuple[Attachment, ...]

    @property
    def snippet(self) -> str:
        """The first words, for a list of mails."""
        words = self.text or unescape(_TAGS.sub(" ", self.html))
        return _SPACES.sub(" ", words[: _SNIPPET_LENGTH * 8]).strip()[:_SNIPPET_LENGTH]


def read_headers(raw: bytes) -> dict[str, str]:
    """Reads the headers, unfolded, by lower-case name; of a repeated one the first, encoded words as they are."""
    headers: dict[str, str] = {}
    for name, value in header_lines(raw):
        headers.setdefault(name.lower(), value)
    return headers


def header_lines(raw: bytes) -> list[tuple[str, str]]:
    """Reads all headers in order, unfolded, with names and encoded words as they are."""
    head = raw[2:2] if raw.startswith(b"\r\n") else raw.partition(b"\r\n\r\n")[0]
    lines = _FOLD.sub("", head.decode("utf-8", "replace")).split("\r\n")
    return [(name, value.strip()) for name, colon, value in (line.partition(":") for line in lines) if colon]


def read_words(value: str) -> str:
    """Decodes the encoded words (RFC 2047) of a header value."""
    if "=?" not in value:
        return value
    try:
        parts = decode_header(value)
    except email.errors.HeaderParseError:
        return value
    return "".join(part if isinstance(part, str) else _decoded(part, charset) for part, charset in parts)


def read_people(value: str) -> list[Person]:
    """Reads an address header; names are decoded after the addresses were found, so a coded comma separates nobody."""
    return [Person(read_words(name), address) for name, address in getaddresses([value]) if address]


def read_body(raw: bytes) -> Body:
    """Finds the text, the HTML and the attachments of a mail."""
    text = html = ""
    attachments: list[Attachment] = []
    for number, part in enumerate(email.message_from_bytes(raw).walk()):
        if part.is_multipart():
            continue
        kind = part.get_content_type()
        content = part.get_payload(decode=True)
        content = content if isinstance(content, bytes) else b""
        attached = part.get_content_disposition() == "attachment" or part.get_filename() is not None
        if kind == "text/plain" and not text and not attached:
            text = _decoded(content, _charset(part))
        elif kind == "text/html" and not html and not attached:
            html = _decoded(content, _charset(part))
        else:
            file_name = read_words(part.get_filename() or "")
            content_id = str(part.get("Content-ID", "")).strip("<>")
            attachments.append(Attachment(str(number), file_name, kind, content_id, len(content)))
    return Body(text.replace("\r\n", "\n"), html, tuple(attachments))


def _charset(part: Message) -> str:
    return str(part.get_param("charset") or "utf-8")


def _decoded(content: bytes, charset: str | None) -> str:
    try:
        return content.decode(charset or "utf-8", "replace")
    except LookupError:
        return content.decode("utf-8", "replace")
