"""Messages to JSON and back: nothing is lost, and nothing is read that was not meant."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from gateway.enum_words import enum_words
from gateway.json_reader import fill, fill_from_text, load_object
from gateway.json_writer import json_writer
from gateway.routes import read_routes
from gateway.wiring import SERVICES
from messmail.member_center.v1 import member_center_pb2 as mc
from messmail.send_engine.v1 import send_engine_pb2 as se
from servicekit.errors import FieldViolation, MessmailError

ROUTES = [route for service in SERVICES.values() for route in read_routes(service)]
MESSAGES = sorted(
    {
        message.full_name: message for route in ROUTES for message in (route.rpc.input_type, route.rpc.output_type)
    }.items()
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
# Adding nothing turns minus zero, whose sign JSON need not keep, into zero.
NUMBERS = st.floats(allow_nan=False, allow_infinity=False).map(lambda number: number + 0) | st.integers(-(2**53), 2**53)
JSON_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
STRUCTS = st.dictionaries(TEXT, JSON_VALUES, max_size=4).map(lambda value: ParseDict(value, Struct()))
# The years 1 to 9999, which is what RFC 3339 can write.
TIMESTAMPS = st.builds(Timestamp, seconds=st.integers(-62135596800, 253402300799), nanos=st.integers(0, 999_999_999))
DURATIONS = st.builds(Duration, seconds=st.integers(0, 315_576_000_000), nanos=st.integers(0, 999_999_999))
WELL_KNOWN = {
    "google.protobuf.Struct": STRUCTS,
    "google.protobuf.Timestamp": TIMESTAMPS,
    "google.protobuf.Duration": DURATIONS,
}


def messages(descriptor: Descriptor) -> st.SearchStrategy[Message]:
    """Generates messages of a type, with each field that has presence set or not."""
    fields = {field.name: values(field) for field in descriptor.fields}
    optional = {name: fields.pop(name) for name, field in descriptor.fields_by_name.items() if field.has_presence}
    return st.fixed_dictionaries(fields, optional=optional).map(lambda given: GetMessageClass(descriptor)(**given))


def values(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    one = single_values(field)
    return st.lists(one, max_size=3) if field.is_repeated else one


def single_values(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.message_type is not None:
        name = field.message_type.full_name
        return WELL_KNOWN[name] if name in WELL_KNOWN else messages(field.message_type)
    if field.enum_type is not None:
        return st.sampled_from([value.number for value in field.enum_type.values])
    return {
        FieldDescriptor.CPPTYPE_STRING: TEXT,
        FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
        FieldDescriptor.CPPTYPE_UINT32: st.integers(0, 2**32 - 1),
    }[field.cpp_type]


@pytest.mark.parametrize("descriptor", [descriptor for _, descriptor in MESSAGES], ids=[name for name, _ in MESSAGES])
def test_what_is_written_can_be_read_back(descriptor: Descriptor) -> None:
    @given(messages(descriptor))
    def holds(message: Message) -> None:
        written = json_writer(descriptor)(message)
        assert list(written) == [field.name for field in descriptor.fields]
        read, violations = GetMessageClass(descriptor)(), list[FieldViolation]()
        fill(read, load_object(orjson.dumps(written)), violations)
        assert (read, violations) == (message, [])

    holds()


@given(STRUCTS)
def test_an_object_of_a_person_is_written_as_the_library_writes_it(struct: Struct) -> None:
    written = json.loads(orjson.dumps(json_writer(Struct.DESCRIPTOR)(struct)))
    assert ParseDict(written, Struct()) == struct
    assert written == MessageToDict(struct)


@given(JSON_VALUES)
def test_whatever_a_field_is_given_is_read_or_explained(value: Any) -> None:
    for descriptor in (se.CreateSendJobRequest.DESCRIPTOR, mc.SubscribeRequest.DESCRIPTOR, se.SendJob.DESCRIPTOR):
        for field in descriptor.fields:
            message, violations = GetMessageClass(descriptor)(), list[FieldViolation]()
            fill(message, {field.name: value}, violations)
            assert all(violation.field.startswith(field.name) for violation in violations)
            texts = " ".join(violation.description for violation in violations)
            assert "protobuf" not in texts and "Error" not in texts and "object at" not in texts


@given(JSON_VALUES)
def test_objects_are_loaded_as_the_library_loads_them_and_nothing_else_is(value: Any) -> None:
    body = orjson.dumps(value)
    if isinstance(value, dict):
        assert load_object(body) == orjson.loads(body)
    else:
        with pytest.raises(MessmailError):
            load_object(body)


@given(st.binary(max_size=40) | st.text(max_size=40).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_no_bytes_break_the_reader(body: bytes) -> None:
    try:
        load_object(b'{"a":' + body + b"}")
    except MessmailError as error:
        assert error.status.http == 400


@pytest.mark.parametrize(("levels", "accepted"), [(1, True), (32, True), (33, False), (1000, False), (100_000, False)])
@pytest.mark.parametrize(("opening", "closing"), [(b'{"a":', b"}"), (b"[", b"]")], ids=["objects", "arrays"])
def test_a_body_may_have_32_levels(levels: int, accepted: bool, opening: bytes, closing: bytes) -> None:
    body = b'{"a":' + opening * (levels - 1) + b"1" + closing * (levels - 1) + b"}"
    if accepted:
        load_object(body)
    else:
        with pytest.raises(MessmailError):
            load_object(body)


def test_many_brackets_in_a_text_are_not_depth() -> None:
    assert load_object(orjson.dumps({"a": "[{" * 100_000}))["a"].startswith("[{")


def test_every_word_of_an_enum_is_lower_case_and_its_own() -> None:
    for enum in {field.enum_type for _, message in MESSAGES for field in message.fields if field.enum_type}:
        words = list(enum_words(enum).values())
        assert words[0] == "unspecified"
        assert len(set(words)) == len(words)
        assert all(word == word.lower() and not word.startswith(enum.name.lower()) for word in words)


@pytest.mark.parametrize(
    ("field", "text", "read"),
    [
        ("page_size", "7", 7),
        ("page_size", "-1", None),
        ("page_size", "1e3", None),
        ("page_size", "٣", None),
        ("page_size", "4294967296", None),
        ("page_size", "", None),
        ("page_token", "7", "7"),
    ],
)
def test_a_text_becomes_the_type_of_its_field(field: str, text: str, read: object) -> None:
    message, violations = se.ListSendJobsRequest(), list[FieldViolation]()
    fill_from_text(message, {field: text}, violations)
    if read is None:
        assert [violation.field for violation in violations] == [field]
    else:
        assert getattr(message, field) == read


def test_null_means_left_out() -> None:
    message, violations = se.CreateSendJobRequest(), list[FieldViolation]()
    fill(message, {"name": None, "scheduled_at": None, "on_unknown": None}, violations)
    assert (message, violations) == (se.CreateSendJobRequest(), [])


def test_an_empty_object_is_not_the_same_as_none() -> None:
    message = mc.UpdatePreferencesRequest()
    fill(message, {"preferences": {}}, [])
    assert message.HasField("preferences")
