"""Writes messages of the contract as JSON values: proto names, every field always present, null for what is absent.

Writers are compiled once from the descriptors, because every answer passes here.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from functools import cache
from operator import attrgetter
from typing import Any, TypeAlias

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from gateway.enum_words import enum_words

_Write: TypeAlias = Callable[[Any], Any]
_64_BIT = {FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64}


@cache
def json_writer(descriptor: Descriptor) -> _Write:
    """Returns what turns a message of this type into a JSON value."""
    if descriptor.full_name == "google.protobuf.Timestamp":
        return lambda message: message.ToJsonString()
    if descriptor.file.package == "google.protobuf":
        return lambda message: _with_whole_numbers(json_format.MessageToDict(message))
    fields = [(field.name, _field_writer(field)) for field in descriptor.fields]
    return lambda message: {name: write(message) for name, write in fields}


def is_absent_when_empty(field: FieldDescriptor) -> bool:
    """Tells whether a field is a string that cannot be absent, so that being empty is all it can be instead."""
    return field.type == FieldDescriptor.TYPE_STRING and not field.is_repeated and not field.has_presence


def _with_whole_numbers(value: Any) -> Any:
    """A Struct holds every number as a double; what was sent as 1 is answered as 1, not as 1.0."""
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) <= 2**53 else value
    if isinstance(value, dict):
        return {name: _with_whole_numbers(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_with_whole_numbers(inner) for inner in value]
    return value


def _field_writer(field: FieldDescriptor) -> _Write:
    get = attrgetter(field.name)
    write = _value_writer(field)
    if field.is_repeated:
        return (lambda message: list(get(message))) if write is None else lambda message: [*map(write, get(message))]
    if field.has_presence:
        name, written = field.name, write or (lambda value: value)
        return lambda message: written(get(message)) if message.HasField(name) else None
    return get if write is None else lambda message: write(get(message))


def _value_writer(field: FieldDescriptor) -> _Write | None:
    if field.message_type is not None:
        return _message_writer(field.message_type)
    if field.enum_type is not None:
        words = enum_words(field.enum_type)
        # A newer service may know more words than this gateway.
        return lambda number: words.get(number, number)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return lambda value: base64.b64encode(value).decode()
    # As ProtoJSON does: not every reader of JSON can hold 64 bits in a number.
    return str if field.cpp_type in _64_BIT else None


def _message_writer(descriptor: Descriptor) -> _Write:
    # Looked up when used, so that a type may contain itself.
    def write(message: Message) -> Any:
        return json_writer(descriptor)(message)

    return write
