"""What one gRPC caller may cost: seconds, bytes, depth and calls at once; and what a server does not show of itself."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import grpc
import pytest

from messmail.member_center.v1 import member_center_pb2 as mc
from messmail.member_center.v1 import member_center_pb2_grpc
from messmail.send_engine.v1 import send_engine_pb2 as se
from messmail.send_engine.v1 import send_engine_pb2_grpc
from servicekit.clients import open_channel
from servicekit.errors import Reason, from_rpc_error
from servicekit.rpc import time_left
from servicekit.server import MAX_CONCURRENT_RPCS, RunningServer, Service, start_server
from servicekit.tokens import TokenVerifier
from tests.claims_table import ClaimRow, cases, hand_in_claim
from tests.member_center_fixtures import MemberCenter, reason_of, unique_address
from tests.rpc.gateway_under_test import ISSUER, KEYS, LIST, access_token

MB = 1024 * 1024


class Slow(member_center_pb2_grpc.MemberCenterServicer):
    """Lets calls wait until it is told to answer, and tells how long they had."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.had: list[float] = []

    def GetPreferences(self, request: mc.GetPreferencesRequest, context: Any) -> mc.GetPreferencesResponse:
        self.had.append(time_left())
        self.go_on.wait(60)
        return mc.GetPreferencesResponse()

    def Subscribe(self, request: mc.SubscribeRequest, context: Any) -> mc.SubscribeResponse:
        return mc.SubscribeResponse()


class Jobs(send_engine_pb2_grpc.SendEngineServicer):
    """Takes every job."""

    def CreateSendJob(self, request: se.CreateSendJobRequest, context: Any) -> se.CreateSendJobResponse:
        return se.CreateSendJobResponse()


SLOW = Slow()  # type: ignore[abstract]
JOBS = Jobs()  # type: ignore[abstract]
GET_PREFERENCES = "messmail.member_center.v1.MemberCenter/GetPreferences"
PREFERENCES = mc.GetPreferencesRequest(list_id=LIST, email="ann@example.com")


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    services = [
        Service(
            "messmail.member_center.v1.MemberCenter",
            lambda server: member_center_pb2_grpc.add_MemberCenterServicer_to_server(SLOW, server),
        ),
        Service(
            "messmail.send_engine.v1.SendEngine",
            lambda server: send_engine_pb2_grpc.add_SendEngineServicer_to_server(JOBS, server),
        ),
    ]
    running = start_server("127.0.0.1:0", services, TokenVerifier(ISSUER, KEYS, lambda _: False))
    yield running
    SLOW.go_on.set()
    running.stop(0)


@pytest.fixture
def channel(server: RunningServer) -> Iterator[grpc.Channel]:
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(server.address, options=options) as opened:
        yield opened


@pytest.mark.claim("I12", "calls without a deadline: the server's own of 10 s")
def test_a_call_without_a_deadline_has_ten_seconds(channel: grpc.Channel) -> None:
    SLOW.go_on.set()
    member_center_pb2_grpc.MemberCenterStub(channel).GetPreferences(PREFERENCES)
    assert 9 < SLOW.had[-1] <= 10


@pytest.mark.claim("I12", "calls with less than 100 ms left: DEADLINE_EXCEEDED, and no work", run=cases(500))
def test_a_call_that_cannot_be_answered_in_time_is_not_begun(channel: grpc.Channel) -> None:
    SLOW.go_on.set()
    before = len(SLOW.had)
    stub = member_center_pb2_grpc.MemberCenterStub(channel)
    for _ in range(cases(500)):
        with pytest.raises(grpc.RpcError) as refused:
            stub.GetPreferences(PREFERENCES, timeout=0.09)
        assert refused.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert len(SLOW.had) == before


@pytest.mark.claim("I12", "calls that send no message: cancelled, and others are answered", run=30)
@pytest.mark.parametrize("path", [f"/{GET_PREFERENCES}", "/grpc.health.v1.Health/Check"])
def test_calls_whose_message_does_not_come_do_not_keep_the_threads(channel: grpc.Channel, path: str) -> None:
    SLOW.go_on.set()
    never, codes = threading.Event(), Counter[grpc.StatusCode]()

    def no_message() -> Iterator[bytes]:
        never.wait(60)
        yield from ()

    # More of them than there are threads.
    begin: Any = channel.stream_unary(path)
    calls = [begin.future(no_message()) for _ in range(30)]
    stub = member_center_pb2_grpc.MemberCenterStub(channel)
    stub.GetPreferences(PREFERENCES, timeout=30, wait_for_ready=True)
    for call in calls:
        codes[call.code()] += 1
    never.set()
    assert codes == {grpc.StatusCode.CANCELLED: 30}


