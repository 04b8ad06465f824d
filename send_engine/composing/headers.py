"""Header fields on the wire: checked, encoded, folded (RFC 5322, 2047, 6532).

Everything a person typed passes through here. What reaches the reader is literally what was typed: text that looks
like an encoded-word is encoded again, so no mail program decodes it. Bodies are next door in `bodies`.
"""

import base64
import binascii
import re
import unicodedata
from datetime import datetime
from email.utils import format_datetime
from functools import lru_cache

import idna

from send_engine.composing.content import ContentError

# RFC 5322 2.1.1 asks for 78 with the line end; RFC 2047 2 allows 76 for a line that holds an encoded-word.
_LINE = 76
_ENCODED_WORD_FRAME = len("=?UTF-8?B??=")
# Bounded so that a typed text can never grow into a header some relay refuses.
MAX_HEADER_TEXT = 2_000

_ENCODED_WORD = re.compile(r"=\?([^?]*)\?([bq])\?([^?]*)\?=", re.IGNORECASE)
_FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_ATOM_PHRASE = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?: [A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_NO_ADDRESS_TEXT = "\x00-\x20\x7f-\xa0\u2028\u2029\ud800-\udfff"
_ADDRESS = re.compile(
    rf"""(?:"(?:[^"\\{_NO_ADDRESS_TEXT}]|\ |\\[\x20-\x7e])*"|[^"\\<>()\[\],;:@{_NO_ADDRESS_TEXT}]+)
    @(?:\[[0-9A-Za-z.:]+\]|[^"\\<>()\[\],;:@{_NO_ADDRESS_TEXT}]+)""",
    re.VERBOSE,
)
_LINK = re.compile(r"https?://[!#-;=?-~]+")
_DELIVERY_ID = re.compile(r"[A-Za-z0-9_-]{1,64}(?:\.[A-Za-z0-9_-]{1,64})*")


def check_header_text(field: str, value: str) -> None:
    """Raises ContentError if the text could break out of a header, plainly or once decoded by a lenient reader.

    Refused are control characters (C0, C1, DEL), line and paragraph separators, lone surrogates, more than 2,000
    characters, and encoded-words that decode to any of these (CVE-2024-6923).
    """
    if len(value) > MAX_HEADER_TEXT:
        raise ContentError(field, f"is longer than {MAX_HEADER_TEXT} characters")
    if _FORBIDDEN.search(value):
        raise ContentError(field, "contains a line break or another control character")
    if "=?" in value and any(_hides_control(*word) for word in _ENCODED_WORD.findall(value)):
        raise ContentError(field, "contains an encoded line break or another encoded control character")


def _hides_control(charset: str, encoding: str, text: str) -> bool:
    try:
        if encoding in "bB":
            raw = base64.b64decode(text.encode() + b"===")
        else:
            raw = binascii.a2b_qp(text.encode(), header=True)
    except ValueError:
        return False  # No reader can decode it either.
    try:
        decoded = raw.decode(charset.partition("*")[0], "replace")
    except (LookupError, UnicodeError, ValueError):
        decoded = raw.decode("latin-1")
    return _FORBIDDEN.search(decoded) is not None


def check_address(field: str, address: str) -> None:
    """Raises ContentError unless the address can stand between angle brackets, in a header and in an SMTP command.

    Whether it is a good address is decided where it enters the house; this only keeps it from being anything else.
    """
    if not _ADDRESS.fullmatch(address) or len(address.encode()) > 320:
        raise ContentError(field, "is not an e-mail address")


def check_link(field: str, url: str) -> None:
    """Raises ContentError unless the URL is printable ASCII that fits one line and needs no escape in HTML text."""
    if not _LINK.fullmatch(url) or len(url) > 900:
        raise ContentError(field, "is not a link that fits into a mail")


def unstructured(name: str, value: str) -> bytes:
    """Returns the header `name: value` with its line end, encoded when plain ASCII could not show it literally."""
    check_header_text(name, value)
    if _is_plain(value):
        folded = _fold(f"{name}: {value}")
        if folded is not None:
            return folded + b"\r\n"
    return name.encode() + b": " + _encoded_words(value, len(name) + 2) + b"\r\n"


def mailbox(name: str, display: str, address: str) -> bytes:
    """Returns the header `name: display <address>` with its line end; without a display name, the bare address."""
    check_address(name, address)
    return _phrase_and_angle(name, display, address)


def list_id(display: str, identifier: str) -> bytes:
    """Returns the List-Id header (RFC 2919)."""
    return _phrase_and_angle("List-Id", display, identifier)


def _phrase_and_angle(name: str, display: str, inner: str) -> bytes:
    angle = f"<{inner}>".encode()
    if not display:
        return name.encode() + b": " + angle + b"\r\n"
    check_header_text(name, display)
    phrase = _phrase(display, len(name) + 2)
    last = len(phrase) - phrase.rfind(b"\n") - 1 if b"\n" in phrase else len(name) + 2 + len(phrase)
    gap = b" " if last + 1 + len(angle) <= _LINE else b"\r\n "
    return name.encode() + b": " + phrase + gap + angle + b"\r\n"


def _phrase(display: str, offset: int) -> bytes:
    if _is_plain(display) and offset + len(display) <= _LINE:
        if _ATOM_PHRASE.fullmatch(display):
            return display.encode()
        quoted = '"' + display.replace("\\", "\\\\").replace('"', '\\"') + '"'
        if offset + len(quoted) <= _LINE:
            return quoted.encode()
    return _encoded_words(display, offset)


def _is_plain(value: str) -> bool:
    return value.isascii() and "=?" not in value and "  " not in value and value == value.strip(" ")


def _fold(line: str) -> bytes | None:
    """Folds at single spaces; None when a word is too long for any line."""
    if len(line) <= _LINE:
        return line.encode()
    lines = [""]
    for word in line.split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if len(longer) + (len(lines) > 1) <= _LINE:
            lines[-1] = longer
        elif len(word) + 1 > _LINE or lines == [line.partition(" ")[0]]:
            return None
        else:
            lines.append(word)
    return "\r\n ".join(lines).encode()


def _encoded_words(value: str, offset: int) -> bytes:
    words: list[str] = []
    chunk = ""
    room = _word_room(offset)
    for cluster in _clusters(value):
        if chunk and len((chunk + cluster).encode()) > room:
            words.append(chunk)
            chunk, room = "", _word_room(1)
        chunk += cluster
    words.append(chunk)
    return b"\r\n ".join(b"=?UTF-8?B?" + base64.b64encode(word.encode()) + b"?=" for word in words)


def _word_room(offset: int) -> int:
    """Returns how many bytes of UTF-8 fit into an encoded-word that starts at this column."""
    return (min(75, _LINE - offset) - _ENCODED_WORD_FRAME) // 4 * 3


def _clusters(value: str) -> list[str]:
    """Splits into characters, keeping a combining mark or joiner with what it belongs to where that stays short."""
    clusters: list[str] = []
    for character in value:
        if clusters and len(clusters[-1]) < 6 and (unicodedata.combining(character) or character in "\u200d\ufe0f"):
            clusters[-1] += character
        else:
            clusters.append(character)
    return clusters


def date_header(date: datetime) -> bytes:
    """Returns the Date header; the time must know its offset."""
    return b"Date: " + format_datetime(date).encode() + b"\r\n"


def message_id(delivery_id: str, domain: str) -> bytes:
    """Returns the Message-ID header: the same delivery has the same one, however often it is composed."""
    return f"Message-ID: <{delivery_id}@{domain}>\r\n".encode()


def check_delivery_id(delivery_id: str) -> None:
    """Raises ContentError unless the id can stand in a Message-ID as it is."""
    if not _DELIVERY_ID.fullmatch(delivery_id):
        raise ContentError("delivery_id", "has characters an id may not have")


@lru_cache(maxsize=1024)
def ascii_domain(field: str, domain: str) -> str:
    """Returns the domain as A-labels. Raises ContentError when it is none."""
    try:
        return idna.encode(domain, uts46=True).decode()
    except idna.IDNAError:
        raise ContentError(field, "is not a domain name") from None
