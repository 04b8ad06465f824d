"""T2: a send job is made for the tenant of the token and a list of that tenant, whatever the request says."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import MessageToDict

from messmail.audit.v1 import audit_pb2
from messmail.send_engine.v1 import send_engine_pb2 as pb
from messmail.send_engine.v1 import send_engine_pb2_grpc
from servicekit.errors import from_rpc_error
from tests.claims_table import ClaimRow, cases, hand_in_claim
from tests.stack import Newsletter, Stack, unique_address, wait_until

pytestmark = pytest.mark.timeout(900)

FULL = 1000


@pytest.fixture(scope="module")
def two(stack: Stack) -> tuple[Newsletter, Newsletter]:
    """Two tenants, each with a reader, so that a job would have somebody to mail."""
    mine, theirs = stack.make_newsletter(), stack.make_newsletter()
    for newsletter in (mine, theirs):
        stack.import_members(newsletter, [unique_address()])
    return mine, theirs


def make_job(stack: Stack, token: str, turn: int, fields: dict[str, str]) -> tuple[int, str]:
    """Asks for a job, over REST and gRPC in turn; returns the status and the reason of the refusal."""
    body: dict[str, Any] = {"subject": f"Number {turn}", "body_text": "Hello", **fields}
    if turn % 2 == 0:
        exchange = stack.site.post_json("/api/send-jobs", body, token)
        return exchange.status, str(exchange.answer.get("reason", ""))
    with grpc.insecure_channel(stack.ready["send_engine"]) as channel:
        stub = send_engine_pb2_grpc.SendEngineStub(channel)
        try:
            stub.CreateSendJob(
                pb.CreateSendJobRequest(**body), metadata=(("authorization", f"Bearer {token}"),), timeout=15
            )
        except grpc.RpcError as error:
            refusal = from_rpc_error(error)
            return refusal.status.http, refusal.status.name
    return 201, ""


def jobs_of(stack: Stack, newsletter: Newsletter) -> int:
    token = stack.access_token(newsletter.client)
    exchange = stack.site.get("/api/send-jobs?page_size=100", token)
    assert exchange.status == 200
    return len(exchange.answer["send_jobs"])


def refusals_logged(stack: Stack) -> int:
    """Counts the refusals of a tenant_id in Send Engine's audit log, also those of which only the number is kept."""
    count = before = 0
    while True:
        request = audit_pb2.ListAuditEventsRequest(before=before, page_size=1000)
        page = stack.operator.send_engine_audit.ListAuditEvents(request)
        for event in page.events:
            facts = MessageToDict(event.facts)
            if event.event == "call_refused" and facts["reason"] == "TENANT_MISMATCH":
                count += int(facts.get("more_alike", 1))
        if not page.more:
            return count
        before = page.events[-1].number


def count_violations(
    stack: Stack, two: tuple[Newsletter, Newsletter], fields: Callable[[int], dict[str, str]], right: tuple[int, str]
) -> tuple[int, int]:
    """Asks many times, and returns how often and how many answers, jobs and mails are not as they must be."""
    mine, theirs = two
    before = jobs_of(stack, mine) + jobs_of(stack, theirs)
    run = cases(FULL)
    token = stack.access_token(mine.client)
    wrong = sum(make_job(stack, token, turn, fields(turn)) != right for turn in range(run))
    return run, wrong + jobs_of(stack, mine) + jobs_of(stack, theirs) - before


def test_a_tenant_id_that_is_not_the_tokens_is_refused_and_no_job_is_made(
    stack: Stack, two: tuple[Newsletter, Newsletter], record_property: object
) -> None:
    mine, theirs = two

    def fields(turn: int) -> dict[str, str]:
        tenant = theirs.tenant_id if turn % 4 < 3 else str(uuid.uuid4())
        return {"tenant_id": tenant, "list_id": (mine, theirs)[turn % 3 == 0].list_id}

    before = refusals_logged(stack)
    run, violations = count_violations(stack, two, fields, (403, "TENANT_MISMATCH"))
    # Recorded is what was refused, within a moment.
    wait_until(lambda: refusals_logged(stack) >= before + run, "the audit log")
    violations += refusals_logged(stack) - before - run
    what = "send jobs with the tenant_id of another tenant: 403, in the audit log, 0 jobs"
    hand_in_claim(record_property, ClaimRow("T2", what, FULL, run, violations))
    assert violations == 0


def test_a_list_of_another_tenant_is_not_found_and_no_job_is_made(
    stack: Stack, two: tuple[Newsletter, Newsletter], record_property: object
) -> None:
    mine, theirs = two

    def fields(turn: int) -> dict[str, str]:
        named = {"tenant_id": mine.tenant_id} if turn % 4 < 2 else {}
        return {"list_id": theirs.list_id if turn % 8 < 6 else str(uuid.uuid4()), **named}

    run, violations = count_violations(stack, two, fields, (404, "LIST_NOT_FOUND"))
    what = "send jobs with the list_id of another tenant: 404, 0 jobs"
    hand_in_claim(record_property, ClaimRow("T2", what, FULL, run, violations))
    assert violations == 0


@pytest.mark.claim("T2", "a tenant_id left out is the token's", run=1)
def test_a_tenant_id_left_out_is_the_tokens(stack: Stack, two: tuple[Newsletter, Newsletter]) -> None:
    mine, _ = two
    body = {"subject": "Mine", "body_text": "Hello", "list_id": mine.list_id}
    made = stack.site.post_json("/api/send-jobs", body, stack.access_token(mine.client))
    assert (made.status, made.answer["tenant_id"]) == (201, mine.tenant_id)


def test_another_tenants_list_and_one_that_is_not_there_get_the_same_bytes(
    stack: Stack, two: tuple[Newsletter, Newsletter]
) -> None:
    mine, theirs = two
    token = stack.access_token(mine.client)
    answers = []
    for list_id in (theirs.list_id, str(uuid.uuid4())):
        body = {"subject": "Theirs", "body_text": "Hello", "list_id": list_id}
        answer = stack.site.post_json("/api/send-jobs", body, token).answer
        del answer["request_id"]
        answers.append(answer)
    assert answers[0] == answers[1]