@pytest.mark.parametrize("path", [f"/{GET_PREFERENCES}", "/grpc.health.v1.Health/Check"])
def test_a_call_without_a_message_is_refused(channel: grpc.Channel, path: str) -> None:
    call: Any = channel.stream_unary(path)
    with pytest.raises(grpc.RpcError) as refused:
        call(iter(()))
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.claim("I12", "messages too large: RESOURCE_EXHAUSTED")
@pytest.mark.parametrize("octets", [MB + 10_000, 3 * MB, 5 * MB, 20 * MB])
def test_a_message_that_is_too_large_is_refused(channel: grpc.Channel, octets: int) -> None:
    stub = member_center_pb2_grpc.MemberCenterStub(channel)
    with pytest.raises(grpc.RpcError) as refused:
        stub.Subscribe(mc.SubscribeRequest(list_id=LIST, email="a" * octets))
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert from_rpc_error(refused.value).reason == Reason.ERROR_REASON_BODY_TOO_LARGE


@pytest.mark.parametrize(("octets", "taken"), [(MB, True), (MB + 10_000, False)])
def test_a_send_job_may_carry_two_bodies_of_a_megabyte(channel: grpc.Channel, octets: int, taken: bool) -> None:
    stub = send_engine_pb2_grpc.SendEngineStub(channel)
    job = se.CreateSendJobRequest(list_id=LIST, subject="s", body_html="h" * octets, body_text="t" * octets)
    metadata = (("authorization", f"Bearer {access_token('newsletter:send.write')}"),)
    if taken:
        stub.CreateSendJob(job, metadata=metadata)
    else:
        assert reason_of(lambda: stub.CreateSendJob(job, metadata=metadata)) == "BODY_TOO_LARGE"


@pytest.mark.claim("I12", "reflection and channelz: absent unless asked for")
@pytest.mark.parametrize(
    "path",
    [
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.channelz.v1.Channelz/GetServers",
    ],
)
def test_a_server_shows_nothing_of_itself_unasked(channel: grpc.Channel, path: str) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        ask: Any = channel.unary_unary(path)
        ask(b"")
    assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.slow
def test_too_many_calls_at_once_are_refused_and_none_is_cancelled(
    server: RunningServer, record_property: object
) -> None:
    calls = 4000
    SLOW.go_on.clear()
    with grpc.insecure_channel(server.address) as channel:
        stub = member_center_pb2_grpc.MemberCenterStub(channel)
        waiting: list[Any] = [stub.GetPreferences.future(PREFERENCES, timeout=100) for _ in range(calls)]
        deadline = time.monotonic() + 60
        # What is beyond the limit is refused while the rest still waits.
        while sum(call.done() for call in waiting) < calls - MAX_CONCURRENT_RPCS and time.monotonic() < deadline:
            time.sleep(0.02)
        SLOW.go_on.set()
        answers = Counter(call.code() for call in waiting)
    refused = answers[grpc.StatusCode.RESOURCE_EXHAUSTED]
    wrong = calls - answers[grpc.StatusCode.OK] - refused
    what = "calls at once: answered, or RESOURCE_EXHAUSTED beyond the limit"
    hand_in_claim(record_property, ClaimRow("I12", what, calls, calls, wrong))
    assert wrong == 0, answers
    assert refused == calls - MAX_CONCURRENT_RPCS
    overflow = next(call for call in waiting if call.code() == grpc.StatusCode.RESOURCE_EXHAUSTED)
    error = from_rpc_error(overflow)
    assert (error.reason, error.retry_after) == (Reason.ERROR_REASON_UNAVAILABLE, 1.0)


def nested(levels: int, in_lists: bool) -> bytes:
    """Writes preferences of so many levels by hand, since protobuf does not write deeper than it reads."""
    value = b"\x20\x01"  # true
    for _ in range(levels):
        value = field(6, field(1, value)) if in_lists else field(5, entry(value))
    return field(mc.UpdatePreferencesRequest.PREFERENCES_FIELD_NUMBER, entry(value))


def entry(value: bytes) -> bytes:
    """The one member of an object."""
    return field(1, field(1, b"a") + field(2, value))


def field(number: int, content: bytes) -> bytes:
    """A field of the wire format: number and type, length, content."""
    length, rest = bytearray(), len(content)
    while rest > 127:
        length.append(rest & 127 | 128)
        rest >>= 7
    return bytes([number << 3 | 2, *length, rest]) + content


@pytest.mark.slow
def test_nested_preferences_are_a_clear_refusal_however_deep(
    member_center: MemberCenter, record_property: object
) -> None:
    newsletter = member_center.make_newsletter()
    known = mc.UpdatePreferencesRequest(list_id=newsletter.list_id, email=unique_address()).SerializeToString()
    update: Any = open_channel(member_center.server.address).unary_unary(
        "/messmail.member_center.v1.MemberCenter/UpdatePreferences"
    )
    run, reasons = cases(10_000), Counter[str]()
    for number in range(run):
        # Up to some 2,000 levels: protobuf itself reads 100.
        levels = 4 + number * 2000 // run
        reason = reason_of(partial(update, known + nested(levels, in_lists=bool(number % 2))))
        reasons[reason] += 1
    wrong = run - reasons["INVALID_FIELD"] - reasons["MALFORMED_BODY"]
    what = "nested preferences over gRPC: a refusal, no fault"
    hand_in_claim(record_property, ClaimRow("I13", what, 10_000, run, wrong))
    assert wrong == 0, reasons
    # Some were read, and some not.
    assert set(reasons) == {"INVALID_FIELD", "MALFORMED_BODY"}
