"""What strangers may store as JSON: size, depth and characters, at the very boundary; and merging as RFC 7396 says."""

import json
import math

import pytest
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from hypothesis import given
from hypothesis import strategies as st

from servicekit.json_bounds import BoundsError, Json, check_json_object, check_struct, merge_patch

# RFC 7396, appendix A, row by row: original, patch, result.
RFC_7396_APPENDIX_A = [
    ('{"a":"b"}', '{"a":"c"}', '{"a":"c"}'),
    ('{"a":"b"}', '{"b":"c"}', '{"a":"b","b":"c"}'),
    ('{"a":"b"}', '{"a":null}', "{}"),
    ('{"a":"b","b":"c"}', '{"a":null}', '{"b":"c"}'),
    ('{"a":["b"]}', '{"a":"c"}', '{"a":"c"}'),
    ('{"a":"c"}', '{"a":["b"]}', '{"a":["b"]}'),
    ('{"a":{"b":"c"}}', '{"a":{"b":"d","c":null}}', '{"a":{"b":"d"}}'),
    ('{"a":[{"b":"c"}]}', '{"a":[1]}', '{"a":[1]}'),
    ('["a","b"]', '["c","d"]', '["c","d"]'),
    ('{"a":"b"}', '["c"]', '["c"]'),
    ('{"a":"foo"}', "null", "null"),
    ('{"a":"foo"}', '"bar"', '"bar"'),
    ('{"e":null}', '{"a":1}', '{"e":null,"a":1}'),
    ("[1,2]", '{"a":"b","c":null}', '{"a":"b"}'),
    ("{}", '{"a":{"bb":{"ccc":null}}}', '{"a":{"bb":{}}}'),
]

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**53) + 1, 2**53 - 1),
    # From 2**53 on, every float is an integer.
    st.floats(-(2.0**53) + 1, 2.0**53 - 1),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8),
)
KEYS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5)
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4))
OBJECTS = st.dictionaries(KEYS, JSON, max_size=4)


def as_struct(value: dict[str, Json]) -> Struct:
    return json_format.ParseDict(value, Struct())


def nested_object(depth: int) -> dict[str, Json]:
    inner: dict[str, Json] = {}
    for _ in range(depth - 1):
        inner = {"a": inner}
    return inner


def nested_list(depth: int) -> dict[str, Json]:
    inner: list[Json] = []
    for _ in range(depth - 2):
        inner = [inner]
    return {"a": inner}


def object_of_size(octets: int) -> dict[str, Json]:
    return {"a": "x" * (octets - len('{"a":""}'))}


@pytest.mark.parametrize(("target", "patch", "result"), RFC_7396_APPENDIX_A)
def test_a_merge_patch_does_what_the_rfc_shows(target: str, patch: str, result: str) -> None:
    assert merge_patch(json.loads(target), json.loads(patch)) == json.loads(result)


@given(JSON, JSON)
def test_a_merge_patch_changes_neither_side_and_is_idempotent(target: Json, patch: Json) -> None:
    before = json.dumps([target, patch])
    once = merge_patch(target, patch)
    assert merge_patch(once, patch) == once
    assert json.dumps([target, patch]) == before


@pytest.mark.parametrize("nested", [nested_object, nested_list])
def test_depth_counts_the_object_itself_and_every_container_in_it(nested: object) -> None:
    assert callable(nested)
    assert check_json_object(nested(4)) == nested(4)
    assert check_struct(as_struct(nested(4))) == nested(4)
    with pytest.raises(BoundsError, match="deeper than 4"):
        check_json_object(nested(5))
    with pytest.raises(BoundsError, match="deeper than 4"):
        check_struct(as_struct(nested(5)))


def test_size_is_counted_in_octets_of_compact_json() -> None:
    assert check_json_object(object_of_size(4096)) == object_of_size(4096)
    assert check_struct(as_struct(object_of_size(4096))) == object_of_size(4096)
    too_large_ones: list[dict[str, Json]] = [
        object_of_size(4097),
        {"a": "王" * 1364},
        {"k" * 4092: 1},
        {"a": [0] * 2046},
    ]
    for too_large in too_large_ones:
        with pytest.raises(BoundsError, match="4096 bytes"):
            check_json_object(too_large)
        with pytest.raises(BoundsError, match="4096 bytes"):
            check_struct(as_struct(too_large))


