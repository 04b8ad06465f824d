"""An internal caller over gRPC, with nothing but the generated stubs: it names the tenant it acts for."""

import ast
import datetime
import re
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from messmail.member_center.v1 import member_center_pb2 as mc
from messmail.member_center.v1 import member_center_pb2_grpc as mc_grpc
from messmail.send_engine.v1 import send_engine_pb2 as se
from messmail.send_engine.v1 import send_engine_pb2_grpc as se_grpc
from tests.stack import Client, Newsletter, Stack, unique_address

pytestmark = pytest.mark.timeout(240)

PAGE = Path(__file__).parents[2] / "docs" / "grpc-in-20-lines.md"
MOST_LINES = 20


class InternalCaller:
    """Both public services, called with the token of one client."""

    def __init__(self, stack: Stack, client: Client) -> None:
        self.member_center = mc_grpc.MemberCenterStub(grpc.insecure_channel(stack.ready["member_center"]))
        self.send_engine = se_grpc.SendEngineStub(grpc.insecure_channel(stack.ready["send_engine"]))
        issued = self.member_center.IssueToken(
            mc.IssueTokenRequest(
                grant_type="client_credentials", client_id=client.client_id, client_secret=client.client_secret
            ),
            timeout=10,
        )
        self.metadata = (("authorization", f"Bearer {issued.access_token}"),)

    def confirm(self, newsletter: Newsletter, email: str) -> None:
        """Subscribes an address and confirms it."""
        asked = self.member_center.Subscribe(
            mc.SubscribeRequest(tenant_id=newsletter.tenant_id, list_id=newsletter.list_id, email=email),
            metadata=self.metadata,
            timeout=10,
        )
        assert asked.status == mc.SUBSCRIPTION_STATUS_PENDING
        confirmed = self.member_center.ConfirmSubscription(
            mc.ConfirmSubscriptionRequest(token=asked.confirm_token), metadata=self.metadata, timeout=10
        )
        assert (confirmed.status, confirmed.list_id) == (mc.SUBSCRIPTION_STATUS_CONFIRMED, newsletter.list_id)


@pytest.fixture(scope="module")
def internal(stack: Stack) -> InternalCaller:
    """A caller with the scope internal:send alone."""
    return InternalCaller(stack, stack.make_client("", "internal:send", usage="INTERNAL"))


def reason_of(error: grpc.RpcError) -> str:
    assert isinstance(error, grpc.Call)
    status = rpc_status.from_call(error)
    assert status is not None
    info = error_details_pb2.ErrorInfo()
    assert any(detail.Unpack(info) for detail in status.details if detail.Is(info.DESCRIPTOR))
    reason: str = info.reason
    return reason


def test_an_internal_caller_subscribes_confirms_mails_and_watches(stack: Stack, internal: InternalCaller) -> None:
    newsletter = stack.make_newsletter()
    reader = unique_address("ann")
    internal.confirm(newsletter, reader)
    job = internal.send_engine.CreateSendJob(
        se.CreateSendJobRequest(
            tenant_id=newsletter.tenant_id, list_id=newsletter.list_id, subject="Over gRPC", body_text="Hello"
        ),
        metadata=internal.metadata,
        timeout=10,
    ).send_job
    seen = [
        answer.send_job
        for answer in internal.send_engine.WatchSendJob(
            se.WatchSendJobRequest(id=job.id, tenant_id=newsletter.tenant_id), metadata=internal.metadata, timeout=60
        )
    ]
    assert seen[-1].status == se.SEND_JOB_STATUS_COMPLETED
    assert (seen[-1].counters.total, seen[-1].counters.sent) == (1, 1)
    stack.mailbox.wait_for(reader, subject="Over gRPC")


