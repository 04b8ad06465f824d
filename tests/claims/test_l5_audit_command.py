"""Claim L5 as an operator sees it: what was done is listed, and `messmail audit verify` finds what was done to that."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from messmail.audit.v1 import audit_pb2
from messmail.send_engine.v1 import send_engine_admin_pb2 as send_pb2
from messmail_cli.printing import facts_of
from tests.recount import Ledger
from tests.stack import Stack, unique_address, wait_until

pytestmark = pytest.mark.timeout(300)


def events(stack: Stack, service: str) -> list[dict[str, Any]]:
    operator = stack.operator
    stub = operator.send_engine_audit if service == "send-engine" else operator.member_center_audit
    return [facts_of(one) for one in stub.ListAuditEvents(audit_pb2.ListAuditEventsRequest(page_size=1000)).events]


def harm(stack: Stack, statement: str) -> None:
    """Changes Send Engine's log as whoever is above every fence."""
    with psycopg.connect(f"{Ledger(stack)._server}/send_engine", autocommit=True) as connection:
        connection.execute("ALTER TABLE audit_log DISABLE TRIGGER append_only")
        connection.execute(statement.encode())
        connection.execute("ALTER TABLE audit_log ENABLE TRIGGER append_only")


@pytest.mark.claim("L5", "harm to a running log, found by the command")
def test_l5_what_was_done_is_listed_and_harm_to_the_log_is_found(stack: Stack) -> None:
    newsletter = stack.make_newsletter()
    token = stack.access_token(newsletter.client)
    later = {"list_id": newsletter.list_id, "subject": "x", "body_text": "x", "scheduled_at": "2099-01-01T00:00:00Z"}
    job = stack.site.post_json("/api/send-jobs", later, token).answer["id"]
    for _ in range(2):
        assert stack.site.post_json(f"/api/send-jobs/{job}/cancel", {}, token).status == 200
    stack.site.get("/api/send-jobs", "x.y.z")
    stack.site.get("/api/send-jobs")
    of_tenant = {"tenant_id": newsletter.tenant_id, "scope": send_pb2.SEND_LIMIT_SCOPE_TENANT, "mails_per_second": 5.0}
    stack.operator.send_engine_admin.SetSendLimit(send_pb2.SetSendLimitRequest(**of_tenant))  # type: ignore[arg-type]
    person = unique_address("private")
    stack.import_members(newsletter, [person])

    wanted = {
        ("send-engine", "send_job_cancelled", job),
        ("send-engine", "send_limit_set", newsletter.tenant_id),
        ("member-center", "tenant_created", newsletter.tenant_id),
        ("member-center", "list_created", newsletter.list_id),
        ("member-center", "client_created", newsletter.client.client_id),
        ("member-center", "members_imported", newsletter.list_id),
        ("member-center", "token_issued", newsletter.tenant_id),
    }

    def is_all_there() -> bool:
        logged = {service: events(stack, service) for service in ("send-engine", "member-center")}
        found = {
            (service, one["event"], value)
            for service, log in logged.items()
            for one in log
            for value in one["facts"].values()
            if isinstance(value, str)
        }
        refusals = {one["facts"].get("reason") for one in logged["send-engine"]}
        return wanted <= found and refusals >= {"TOKEN_INVALID", "TOKEN_MISSING"}

    wait_until(is_all_there, "the events", 30, poll=0.5)
    cancelled = [one for one in events(stack, "send-engine") if one["facts"].get("job_id") == job]
    by = newsletter.client.client_id
    assert [(one["event"], one["client_id"]) for one in cancelled] == [("send_job_cancelled", by)]
    text = str(events(stack, "member-center")) + str(events(stack, "send-engine"))
    assert person not in text and "@" not in text and token not in text

    listed = stack.messmail("audit", "list", "--service", "send-engine", "--count", "1000")["events"]
    assert cancelled[0]["request_id"] in {one["request_id"] for one in listed}
    logs = stack.messmail("audit", "verify")["logs"]
    assert [log["problems"] for log in logs.values()] == [[], []]
    heads = [part for name, log in logs.items() for part in ("--head", f"{name}={log['head']}")]
    number = int(cancelled[0]["number"])
    harm(stack, f"UPDATE audit_log SET event = 'nothing_done' WHERE number = {number}")
    told = stack.run_command("audit", "verify")
    assert (told.returncode, f"send-engine: event {number}: " in told.stdout) == (1, True), told
    assert "member-center: whole" in told.stdout
    harm(stack, f"UPDATE audit_log SET event = 'send_job_cancelled' WHERE number = {number}")
    assert stack.messmail("audit", "verify", *heads)["logs"]["send-engine"]["problems"] == []

    older = f"send-engine={number}:{'0' * 64}"
    told = stack.run_command("audit", "verify", "--head", older)
    assert (told.returncode, f"event {number}: is not the one" in told.stdout) == (1, True), told.stdout
    assert stack.run_command("audit", "verify", "--head", "nowhere=1:x").returncode == 1
