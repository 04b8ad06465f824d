"""What must not be logged is not logged: in texts, events, messages and tracebacks; and never at a quadratic price."""

import json
import subprocess
import sys
import time
from dataclasses import dataclass

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from servicekit.redaction import redact_event, redact_message, redact_text

JWT = "eyJhbGciOiJFUzI1NiIsInR5cCI6ImF0K2p3dCJ9.eyJzdWIiOiJhYmMifQ.c2lnbmF0dXJl"
SEALED = "k1_" + "Ab-9_" * 16

REDACTED = {
    "mail to ann@acme.example failed": "mail to [email] failed",
    "<ann.lee+x@acme.example>: 550 no": "<[email]>: 550 no",
    "王小明@例子。台灣": "[email]",
    "ann%40acme.example": "[email]",
    '"ann lee"@acme.example': "[email]",
    "ann@[127.0.0.1]": "[email]",
    "ann@localhost": "[email]",
    '{"email":"ann@acme.example"}': '{"email":"[email]"}',
    "ann@acme.example,bob@acme.example": "[email],[email]",
    "Authorization: Bearer abc.def-ghi_123": "Authorization: Bearer [token]",
    "authorization: basic YWJjOmRlZg==": "authorization: basic [token]",
    f"got {JWT} here": "got [token] here",
    f"link {SEALED}.": "link [token].",
    f"https://acme.example/l/{SEALED}": "https://acme.example/l/[token]",
    "client_secret=hunter2&scope=x": "client_secret=[secret]&scope=x",
    "client_secret='hunter 2' x": "client_secret=[secret] x",
    '{"client_secret": "hunter2", "a": 1}': '{"client_secret": [secret], "a": 1}',
    '{"body": "{\\"client_secret\\": \\"hunter2\\"}"}': '{"body": "{\\"client_secret\\": [secret]}"}',
    "{'password': b'hunter2'}": "{'password': [secret]}",
    "MEMBER_CENTER_APP_PASSWORD=hunter2": "MEMBER_CENTER_APP_PASSWORD=[secret]",
    "MEMBER_CENTER_MASTER_KEYS=k1,k2=": "MEMBER_CENTER_MASTER_KEYS=[secret]",
    'confirm_token="abc"': "confirm_token=[secret]",
    "postgresql://app:hunter2@db:5432/x": "postgresql://[secret]@db:5432/x",
    "redis://:hunter2@db/0": "redis://[secret]@db/0",
    "postgresql://app:hun/ter2@db/x": "postgresql://[secret]@db/x",
    "postgresql://app:hun@ter2@db/x": "postgresql://[secret]@db/x",
    "postgresql://app:hun?ter2@db/x": "postgresql://[secret]?[query]",
    "https://acme.example/a?b=c d": "https://acme.example/a?[query] d",
    "https://acme.example/a#token": "https://acme.example/a#[query]",
    'GET /newsletter/confirm?token=abc HTTP/1.1" 200': 'GET /newsletter/confirm?[query] HTTP/1.1" 200',
    "GET /newsletter/confirm?abc HTTP/1.1": "GET /newsletter/confirm?[query] HTTP/1.1",
}

UNCHANGED = [
    "",
    "ready",
    "What? Nothing.",
    "listening on http://127.0.0.1:8080/docs",
    "http://[::1]:8080",
    "dns:///localhost:50051",
    "invalid token: expired",
    "job 0198c1f2-7a3b-7c11-8d2e-0123456789ab moved to sending",
    "sha256 " + "0123456789abcdef" * 4,
    "messmail.member_center.v1.MemberCenter/Subscribe",
    "@decorator and <object at 0x7f00>",
]


@pytest.mark.parametrize(("text", "shown"), REDACTED.items())
def test_what_must_not_be_logged_becomes_a_mark(text: str, shown: str) -> None:
    assert redact_text(text) == shown
    assert redact_text(shown) == shown


@pytest.mark.parametrize("text", UNCHANGED)
def test_what_is_harmless_stays_readable(text: str) -> None:
    assert redact_text(text) == text


WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=20)


@given(WORDS, st.sampled_from([" ", "\n", "<", '"', "(", "=", ":", ","]), WORDS)
def test_an_address_is_found_whatever_stands_around_it(before: str, mark: str, after: str) -> None:
    assert "acme" not in redact_text(f"{before}{mark}ann@acme.example{mark}{after}")


@given(WORDS)
def test_redaction_is_stable(text: str) -> None:
    once = redact_text(text)
    assert redact_text(once) == once


