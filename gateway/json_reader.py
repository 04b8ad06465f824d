"""Reads JSON values, and texts of queries and forms, into messages of the contract.

json_format does the well-known types. The rest is read here, because json_format takes several spellings of one field
and its errors speak of Protocol Buffers; here every wrong field is reported at once, in the words of the caller. Rules
on values (lengths, UUIDs, what is required) are the services' own.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NoReturn, TypeAlias

import orjson
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from gateway.enum_words import enum_numbers
from servicekit.errors import FieldViolation, MessmailError, Reason

MAX_DEPTH = 32
# What a message of these types is in JSON, and whether a text (in a query or form) can say it.
_WELL_KNOWN = {
    "google.protobuf.Timestamp": ("must be a time with its offset, for example 2026-02-11T02:00:00Z", True),
    "google.protobuf.Duration": ("must be a number of seconds followed by s, for example 1.5s", True),
    "google.protobuf.Struct": ("must be a JSON object", False),
}
_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
_DECIMAL = re.compile(r"-?[0-9]{1,20}")
_Convert: TypeAlias = Callable[[object], Any]


class _WrongValueError(Exception):
    """What would be right."""


def load_object(body: bytes) -> dict[str, Any]:
    """Reads a JSON object (RFC 8259).

    Raises MALFORMED_BODY for whatever two readers could understand differently: duplicate members, NaN, lone
    surrogates, text that is not UTF-8; and for more than 32 levels.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise malformed(f"the body is not JSON: line {error.lineno}, column {error.colno}") from None
    if not isinstance(value, dict):
        raise malformed("the body must be a JSON object")
    # Few brackets cannot be deep: most bodies need no walk.
    if body.count(b"{") + body.count(b"[") > MAX_DEPTH and _deeper_than(value, MAX_DEPTH):
        raise malformed(f"the body is nested more than {MAX_DEPTH} levels deep")
    json.loads(body.decode(), object_pairs_hook=_refuse_duplicates, parse_int=len, parse_float=len)
    return value


def malformed(text: str) -> MessmailError:
    """Makes the error for a body that cannot be read."""
    return MessmailError(Reason.ERROR_REASON_MALFORMED_BODY, text)


def _refuse_duplicates(members: list[tuple[str, object]]) -> None:
    names = [name for name, _ in members]
    if len(set(names)) < len(names):
        raise malformed("an object of the body has two members of the same name")


