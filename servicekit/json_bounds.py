"""JSON objects that strangers hand us (preferences): how large and how deep they may be, and how they are merged.

Everything here walks with a stack of its own, so that hostile nesting costs an error and never the interpreter's
recursion limit. What the members of the object mean is not decided here.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from google.protobuf.struct_pb2 import ListValue, Struct, Value

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

_MAX_EXACT_INTEGER: Final = 2**53 - 1  # RFC 8259 section 6: what every reader of JSON agrees on.


class BoundsError(ValueError):
    """Says which bound an object breaks; `problem` never repeats a key or a value."""

    def __init__(self, problem: str) -> None:
        self.problem = problem
        super().__init__(problem)


def check_json_object(value: Mapping[str, object], max_bytes: int = 4096, max_depth: int = 4) -> dict[str, Json]:
    """Returns a plain copy of the object, integral numbers as ints; raises BoundsError.

    Bytes are those of compact JSON in UTF-8. The object itself is depth 1, each object or array inside adds one.
    Texts that PostgreSQL's jsonb cannot hold (NUL, lone surrogates) and numbers that JSON cannot (NaN, infinities,
    integers beyond 2**53 - 1) are refused.
    """
    return _copy_within_bounds(value, _open_plain, max_bytes, max_depth)


def check_struct(message: Struct, max_bytes: int = 4096, max_depth: int = 4) -> dict[str, Json]:
    """Returns the message as a plain object under the same bounds as `check_json_object`; raises BoundsError."""
    return _copy_within_bounds(message, _open_struct, max_bytes, max_depth)


def without_twins(members: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Makes an object of its members, as object_pairs_hook of json.loads; raises BoundsError for a name twice.

    Two readers could pick different ones.
    """
    found = dict(members)
    if len(found) != len(members):
        raise BoundsError("has two members of the same name")
    return found


def merge_patch(target: Json, patch: Json) -> Json:
    """Returns the target with the patch applied (RFC 7396); changes neither.

    Both must have passed the bounds above; the result may be larger than either, so it has to pass them again.
    """
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


def _copy_within_bounds(
    root: object, open_node: Callable[[object], object], max_bytes: int, max_depth: int
) -> dict[str, Json]:
    """Copies what `open_node` shows of a node, one level at a time: a scalar, or a list or dict of unopened nodes."""
    too_large = BoundsError(f"is larger than {max_bytes} bytes")
    top = open_node(root)
    if not isinstance(top, dict):
        raise BoundsError("is not a JSON object")
    copy: dict[str, Json] = {}
    waiting: list[tuple[dict[str, Json] | list[Json], dict[object, object] | list[object], int]] = [(copy, top, 1)]
    nodes = 0
    while waiting:
        target, source, depth = waiting.pop()
        if depth > max_depth:
            raise BoundsError(f"is nested deeper than {max_depth} levels")
        # Every node is at least one byte of JSON, so this ends the walk early, even over a Python object that
        # contains the same large list a thousand times.
        nodes += len(source)
        if nodes > max_bytes:
            raise too_large
        for key, node in source.items() if isinstance(source, dict) else enumerate(source):
            opened = open_node(node)
            child: Json
            if isinstance(opened, dict):
                child = {}
                waiting.append((child, opened, depth + 1))
            elif isinstance(opened, list):
                child = []
                waiting.append((child, opened, depth + 1))
            else:
                child = _check_scalar(opened)
            if isinstance(target, list):
                target.append(child)
            else:
                target[_check_text(key)] = child
    if len(json.dumps(copy, ensure_ascii=False, separators=(",", ":")).encode()) > max_bytes:
        raise too_large
    return copy


def _open_plain(node: object) -> object:
    if isinstance(node, Mapping):
        return dict(node)
    return list(node) if isinstance(node, list | tuple) else node


def _open_struct(node: object) -> object:
    if isinstance(node, Value):
        kind = node.WhichOneof("kind")
        if kind is None:
            raise BoundsError("has a value of no kind")
        if kind == "null_value":
            return None
        node = getattr(node, kind)
    if isinstance(node, Struct):
        return dict(node.fields)
    return list(node.values) if isinstance(node, ListValue) else node


def _check_scalar(value: object) -> Json:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _check_text(value)
    if isinstance(value, int):
        if abs(value) > _MAX_EXACT_INTEGER:
            raise BoundsError("has an integer beyond 2**53 - 1")
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise BoundsError("has a number that is not finite")
        # Stored, 1e300 is an integer too, of 301 digits.
        return _check_scalar(int(value)) if value.is_integer() else value
    raise BoundsError("has a value that JSON does not know")


def _check_text(text: object) -> str:
    if not isinstance(text, str):
        raise BoundsError("has a key that is not a string")
    if "\0" in text:
        raise BoundsError("has a NUL character in a text")
    # isascii is the quick answer for nearly every text; only the rest can hold a surrogate.
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise BoundsError("has half a surrogate pair in a text")
    return text
