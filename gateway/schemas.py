"""JSON Schemas of the contract's messages (JSON Schema 2020-12, as OpenAPI 3.1 has it), with their rules and comments.

A message is described differently on its two ways: a request may leave fields out, or say null for them, and must not
add any; an answer always has every field, null where there is nothing, unless its RPC leaves such fields out.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any, TypeAlias

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from buf.validate import validate_pb2
from gateway.enum_words import enum_words
from gateway.json_reader import can_be_text
from gateway.json_writer import is_absent_when_empty

Schema: TypeAlias = dict[str, Any]

_WELL_KNOWN: dict[str, Schema] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$"},
    "google.protobuf.Struct": {"type": "object", "additionalProperties": True},
}
_SCALARS: dict[int, Schema] = {
    FieldDescriptor.CPPTYPE_STRING: {"type": "string"},
    FieldDescriptor.CPPTYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.CPPTYPE_INT32: {"type": "integer", "format": "int32"},
    FieldDescriptor.CPPTYPE_UINT32: {"type": "integer", "minimum": 0, "maximum": 2**32 - 1},
    FieldDescriptor.CPPTYPE_INT64: {"type": "string", "pattern": "^-?[0-9]+$"},
    FieldDescriptor.CPPTYPE_UINT64: {"type": "string", "pattern": "^[0-9]+$"},
    FieldDescriptor.CPPTYPE_DOUBLE: {"type": "number"},
    FieldDescriptor.CPPTYPE_FLOAT: {"type": "number"},
}
_UUID_OR_NOTHING = "^([0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})?$"


@cache
def _comments() -> dict[str, str]:
    loaded: dict[str, str] = json.loads(resources.files("messmail").joinpath("comments.json").read_bytes())
    return loaded


def comment_of(full_name: str) -> str:
    """Returns the comment of an element of the contract."""
    return _comments().get(full_name, "")


class Schemas:
    """The schemas of all messages that were asked for, to be put into the document as its components."""

    def __init__(self) -> None:
        self.components: dict[str, Schema] = {}

    def answer(self, message: Descriptor, *, omits_absent: bool = False) -> Schema:
        """Returns the schema of an answer, which may leave out what is absent."""
        reference = self._reference(message, message.name, is_request=False)
        if omits_absent:
            self.components[message.name]["required"] = [
                field.name for field in message.fields if not (field.has_presence or is_absent_when_empty(field))
            ]
        return reference

    def request(self, message: Descriptor, left_out: tuple[str, ...] = (), *, all_optional: bool = False) -> Schema:
        """Returns the schema of a request body, without the fields that come from elsewhere."""
        schema = self._object(message, is_request=True)
        for name in left_out:
            schema["properties"].pop(name, None)
        schema["required"] = [name for name in schema["required"] if name not in left_out and not all_optional]
        return schema

    def form(self, message: Descriptor, ignored: tuple[str, ...], *, is_open: bool, all_optional: bool) -> Schema:
        """Returns the schema of a form body: the fields that a text can carry, and those that mean nothing."""
        schema = self.request(message, all_optional=all_optional)
        # As they are in a query: no text is null.
        properties = {field.name: self.field(field, is_request=True) for field in message.fields if can_be_text(field)}
        properties |= {name: {"type": "string", "description": "Accepted, and means nothing."} for name in ignored}
        return {**schema, "properties": properties, "additionalProperties": is_open}

    def field(self, field: FieldDescriptor, *, is_request: bool) -> Schema:
        """Returns the schema of one field."""
        one = self._one(field, is_request=is_request)
        if field.is_repeated:
            one = {"type": "array", "items": one, **_item_counts(field)}
        elif field.has_presence and not is_request:
            one = _nullable(one)
        description = comment_of(field.full_name)
        return {**one, "description": description} if description else one

    def _one(self, field: FieldDescriptor, *, is_request: bool) -> Schema:
        message = field.message_type
        if message is not None:
            if message.full_name in _WELL_KNOWN:
                return dict(_WELL_KNOWN[message.full_name])
            return self._reference(
                message, f"{message.name}Input" if is_request else message.name, is_request=is_request
            )
        if field.enum_type is not None:
            words = list(enum_words(field.enum_type).values())
            # The first word means "not said", which a request says by leaving the field out.
            return {"type": "string", "enum": words[1:] if is_request else words}
        if field.type == FieldDescriptor.TYPE_BYTES:
            return {"type": "string", "contentEncoding": "base64"}
        return {**_SCALARS[field.cpp_type], **(_bounds(field) if is_request else _format(field))}

    def _reference(self, message: Descriptor, name: str, *, is_request: bool) -> Schema:
        if message.full_name in _WELL_KNOWN:
            return dict(_WELL_KNOWN[message.full_name])
        if name not in self.components:
            self.components[name] = {}  # A message may contain itself.
            self.components[name] = self._object(message, is_request=is_request)
        return {"$ref": f"#/components/schemas/{name}"}

    def _object(self, message: Descriptor, *, is_request: bool) -> Schema:
        properties = {field.name: self.field(field, is_request=is_request) for field in message.fields}
        schema: Schema = {"type": "object", "properties": properties}
        description = comment_of(message.full_name)
        if description:
            schema["description"] = description
        if is_request:
            schema["required"] = [field.name for field in message.fields if is_required(field)]
            schema["properties"] = {
                name: field if name in schema["required"] else _nullable(field) for name, field in properties.items()
            }
            schema["additionalProperties"] = False
        else:
            schema["required"] = list(properties)
        return schema


def is_required(field: FieldDescriptor) -> bool:
    """Tells whether a request is refused without the field."""
    rules = _rules(field)
    return rules.required or rules.string.min_len > 0 or rules.repeated.min_items > 0


def _rules(field: FieldDescriptor) -> validate_pb2.FieldRules:
    return field.GetOptions().Extensions[validate_pb2.field]


def _bounds(field: FieldDescriptor) -> Schema:
    rules = _rules(field)
    bounds = _format(field)
    if rules.string.min_len:
        bounds["minLength"] = rules.string.min_len
    # A text of so many bytes never has more characters.
    if rules.string.max_len or rules.string.max_bytes:
        bounds["maxLength"] = rules.string.max_len or rules.string.max_bytes
    if rules.string.pattern:
        # A text that is left out when it is empty may be empty.
        is_optional = rules.ignore == validate_pb2.IGNORE_IF_ZERO_VALUE
        bounds["pattern"] = f"^$|{rules.string.pattern}" if is_optional else rules.string.pattern
    if rules.uint32.HasField("lte"):
        bounds["maximum"] = rules.uint32.lte
    examples = list(rules.string.example)
    return {**bounds, "examples": examples} if examples else bounds


def _format(field: FieldDescriptor) -> Schema:
    rules = _rules(field)
    if not rules.string.uuid:
        return {}
    # No format allows for a text that may be empty, which says the same as leaving it out.
    return {"pattern": _UUID_OR_NOTHING} if rules.ignore == validate_pb2.IGNORE_IF_ZERO_VALUE else {"format": "uuid"}


def _item_counts(field: FieldDescriptor) -> Schema:
    rules = _rules(field).repeated
    counts = {"minItems": rules.min_items, "maxItems": rules.max_items, "uniqueItems": rules.unique}
    return {name: count for name, count in counts.items() if count}


def _nullable(schema: Schema) -> Schema:
    if "type" not in schema:
        description = {"description": schema["description"]} if "description" in schema else {}
        reference = {name: value for name, value in schema.items() if name != "description"}
        return {"anyOf": [reference, {"type": "null"}], **description}
    words = {"enum": [*schema["enum"], None]} if "enum" in schema else {}
    return {**schema, "type": [schema["type"], "null"], **words}