def test_the_bounds_can_be_set() -> None:
    assert check_json_object(nested_object(5), max_depth=5)
    with pytest.raises(BoundsError):
        check_json_object({"a": 1}, max_bytes=6)
    assert check_json_object({"a": 1}, max_bytes=7)


def test_ten_thousand_nested_messages_are_refused_without_recursion() -> None:
    of_objects, of_lists = Struct(), Struct()
    object_inside = of_objects.fields["a"]
    list_inside = of_lists.fields["a"]
    for _ in range(10_000):
        object_inside = object_inside.struct_value.fields["a"]
        list_inside = list_inside.list_value.values.add()
    object_inside.bool_value = list_inside.bool_value = True
    for message in (of_objects, of_lists):
        with pytest.raises(BoundsError, match="deeper"):
            check_struct(message)
        with pytest.raises(BoundsError, match="larger"):
            check_struct(message, max_depth=100_000)
    with pytest.raises(BoundsError, match="deeper"):
        check_json_object(nested_object(100_000))


def test_an_object_that_contains_itself_or_one_list_a_million_times_is_refused_at_once() -> None:
    endless: dict[str, object] = {}
    endless["a"] = endless
    with pytest.raises(BoundsError, match="deeper"):
        check_json_object(endless)
    shared: list[object] = [0] * 1000
    with pytest.raises(BoundsError, match="larger"):
        check_json_object({"a": [[shared] * 1000] * 1000}, max_depth=10)


def test_integral_numbers_become_integers_where_every_reader_agrees_on_them() -> None:
    numbers = check_struct(as_struct({"a": 1, "b": 1.5, "c": -0.0, "d": 2**53 - 1, "e": 1e-300, "f": True}))
    assert {name: type(number) for name, number in numbers.items()} == {
        "a": int, "b": float, "c": int, "d": int, "e": float, "f": bool,
    }  # fmt: skip
    assert numbers == {"a": 1, "b": 1.5, "c": 0, "d": 2**53 - 1, "e": 1e-300, "f": True}


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        -math.inf,
        2**53,
        -(2**53),
        float(2**53),
        1e16,
        -1e300,
        10**4000,
        b"x",
        {1},
        1j,
        {1: "a"},
        {None: 1},
        "\0",
        "a\0b",
        {"\0": 1},
        "\ud800",
        "a\udfff",
        {"\ud800": 1},
        "\ud83d\ude00",
        ["\0"],
        {"a": {"b": "\0"}},
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_what_the_database_or_json_cannot_hold_is_refused(value: object) -> None:
    with pytest.raises(BoundsError):
        check_json_object({"a": value})


def test_a_message_with_what_json_cannot_hold_is_refused() -> None:
    message = Struct()
    message.fields["a"].SetInParent()
    with pytest.raises(BoundsError, match="no kind"):
        check_struct(message)
    message.fields["a"].number_value = math.nan
    with pytest.raises(BoundsError, match="not finite"):
        check_struct(message)
    message.fields["a"].string_value = "x\0"
    with pytest.raises(BoundsError, match="NUL"):
        check_struct(message)


def test_a_refusal_does_not_repeat_what_it_refuses() -> None:
    for value in ({"ann@acme.example": "\0"}, {"a": "ann@acme.example\0"}, {"a": "ann@acme.example" * 1000}):
        with pytest.raises(BoundsError) as caught:
            check_json_object(value)
        assert "ann" not in caught.value.problem


@given(OBJECTS)
def test_whatever_is_within_bounds_is_the_same_as_plain_values_and_as_a_message(value: dict[str, Json]) -> None:
    plain = check_json_object(value, max_bytes=100_000, max_depth=50)
    assert plain == value
    assert check_struct(as_struct(value), max_bytes=100_000, max_depth=50) == plain
    assert check_json_object(plain, max_bytes=100_000, max_depth=50) == plain
    assert list(plain) == list(value)


@given(OBJECTS, st.integers(2, 60))
def test_nothing_larger_than_the_bound_ever_passes(value: dict[str, Json], max_bytes: int) -> None:
    try:
        plain = check_json_object(value, max_bytes=max_bytes, max_depth=50)
    except BoundsError:
        return
    assert len(json.dumps(plain, ensure_ascii=False, separators=(",", ":")).encode()) <= max_bytes
