"""Redaction: what must never reach a log line (addresses, tokens, secrets, query strings) is replaced by a mark.

This is the last fence, not the first: code should not log such things at all. It prefers hiding too much. Every pattern
starts only where it can succeed or consumes what it looked at, so the time is linear in the length of the text.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message
from structlog.typing import EventDict, WrappedLogger

_MAX_DEPTH: Final = 8

_URL: Final = re.compile(r'://([^\s"<>]*+)')
_HOST_AND_PORT: Final = re.compile(r"(?:\[[^\]]*\]|[^:]*)(?::\d*)?['\\),;.\]}]*")
_QUERY: Final = re.compile(r'\?(?=[\w%~&.=-])[^\s"<>]*+')
_SECRET: Final = re.compile(
    r"""(?ix)
    ( (?: (?:secret|passw(?:or)?d) (?:\\{0,3}["'])? \s{0,2} [=:]    # client_secret=, "password": , PASSWORD=
      | (?:token|master_keys?|api_key|assertion) (?: (?:\\{0,3}["'])? \s{0,2} = | \\{0,3}["'] \s{0,2} : ) ) \s{0,2} )
    (?: \[secret\] | b? \\{0,3} (?: "[^"\n]*+"? | '[^'\n]*+'? ) | [^\s"'&]++ )
    """
)
_SECRET_WORDS: Final = ("secret", "passw", "token", "master_key", "api_key", "assertion")
_AUTHORIZATION: Final = re.compile(r"(?i)\b(bearer|basic)\s{1,4}[\w.~+/=-]{8,}+")
# A JWS, JWE or any part of one: base64url of '{"'.
_JWT: Final = re.compile(r"(?<![\w-])eyJ[\w-]{5,}+(?:\.[\w-]*+)*+")
# Sealed link tokens, and whatever else is this long and opaque.
_SEALED_LENGTH: Final = 80
_SEALED: Final = re.compile(rf"(?<![\w-])[A-Za-z0-9_-]{{{_SEALED_LENGTH},}}+")
_QUOTED_ADDRESS: Final = re.compile(r'"[^"\r\n]*+"@[\w.-]++')
_ADDRESS_RUN: Final = re.compile(r"[\w.!#$%&'*+/=?^`{|}~@。．｡-]++(?:(?<=@)\[[\w.:]*+\])?")  # noqa: RUF001
_AT: Final = re.compile(r"[^@](?:@|%40)[^@]?", re.IGNORECASE)

_SECRET_KEY: Final = re.compile(
    r"(?i)(?:.*_)?(?:secret|passw(?:or)?d|token|assertion|authorization|master_keys?|api_key|private_key)s?"
)


def redact_text(text: str) -> str:
    """Returns the text with `[email]`, `[token]`, `[secret]` and `[query]` in place of what must not be logged."""
    # Looking for a word is some twenty times cheaper than the pattern that it belongs to, and most lines have none.
    if "://" in text:
        text = _URL.sub(_shown_url, text)
    if "?" in text:
        text = _QUERY.sub("?[query]", text)
    lowered = text.lower()
    if any(word in lowered for word in _SECRET_WORDS):
        text = _SECRET.sub(r"\1[secret]", text)
    if "bearer" in lowered or "basic" in lowered:
        text = _AUTHORIZATION.sub(r"\1 [token]", text)
    if "eyJ" in text:
        text = _JWT.sub("[token]", text)
    if len(text) >= _SEALED_LENGTH:
        text = _SEALED.sub("[token]", text)
    if "@" in text or "%40" in text:
        text = _QUOTED_ADDRESS.sub("[email]", text)
        text = _ADDRESS_RUN.sub(_shown_run, text)
    return text


def redact_message(message: Message) -> dict[str, object]:
    """Returns the set fields of a protobuf message for a log line, without those marked `debug_redact`.

    Unlike str(message), which ignores the mark. Texts are redacted, bytes become their length.
    """
    return _shown_message(message, 0)


def redact_event(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """A structlog processor: redacts every key and value; belongs right before the renderer, after tracebacks."""
    return {redact_text(str(key)): _shown_entry(str(key), value, 0) for key, value in event.items()}


def _shown_url(match: re.Match[str]) -> str:
    location = match[1]
    place = re.split(r"[?#]", location, maxsplit=1)[0]
    query = f"{location[len(place)]}[query]" if len(place) < len(location) else ""
    if "@" in place:
        place = "[secret]@" + place.rpartition("@")[2]
    elif not _HOST_AND_PORT.fullmatch(authority := place.partition("/")[0]):
        # A "port" that is no number is a password with an unescaped "/", "?" or "#" in it; the host is not known.
        place = "[secret]" if query else "[secret]" + place[len(authority) :]
    return f"://{place}{query}"


def _shown_run(match: re.Match[str]) -> str:
    return "[email]" if _AT.search(match[0]) else match[0]


def _shown_entry(key: str, value: object, depth: int) -> object:
    if value is not None and _SECRET_KEY.fullmatch(key):
        return "[secret]"
    return _shown_value(value, depth)


def _shown_value(value: object, depth: int) -> object:
    """Returns only what JSON knows, so that no renderer falls back to an unredacted repr."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, bytes):
        return f"[{len(value)} bytes]"
    if depth >= _MAX_DEPTH:
        return "[nested too deep]"
    if isinstance(value, Message):
        return _shown_message(value, depth + 1)
    if isinstance(value, Mapping):
        return {redact_text(str(key)): _shown_entry(str(key), each, depth + 1) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_shown_value(each, depth + 1) for each in value]
    try:
        return redact_text(repr(value) if isinstance(value, BaseException) else str(value))
    except Exception as error:
        return f"[unprintable: {type(error).__name__}]"


def _shown_message(message: Message, depth: int) -> dict[str, object]:
    if depth >= _MAX_DEPTH:
        return {"…": "[nested too deep]"}
    return {
        field.name: _shown_field(field, value, depth)
        for field, value in message.ListFields()
        if not field.GetOptions().debug_redact
    }


def _shown_field(field: FieldDescriptor, value: Any, depth: int) -> object:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return {redact_text(str(key)): _shown_entry(str(key), value[key], depth + 1) for key in value}
    if field.enum_type is not None:
        numbers = value if field.is_repeated else [value]
        names = [_enum_name(field.enum_type, number) for number in numbers]
        return names if field.is_repeated else names[0]
    return _shown_entry(field.name, list(value) if field.is_repeated else value, depth)


def _enum_name(enum: EnumDescriptor, number: int) -> object:
    value = enum.values_by_number.get(number)
    return value.name if value else number
