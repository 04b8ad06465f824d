"""The interceptor that every RPC passes, on a real server at a free port."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from typing import Any, cast

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from messmail.member_center.v1 import member_center_pb2 as mc
from messmail.send_engine.v1 import send_engine_pb2 as pb
from messmail.send_engine.v1 import send_engine_pb2_grpc
from servicekit.access import FORWARDED_IP, GATEWAY_AUTHORIZATION, Caller, caller
from servicekit.arrival import Arrivals
from servicekit.errors import MessmailError, Reason, from_rpc_error
from servicekit.rpc import Guard, validate
from servicekit.server import Service, start_server
from servicekit.tokens import TokenVerifier

ISSUER = "http://issuer.example"
KEY = ec.generate_private_key(ec.SECP256R1())
TENANT, OTHER, JOB = (str(uuid.UUID(int=number, version=4)) for number in (1, 2, 3))


class Ring:
    def key(self, kid: str) -> EllipticCurvePublicKey | None:
        return KEY.public_key() if kid == "k" else None


def token(scope: str, tenant: str | None = TENANT) -> str:
    now = int(time.time())
    client = str(uuid.uuid4())
    payload = {
        "iss": ISSUER, "aud": "messmail", "exp": now + 600, "iat": now, "jti": "j", "sub": client, "client_id": client,
        "scope": scope, "usage": "tenant_api" if tenant else "internal",
    }  # fmt: skip
    if tenant:
        payload["tenant_id"] = tenant
    return jwt.encode(payload, KEY, algorithm="ES256", headers={"typ": "at+jwt", "kid": "k"})


class Echo(send_engine_pb2_grpc.SendEngineServicer):
    """Answers with what the interceptor found out, or fails in ways that a servicer may."""

    callers: list[Caller]

    def __init__(self) -> None:
        self.callers = []

    def GetSendJob(self, request: pb.GetSendJobRequest, context: Any) -> pb.GetSendJobResponse:
        self.callers.append(caller())
        return pb.GetSendJobResponse(
            send_job=pb.SendJob(id=request.id, tenant_id=str(caller().acting_tenant(request.tenant_id)))
        )

    def CreateSendJob(self, request: pb.CreateSendJobRequest, context: Any) -> pb.CreateSendJobResponse:
        raise AssertionError("only refused requests are sent to it")

    def ListSendJobs(self, request: pb.ListSendJobsRequest, context: Any) -> pb.ListSendJobsResponse:
        raise AssertionError("nobody calls it")

    def CancelSendJob(self, request: pb.CancelSendJobRequest, context: Any) -> pb.CancelSendJobResponse:
        raise ZeroDivisionError("the secret of the house is 4711")

    def WatchSendJob(self, request: pb.WatchSendJobRequest, context: Any) -> Iterator[pb.WatchSendJobResponse]:
        yield pb.WatchSendJobResponse(send_job=pb.SendJob(id="first"))
        raise MessmailError(Reason.ERROR_REASON_RATE_LIMITED, "too many watch", retry_after=2.5, limit="watchers")


ECHO = Echo()  # type: ignore[abstract]


@pytest.fixture(scope="module")
def stub() -> Iterator[send_engine_pb2_grpc.SendEngineStub]:
    service = Service(
        "messmail.send_engine.v1.SendEngine",
        lambda server: send_engine_pb2_grpc.add_SendEngineServicer_to_server(ECHO, server),
    )
    running = start_server("127.0.0.1:0", [service], TokenVerifier(ISSUER, Ring(), lambda _: False))
    with grpc.insecure_channel(running.address) as channel:
        yield send_engine_pb2_grpc.SendEngineStub(channel)
    running.stop(0)


def bearer(access_token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {access_token}"),)


def refusal(call: Any) -> MessmailError:
    with pytest.raises(grpc.RpcError) as refused:
        call()
    return from_rpc_error(refused.value)


@pytest.mark.parametrize(
    ("message", "field", "words"),
    [
        (mc.SubscribeRequest(list_id=JOB), "email", "value is required"),
        (mc.UpdatePreferenceCenterRequest(token="x", language="fr"), "language", "must be one of zh-TW, en"),
    ],
)
def test_what_is_wrong_is_said_in_plain_words(message: Message, field: str, words: str) -> None:
    with pytest.raises(MessmailError) as refused:
        validate(message)
    assert {violation.field: violation.description for violation in refused.value.violations} == {field: words}


def test_a_call_without_a_token_is_refused(stub: Any) -> None:
    assert refusal(lambda: stub.GetSendJob(pb.GetSendJobRequest(id=JOB))).reason == Reason.ERROR_REASON_TOKEN_MISSING


@pytest.mark.parametrize(
    ("scope", "tenant", "allowed"),
    [
        ("newsletter:send.read", TENANT, True),
        ("newsletter:send.write", TENANT, False),
        ("internal:send", TENANT, False),
        ("internal:send", None, True),
        ("internal:feed", None, False),
        ("newsletter:send.read", None, False),
        ("", TENANT, False),
    ],
)
def test_the_scope_decides(stub: Any, scope: str, tenant: str | None, allowed: bool) -> None:
    request = pb.GetSendJobRequest(id=JOB, tenant_id=TENANT)
    metadata = bearer(token(scope, tenant))
    if allowed:
        assert stub.GetSendJob(request, metadata=metadata).send_job.tenant_id == TENANT
    else:
        error = refusal(lambda: stub.GetSendJob(request, metadata=metadata))
        assert error.reason == Reason.ERROR_REASON_SCOPE_MISSING


@pytest.mark.parametrize(("scheme", "good"), [("Bearer ", True), ("bearer   ", True), ("Bearer", False), ("", False)])
def test_between_scheme_and_token_are_one_or_more_spaces(stub: Any, scheme: str, good: bool) -> None:
    metadata = [("authorization", scheme + token("newsletter:send.read"))]
    if good:
        assert stub.GetSendJob(pb.GetSendJobRequest(id=JOB), metadata=metadata).send_job.tenant_id == TENANT
    else:
        error = refusal(lambda: stub.GetSendJob(pb.GetSendJobRequest(id=JOB), metadata=metadata))
        assert error.reason == Reason.ERROR_REASON_TOKEN_INVALID


def test_two_tokens_are_none(stub: Any) -> None:
    metadata = [*bearer(token("newsletter:send.read")), *bearer(token("newsletter:send.read"))]
    error = refusal(lambda: stub.GetSendJob(pb.GetSendJobRequest(id=JOB), metadata=metadata))
    assert error.reason == Reason.ERROR_REASON_TOKEN_INVALID


def test_another_tenant_in_the_request_is_refused(stub: Any) -> None:
    request = pb.GetSendJobRequest(id=JOB, tenant_id=OTHER)
    error = refusal(lambda: stub.GetSendJob(request, metadata=bearer(token("newsletter:send.read"))))
    assert error.reason == Reason.ERROR_REASON_TENANT_MISMATCH


def test_an_internal_caller_must_name_its_tenant(stub: Any) -> None:
    request = pb.GetSendJobRequest(id=JOB)
    error = refusal(lambda: stub.GetSendJob(request, metadata=bearer(token("internal:send", None))))
    assert [violation.field for violation in error.violations] == ["tenant_id"]


def test_every_bad_field_is_named(stub: Any) -> None:
    metadata = bearer(token("newsletter:send.write"))
    error = refusal(lambda: stub.CreateSendJob(pb.CreateSendJobRequest(list_id="7", name="x" * 201), metadata=metadata))
    assert error.reason == Reason.ERROR_REASON_INVALID_FIELD
    assert {violation.field for violation in error.violations} == {"list_id", "name", "subject", "body_html"}


def test_a_crash_answers_with_the_request_id_and_nothing_else(stub: Any) -> None:
    metadata = (*bearer(token("newsletter:send.write")), ("x-request-id", "my-request-1"))
    with pytest.raises(grpc.RpcError) as crashed:
        stub.CancelSendJob(pb.CancelSendJobRequest(id=JOB), metadata=metadata)
    assert crashed.value.code() == grpc.StatusCode.INTERNAL
    assert "4711" not in str(crashed.value) and "ZeroDivision" not in str(crashed.value)
    info = error_details_pb2.ErrorInfo()
    rpc_status.from_call(cast(grpc.Call, crashed.value)).details[0].Unpack(info)
    assert (info.reason, dict(info.metadata)) == ("INTERNAL", {"request_id": "my-request-1"})


def test_a_stream_answers_its_error_with_when_to_try_again(stub: Any) -> None:
    metadata = bearer(token("newsletter:send.read"))
    stream = stub.WatchSendJob(pb.WatchSendJobRequest(id=JOB), metadata=metadata)
    assert next(stream).send_job.id == "first"
    error = refusal(lambda: next(stream))
    assert (error.reason, error.retry_after, error.metadata) == (
        Reason.ERROR_REASON_RATE_LIMITED, 2.5, {"limit": "watchers"},
    )  # fmt: skip


def test_a_deadline_too_short_to_answer_in_is_refused_before_the_work(stub: Any) -> None:
    before = len(ECHO.callers)
    metadata = bearer(token("newsletter:send.read"))
    error = refusal(lambda: stub.GetSendJob(pb.GetSendJobRequest(id=JOB), metadata=metadata, timeout=0.05))
    assert error.reason == Reason.ERROR_REASON_DEADLINE_EXCEEDED
    assert len(ECHO.callers) == before


@pytest.mark.parametrize(("gateway_scope", "believed"), [("internal:gateway", True), ("internal:send", False)])
def test_only_the_gateway_may_say_who_called_it(stub: Any, gateway_scope: str, believed: bool) -> None:
    metadata = (
        *bearer(token("newsletter:send.read")),
        (FORWARDED_IP, "203.0.113.9"),
        (GATEWAY_AUTHORIZATION, f"Bearer {token(gateway_scope, None)}"),
    )
    stub.GetSendJob(pb.GetSendJobRequest(id=JOB), metadata=metadata)
    assert ECHO.callers[-1].ip == ("203.0.113.9" if believed else "127.0.0.1")


def test_a_server_does_not_start_with_an_rpc_that_nobody_may_call() -> None:
    file = descriptor_pb2.FileDescriptorProto(name="undeclared.proto", package="undeclared", syntax="proto3")
    file.message_type.add(name="Ask")
    file.service.add(name="Open").method.add(name="Door", input_type=".undeclared.Ask", output_type=".undeclared.Ask")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    method = pool.FindServiceByName("undeclared.Open").methods_by_name["Door"]
    with pytest.raises(RuntimeError, match="no access option"):
        Guard({"/undeclared.Open/Door": method}, TokenVerifier(ISSUER, Ring(), lambda _: False), arrivals=Arrivals())


def test_a_taken_port_is_an_error() -> None:
    service = Service(
        "messmail.send_engine.v1.SendEngine",
        lambda server: send_engine_pb2_grpc.add_SendEngineServicer_to_server(ECHO, server),
    )
    running = start_server("127.0.0.1:0", [service], TokenVerifier(ISSUER, Ring(), lambda _: False))
    with pytest.raises(RuntimeError):
        start_server(running.address, [service], TokenVerifier(ISSUER, Ring(), lambda _: False))
    running.stop(0)
