"""Bad input over gRPC, past the gateway: each service refuses by itself, with the reasons that REST has."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import struct_pb2, timestamp_pb2

from messmail.member_center.v1 import member_center_admin_pb2 as admin_pb2
from messmail.member_center.v1 import member_center_admin_pb2_grpc as admin_grpc
from messmail.member_center.v1 import member_center_feed_pb2 as feed_pb2
from messmail.member_center.v1 import member_center_feed_pb2_grpc as feed_grpc
from messmail.member_center.v1 import member_center_pb2 as center_pb2
from messmail.member_center.v1 import member_center_pb2_grpc as center_grpc
from messmail.send_engine.v1 import send_engine_pb2 as engine_pb2
from messmail.send_engine.v1 import send_engine_pb2_grpc as engine_grpc
from servicekit.errors import MessmailError, from_rpc_error
from tests.forged_tokens import forged_tokens
from tests.stack import Newsletter, Stack

pytestmark = pytest.mark.timeout(240)
NOBODY = str(uuid.UUID(int=7, version=4))


class Services:
    """The stubs of a stack's services, without any token."""

    def __init__(self, stack: Stack) -> None:
        self._channels = [grpc.insecure_channel(stack.ready[name]) for name in ("member_center", "send_engine")]
        center, engine = self._channels
        self.center = center_grpc.MemberCenterStub(center)
        self.admin = admin_grpc.MemberCenterAdminStub(center)
        self.feed = feed_grpc.MemberCenterFeedStub(center)
        self.engine = engine_grpc.SendEngineStub(engine)

    def close(self) -> None:
        for channel in self._channels:
            channel.close()


@pytest.fixture(scope="module")
def services(stack: Stack) -> Iterator[Services]:
    made = Services(stack)
    yield made
    made.close()


@pytest.fixture(scope="module")
def newsletter(stack: Stack) -> Newsletter:
    return stack.make_newsletter()


def refusal(call: Callable[[], Any]) -> MessmailError:
    with pytest.raises(grpc.RpcError) as refused:
        call()
    assert "Traceback" not in str(refused.value.details())
    return from_rpc_error(refused.value)


def check(error: MessmailError, reason: str, field: str | None = None) -> None:
    assert error.status.name == reason, error
    if field is not None:
        assert field in {violation.field for violation in error.violations}


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


def deep(levels: int) -> struct_pb2.Struct:
    value = struct_pb2.Struct()
    inner = value
    for _ in range(levels - 1):
        inner = inner.fields["a"].struct_value
        inner.SetInParent()
    return value


SUBSCRIBES: dict[str, tuple[dict[str, Any], str, str | None]] = {
    "no list": ({"list_id": ""}, "INVALID_FIELD", "list_id"),
    "no address": ({"email": ""}, "INVALID_FIELD", "email"),
    "a list id that is no UUID": ({"list_id": "7"}, "INVALID_FIELD", "list_id"),
    "a bad address": ({"email": "a@b@example.com"}, "INVALID_FIELD", "email"),
    "an address with a line break": ({"email": "a@example.com\r\nBcc: b"}, "INVALID_FIELD", "email"),
    "preferences of 5 levels": ({"preferences": deep(5)}, "INVALID_FIELD", "preferences"),
    "evidence without a token": (
        {"client": center_pb2.CallerEvidence(ip="203.0.113.9")},
        "INVALID_FIELD",
        "client",
    ),
    "an unknown list": ({"list_id": NOBODY}, "LIST_NOT_FOUND", None),
}


@pytest.mark.parametrize("case", SUBSCRIBES)
def test_a_bad_subscribe_is_refused(services: Services, newsletter: Newsletter, case: str) -> None:
    changes, reason, field = SUBSCRIBES[case]
    request = center_pb2.SubscribeRequest(**{"list_id": newsletter.list_id, "email": "ann@example.com"} | changes)
    check(refusal(lambda: services.center.Subscribe(request)), reason, field)


def test_a_wrong_link_is_refused(services: Services) -> None:
    for wrong in ("x", "A" * 124):
        calls: list[Callable[[], Any]] = [
            lambda w=wrong: services.center.FollowConfirmLink(center_pb2.FollowConfirmLinkRequest(token=w)),  # type: ignore[misc]
            lambda w=wrong: services.center.ConfirmSubscription(center_pb2.ConfirmSubscriptionRequest(token=w)),  # type: ignore[misc]
            lambda w=wrong: services.center.FollowUnsubscribeLink(center_pb2.FollowUnsubscribeLinkRequest(token=w)),  # type: ignore[misc]
            lambda w=wrong: services.center.Unsubscribe(center_pb2.UnsubscribeRequest(token=w)),  # type: ignore[misc]
        ]
        for call in calls:
            check(refusal(call), "LINK_INVALID")