def test_an_internal_caller_cancels_what_has_not_begun(stack: Stack, internal: InternalCaller) -> None:
    newsletter = stack.make_newsletter()
    internal.confirm(newsletter, unique_address("ann"))
    later = Timestamp()
    later.FromDatetime(datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1))
    planned = internal.send_engine.CreateSendJob(
        se.CreateSendJobRequest(
            tenant_id=newsletter.tenant_id,
            list_id=newsletter.list_id,
            subject="Later",
            body_text="Hello",
            scheduled_at=later,
        ),
        metadata=internal.metadata,
        timeout=10,
    ).send_job
    assert planned.status == se.SEND_JOB_STATUS_SCHEDULED
    request = se.CancelSendJobRequest(id=planned.id, tenant_id=newsletter.tenant_id)
    first = internal.send_engine.CancelSendJob(request, metadata=internal.metadata, timeout=10)
    assert (first.status, first.sent, first.sending) == (se.SEND_JOB_STATUS_CANCELLED, 0, 0)
    assert internal.send_engine.CancelSendJob(request, metadata=internal.metadata, timeout=10) == first
    watched = list(
        internal.send_engine.WatchSendJob(
            se.WatchSendJobRequest(id=planned.id, tenant_id=newsletter.tenant_id),
            metadata=internal.metadata,
            timeout=10,
        )
    )
    assert [answer.send_job.status for answer in watched] == [se.SEND_JOB_STATUS_CANCELLED]


def test_an_internal_caller_that_names_no_tenant_is_told_to(stack: Stack, internal: InternalCaller) -> None:
    newsletter = stack.make_newsletter()
    with pytest.raises(grpc.RpcError) as refused:
        internal.send_engine.CreateSendJob(
            se.CreateSendJobRequest(list_id=newsletter.list_id, subject="Whose?", body_text="Hello"),
            metadata=internal.metadata,
            timeout=10,
        )
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason_of(refused.value) == "INVALID_FIELD"


def test_a_list_of_another_tenant_than_the_one_named_is_not_found(stack: Stack, internal: InternalCaller) -> None:
    newsletter = stack.make_newsletter()
    with pytest.raises(grpc.RpcError) as refused:
        internal.send_engine.CreateSendJob(
            se.CreateSendJobRequest(
                tenant_id=stack.make_tenant(), list_id=newsletter.list_id, subject="Whose?", body_text="Hello"
            ),
            metadata=internal.metadata,
            timeout=10,
        )
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    assert reason_of(refused.value) == "LIST_NOT_FOUND"


def test_the_scope_for_sending_does_not_administer(stack: Stack, internal: InternalCaller) -> None:
    from messmail.member_center.v1 import member_center_admin_pb2 as admin_pb2
    from messmail.member_center.v1 import member_center_admin_pb2_grpc as admin_grpc

    admin = admin_grpc.MemberCenterAdminStub(grpc.insecure_channel(stack.ready["member_center"]))
    with pytest.raises(grpc.RpcError) as refused:
        admin.CreateTenant(admin_pb2.CreateTenantRequest(name="x"), metadata=internal.metadata, timeout=10)
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert reason_of(refused.value) == "SCOPE_MISSING"


def printed_code() -> str:
    blocks: list[str] = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 1
    return blocks[0]


def test_the_page_keeps_to_its_twenty_lines() -> None:
    code = printed_code()
    ast.parse(code)
    assert len([line for line in code.splitlines() if line.strip()]) <= MOST_LINES


def test_the_code_of_the_page_runs_as_printed(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    newsletter = stack.make_newsletter()
    client = stack.make_client("", "internal:send", usage="INTERNAL")
    reader = unique_address("cai")
    names: dict[str, Any] = {
        "MEMBER_CENTER": stack.ready["member_center"],
        "SEND_ENGINE": stack.ready["send_engine"],
        "CLIENT_ID": client.client_id,
        "CLIENT_SECRET": client.client_secret,
        "TENANT_ID": newsletter.tenant_id,
        "LIST_ID": newsletter.list_id,
        "EMAIL": reader,
    }
    exec(compile(printed_code(), str(PAGE), "exec"), names)
    printed = capsys.readouterr().out
    assert "SEND_JOB_STATUS_COMPLETED 1" in printed
    assert "SEND_JOB_STATUS_CANCELLED" in printed
    stack.mailbox.wait_for(reader, subject="Hi")