def _deeper_than(value: object, levels: int) -> bool:
    layer = [value]
    for _ in range(levels + 1):
        layer = [
            inner
            for outer in layer
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return bool(layer)


def fill(message: Message, members: Mapping[str, object], violations: list[FieldViolation], path: str = "") -> None:
    """Puts the members of a JSON object into a message. null means left out. What is wrong joins the violations."""
    fields = _fields(message.DESCRIPTOR)
    for name, value in members.items():
        field = fields.get(name)
        if field is None:
            violations.append(FieldViolation(f"{path}{name[:100]}", unknown_field(fields)))
        elif value is not None:
            _set(message, field, value, violations, f"{path}{name}")


def fill_from_text(
    message: Message, texts: Mapping[str, str], violations: list[FieldViolation], *, ignore_unknown: bool = False
) -> None:
    """Puts the parameters of a query, form or path into a message."""
    fields = {name: field for name, field in _fields(message.DESCRIPTOR).items() if can_be_text(field)}
    for name, text in texts.items():
        field = fields.get(name)
        if field is not None:
            _set(message, field, _from_text(field, text), violations, name)
        elif name == "access_token":
            violations.append(FieldViolation(name, "send it as 'Authorization: Bearer <ACCESS_TOKEN>', nowhere else"))
        elif not ignore_unknown:
            violations.append(FieldViolation(name[:100], unknown_field(fields)))


def unknown_field(known: Mapping[str, object]) -> str:
    """Says that a field is not known, and which are."""
    return f"is not known here; known are {', '.join(known)}" if known else "is not known here; nothing is"


def can_be_text(field: FieldDescriptor) -> bool:
    """Tells whether a query or form can carry a field."""
    if field.is_repeated:
        return False
    return field.message_type is None or _WELL_KNOWN.get(field.message_type.full_name, ("", False))[1]


def _from_text(field: FieldDescriptor, text: str) -> object:
    if field.cpp_type in _INTEGERS:
        return int(text) if _DECIMAL.fullmatch(text) else text
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return {"true": True, "false": False}.get(text, text)
    return text


@cache
def _fields(descriptor: Descriptor) -> dict[str, FieldDescriptor]:
    return {field.name: field for field in descriptor.fields}


def check_readable(descriptor: Descriptor) -> None:
    """Raises ValueError when a message has fields that cannot be read from JSON here. It must not contain itself."""
    for field in descriptor.fields:
        inner = field.message_type
        if inner is None or inner.full_name in _WELL_KNOWN:
            continue
        if inner.GetOptions().map_entry or inner.file.package == "google.protobuf":
            raise ValueError(f"{field.full_name}: a field of this type cannot be carried over REST yet")
        check_readable(inner)


def _set(message: Message, field: FieldDescriptor, value: object, violations: list[FieldViolation], path: str) -> None:
    if not field.is_repeated:
        _set_one(message, field, value, violations, path)
    elif not isinstance(value, list):
        violations.append(FieldViolation(path, "must be a JSON array"))
    elif field.message_type is not None:
        elements = getattr(message, field.name)
        for index, element in enumerate(value):
            _fill_message(elements.add(), element, violations, f"{path}[{index}]")
    else:
        elements, convert = getattr(message, field.name), _converter(field)
        for index, element in enumerate(value):
            try:
                elements.append(convert(element))
            except _WrongValueError as wrong:
                violations.append(FieldViolation(f"{path}[{index}]", str(wrong)))


def _set_one(
    message: Message, field: FieldDescriptor, value: object, violations: list[FieldViolation], path: str
) -> None:
    if field.message_type is not None:
        _fill_message(getattr(message, field.name), value, violations, path)
        return
    try:
        setattr(message, field.name, _converter(field)(value))
    except _WrongValueError as wrong:
        violations.append(FieldViolation(path, str(wrong)))


def _fill_message(message: Message, value: Any, violations: list[FieldViolation], path: str) -> None:
    message.SetInParent()
    right = _WELL_KNOWN.get(message.DESCRIPTOR.full_name)
    if right is not None:
        try:
            json_format.ParseDict(value, message)
        except (json_format.ParseError, ValueError, TypeError, AttributeError):
            violations.append(FieldViolation(path, right[0]))
    elif isinstance(value, dict):
        fill(message, value, violations, f"{path}.")
    else:
        violations.append(FieldViolation(path, "must be a JSON object"))


@cache
def _converter(field: FieldDescriptor) -> _Convert:
    if field.cpp_type in _INTEGERS:
        return _integer(*_INTEGERS[field.cpp_type])
    if field.enum_type is not None:
        return _enum(enum_numbers(field.enum_type))
    if field.type == FieldDescriptor.TYPE_BYTES:
        return _bytes
    return {
        FieldDescriptor.CPPTYPE_STRING: _string,
        FieldDescriptor.CPPTYPE_BOOL: _bool,
        FieldDescriptor.CPPTYPE_DOUBLE: _number,
        FieldDescriptor.CPPTYPE_FLOAT: _number,
    }[field.cpp_type]


def _string(value: object) -> str:
    return value if isinstance(value, str) else _wrong("must be a string")


def _bool(value: object) -> bool:
    return value if isinstance(value, bool) else _wrong("must be true or false")


def _number(value: object) -> float:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else _wrong("must be a number")


def _bytes(value: object) -> bytes:
    try:
        return base64.b64decode(_string(value), validate=True)
    except (binascii.Error, ValueError):
        _wrong("must be base64 (RFC 4648 section 4)")


def _integer(least: int, most: int) -> _Convert:
    right = f"must be a whole number from {least} to {most}"

    def convert(value: object) -> int:
        # ProtoJSON writes 64 bits as a string, because not every reader of JSON can hold them in a number.
        if most > 2**53 and isinstance(value, str) and _DECIMAL.fullmatch(value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
            _wrong(right)
        return int(value) if least <= value <= most else _wrong(right)

    return convert


def _enum(numbers: Mapping[str, int]) -> _Convert:
    # The first word means "not said", which is said by leaving the field out.
    right = f"must be one of {', '.join(list(numbers)[1:])}"

    def convert(value: object) -> int:
        number = numbers.get(value) if isinstance(value, str) else None
        return number if number is not None else _wrong(right)

    return convert


def _wrong(right: str) -> NoReturn:
    raise _WrongValueError(right)