JOBS: dict[str, tuple[dict[str, Any], str, str | None]] = {
    "no subject": ({"subject": ""}, "INVALID_FIELD", "subject"),
    "no body": ({"body_text": ""}, "INVALID_FIELD", "body_html"),
    "a subject with LF": ({"subject": "Hi\nBcc: x@example.com"}, "INVALID_FIELD", "subject"),
    "a time beyond 2100": (
        {"scheduled_at": timestamp_pb2.Timestamp(seconds=4102444801)},
        "INVALID_FIELD",
        "scheduled_at",
    ),
    "a time before the year 1": (
        {"scheduled_at": timestamp_pb2.Timestamp(seconds=-62135596801)},
        "INVALID_FIELD",
        "scheduled_at",
    ),
    "a time far before any year": (
        {"scheduled_at": timestamp_pb2.Timestamp(seconds=-(10**17))},
        "INVALID_FIELD",
        "scheduled_at",
    ),
    "a time of two seconds in nanoseconds": (
        {"scheduled_at": timestamp_pb2.Timestamp(nanos=2 * 10**9)},
        "INVALID_FIELD",
        "scheduled_at",
    ),
    "a time of negative nanoseconds": (
        {"scheduled_at": timestamp_pb2.Timestamp(nanos=-5)},
        "INVALID_FIELD",
        "scheduled_at",
    ),
    "a subject of 5 MiB": ({"subject": "x" * 5 * 1024 * 1024}, "BODY_TOO_LARGE", None),
    "an unknown policy": ({"on_unknown": 7}, "INVALID_FIELD", "on_unknown"),
    "a broken template": ({"template": True, "body_text": "{% if %}"}, "TEMPLATE_INVALID", None),
    "another tenant's id": ({"tenant_id": NOBODY}, "TENANT_MISMATCH", None),
    "an unknown list": ({"list_id": NOBODY}, "LIST_NOT_FOUND", None),
}


@pytest.mark.parametrize("case", JOBS)
def test_a_bad_send_job_is_refused(services: Services, stack: Stack, newsletter: Newsletter, case: str) -> None:
    changes, reason, field = JOBS[case]
    token = stack.access_token(newsletter.client)
    request = engine_pb2.CreateSendJobRequest(
        **{"list_id": newsletter.list_id, "subject": "News", "body_text": "Hello"} | changes
    )
    check(refusal(lambda: services.engine.CreateSendJob(request, metadata=bearer(token))), reason, field)


def test_each_service_checks_tokens_and_scopes_by_itself(
    services: Services, stack: Stack, newsletter: Newsletter
) -> None:
    read = engine_pb2.GetSendJobRequest(id=NOBODY)
    check(refusal(lambda: services.engine.GetSendJob(read)), "TOKEN_MISSING")
    check(refusal(lambda: services.engine.GetSendJob(read, metadata=bearer("x.y.z"))), "TOKEN_INVALID")
    writer = stack.access_token(newsletter.client, "newsletter:send.write")
    check(refusal(lambda: services.engine.GetSendJob(read, metadata=bearer(writer))), "SCOPE_MISSING")
    reader = stack.access_token(newsletter.client, "newsletter:send.read")
    check(refusal(lambda: services.engine.GetSendJob(read, metadata=bearer(reader))), "SEND_JOB_NOT_FOUND")
    tenant = admin_pb2.CreateTenantRequest(name="Mine")
    check(refusal(lambda: services.admin.CreateTenant(tenant)), "TOKEN_MISSING")
    check(refusal(lambda: services.admin.CreateTenant(tenant, metadata=bearer(reader))), "SCOPE_MISSING")
    profile = feed_pb2.GetListProfileRequest(tenant_id=newsletter.tenant_id, list_id=newsletter.list_id)
    check(refusal(lambda: services.feed.GetListProfile(profile, metadata=bearer(reader))), "SCOPE_MISSING")
    for forgery, forged in forged_tokens(stack, reader).items():
        error = refusal(lambda one=forged: services.engine.GetSendJob(read, metadata=bearer(one)))  # type: ignore[misc]
        assert error.status.name == "TOKEN_INVALID", forgery
    sender = stack.access_token(stack.make_client("", "internal:send", usage="INTERNAL"))
    check(refusal(lambda: services.feed.GetListProfile(profile, metadata=bearer(sender))), "SCOPE_MISSING")
    check(refusal(lambda: services.engine.GetSendJob(read, metadata=bearer(sender))), "INVALID_FIELD", "tenant_id")


def test_a_tenants_token_opens_no_list_of_another_tenant(services: Services, stack: Stack) -> None:
    mine, other = stack.make_newsletter(), stack.make_newsletter()
    token = stack.access_token(mine.client)
    subscribe = center_pb2.SubscribeRequest(list_id=other.list_id, email="ann@example.com")
    check(refusal(lambda: services.center.Subscribe(subscribe, metadata=bearer(token))), "LIST_NOT_FOUND")
    job = engine_pb2.CreateSendJobRequest(list_id=other.list_id, subject="Mine", body_text="Hello")
    check(refusal(lambda: services.engine.CreateSendJob(job, metadata=bearer(token))), "LIST_NOT_FOUND")