# fmt: off
HOSTILE = [
    "a", "a.", "@", "a@", "a@a", "%40", '"', '"@', "://", "a://", "://@", "://:", "?", "?a", "/", "eyJ", "eyJaaaaaa.",
    ".", "-", "bearer ", "Bearer\t", "secret", "secret=", "secret='", 'secret="', "secret = ", "token", "token'",
    "password:", "=", "[", "@[", "@[a", "://[", " ", "\n", "\\", "王", "a" * 79 + " ",
]
# fmt: on


def seconds_to_redact(text: str) -> float:
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        redact_text(text)
        best = min(best, time.perf_counter() - began)
    return best


@pytest.mark.parametrize("piece", HOSTILE, ids=ascii)
def test_a_megabyte_takes_eight_times_as_long_as_an_eighth_of_it(piece: str) -> None:
    eighth = piece * (131_072 // len(piece))
    # Linear is 8, quadratic is 64; what takes less than 2 ms is noise.
    assert seconds_to_redact(eighth * 8) < 24 * max(seconds_to_redact(eighth), 0.002)


def test_events_are_redacted_by_name_by_value_and_in_depth() -> None:
    @dataclass
    class Person:
        email: str

    shown = redact_event(
        None,
        "info",
        {
            "event": "sent to ann@acme.example",
            "client_secret": "hunter2",
            "access_token": b"hunter2",
            "count": 3,
            "ok": True,
            "nothing": None,
            "password": None,
            "body": b"hunter2",
            "people": [Person("ann@acme.example"), {"ann@acme.example": {"password": "hunter2"}}],
            "error": ValueError("no ann@acme.example"),
        },
    )
    assert shown == {
        "event": "sent to [email]",
        "client_secret": "[secret]",
        "access_token": "[secret]",
        "count": 3,
        "ok": True,
        "nothing": None,
        "password": None,
        "body": "[7 bytes]",
        "people": [shown["people"][0], {"[email]": {"password": "[secret]"}}],
        "error": "ValueError('no [email])",  # The quote could belong to the address, so it goes too.
    }
    assert "ann" not in shown["people"][0] and "acme" not in shown["people"][0]


def test_a_value_that_cannot_be_printed_or_never_ends_costs_no_log_line() -> None:
    class Unprintable:
        def __str__(self) -> str:
            raise RuntimeError("ann@acme.example")

    endless: list[object] = []
    endless.append(endless)
    shown = redact_event(None, "info", {"event": "x", "a": Unprintable(), "b": endless})
    assert shown["a"] == "[unprintable: RuntimeError]"
    assert "nested too deep" in json.dumps(shown["b"])


def person_class() -> type[Message]:
    """Builds a message type with every kind of field and two marked ones, without asking the contract."""
    file = descriptor_pb2.FileDescriptorProto(name="test/person.proto", package="test", syntax="proto3")
    person = file.message_type.add(name="Person")
    kinds = descriptor_pb2.FieldDescriptorProto
    fields = [
        ("name", kinds.TYPE_STRING, kinds.LABEL_OPTIONAL, "", False),
        ("email", kinds.TYPE_STRING, kinds.LABEL_OPTIONAL, "", True),
        ("notes", kinds.TYPE_STRING, kinds.LABEL_REPEATED, "", False),
        ("client_secret", kinds.TYPE_STRING, kinds.LABEL_OPTIONAL, "", False),
        ("friend", kinds.TYPE_MESSAGE, kinds.LABEL_OPTIONAL, ".test.Person", False),
        ("friends", kinds.TYPE_MESSAGE, kinds.LABEL_REPEATED, ".test.Person", False),
        ("hidden", kinds.TYPE_MESSAGE, kinds.LABEL_REPEATED, ".test.Person", True),
        ("by_name", kinds.TYPE_MESSAGE, kinds.LABEL_REPEATED, ".test.Person.ByNameEntry", False),
        ("state", kinds.TYPE_ENUM, kinds.LABEL_OPTIONAL, ".test.State", False),
        ("states", kinds.TYPE_ENUM, kinds.LABEL_REPEATED, ".test.State", False),
        ("photo", kinds.TYPE_BYTES, kinds.LABEL_OPTIONAL, "", False),
        ("age", kinds.TYPE_INT32, kinds.LABEL_OPTIONAL, "", False),
    ]
    for number, (name, kind, label, type_name, is_marked) in enumerate(fields, start=1):
        field = person.field.add(name=name, number=number, type=kind, label=label)
        if type_name:
            field.type_name = type_name
        if is_marked:
            field.options.debug_redact = True
    entry = person.nested_type.add(name="ByNameEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=kinds.TYPE_STRING, label=kinds.LABEL_OPTIONAL)
    entry.field.add(
        name="value", number=2, type=kinds.TYPE_MESSAGE, label=kinds.LABEL_OPTIONAL, type_name=".test.Person"
    )
    states = file.enum_type.add(name="State")
    states.value.add(name="STATE_UNSPECIFIED", number=0)
    states.value.add(name="STATE_CONFIRMED", number=1)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("test.Person"))


def test_marked_fields_of_a_message_are_dropped_at_every_depth() -> None:
    person_type = person_class()
    marked = {"name": "Ann", "email": "hunter2"}
    message = person_type(
        name="Ann of ann@acme.example", email="hunter2", notes=["a?b=c"], client_secret="hunter2", friend=marked,
        friends=[marked], hidden=[marked], by_name={"ann@acme.example": person_type(**marked)}, state=1,
        states=[0, 1, 7], photo=b"hunter2", age=7,
    )  # fmt: skip
    shown = redact_message(message)
    assert shown == {
        "name": "Ann of [email]",
        "notes": ["a?[query]"],
        "client_secret": "[secret]",
        "friend": {"name": "Ann"},
        "friends": [{"name": "Ann"}],
        "by_name": {"[email]": {"name": "Ann"}},
        "state": "STATE_CONFIRMED",
        "states": ["STATE_UNSPECIFIED", "STATE_CONFIRMED", 7],
        "photo": "[7 bytes]",
        "age": 7,
    }
    assert redact_event(None, "info", {"event": "x", "request": message})["request"] == shown


def test_a_message_nested_ten_thousand_times_is_cut_off() -> None:
    message = inner = person_class()()
    for _ in range(10_000):
        inner = inner.friend  # type: ignore[attr-defined]
        inner.SetInParent()
    assert "nested too deep" in json.dumps(redact_message(message))


LOGGING_PROCESS = """
import logging, threading, warnings
import structlog
from servicekit.telemetry import bind_request_id, configure_logging

logging.getLogger("uvicorn.access").addHandler(logging.StreamHandler())
configure_logging("gateway")
log = structlog.get_logger("ours")
with bind_request_id("r-1"):
    log.info("sent to ann@acme.example", client_secret="hunter2")
    logging.getLogger("uvicorn.access").info('"GET /x?token=%s HTTP/1.1" 200', "hunter2")
log.info("after")
log.debug("below the level")
try:
    raise ValueError("hunter2@acme.example")
except ValueError:
    log.exception("failed")
    logging.getLogger("dramatiq.worker").exception("failed too")
logging.getLogger("grpc").error("%d", "hunter2")
warnings.warn("about hunter2@acme.example")
thread = threading.Thread(target=lambda: {}["hunter2@acme.example"])
thread.start()
thread.join()
log.info("two\\nlines\\u2028or three")
raise RuntimeError("client_secret=hunter2")
"""


def test_every_line_of_a_process_is_redacted_json_whoever_wrote_it() -> None:
    process = subprocess.run([sys.executable, "-c", LOGGING_PROCESS], stderr=subprocess.PIPE, text=True, timeout=60)
    assert process.returncode == 1
    assert "hunter2" not in process.stderr and "ann@" not in process.stderr
    lines = [json.loads(line) for line in process.stderr.splitlines()]
    assert [line["event"].splitlines()[0].split("Warning")[0][-40:] for line in lines[:6]] == [
        "sent to [email]",
        '"GET /x?[query] HTTP/1.1" 200',
        "after",
        "failed",
        "failed too",
        "a log line could not be rendered",
    ]
    assert [line["event"] for line in lines[7:]] == [
        "thread Thread-1 (<lambda>) crashed",
        "two\nlines\u2028or three",
        "process crashed",
    ]
    assert lines[0]["request_id"] == lines[1]["request_id"] == "r-1" and "request_id" not in lines[2]
    assert lines[0]["process"] == lines[1]["process"] == "gateway"
    assert (lines[0]["logger"], lines[0]["level"], lines[1]["logger"]) == ("ours", "info", "uvicorn.access")
    assert lines[0]["timestamp"].endswith("Z")
    assert "ValueError: [email]" in lines[3]["exception"] and "ValueError: [email]" in lines[4]["exception"]
    assert lines[6]["logger"] == "py.warnings" and "[email]" in lines[6]["event"]


def test_an_unknown_log_level_is_said_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    from servicekit.telemetry import configure_logging

    monkeypatch.setenv("MESSMAIL_LOG_LEVEL", "chatty")
    with pytest.raises(ValueError, match="MESSMAIL_LOG_LEVEL must be one of"):
        configure_logging("gateway")
