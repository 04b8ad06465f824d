"""`messmail audit`: shows what was done to the installation, and finds what was done to the record of it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from messmail.audit.v1 import audit_pb2, audit_pb2_grpc
from messmail_cli.connection import Installation, administers
from messmail_cli.failures import CommandFailed
from messmail_cli.printing import Answer, facts_of, table

app = typer.Typer(no_args_is_help=True, add_completion=False)

_PAGE = 1_000
_PAGE_SECONDS = 60.0


class Service(StrEnum):
    """A service with a log of its own."""

    MEMBER_CENTER = "member-center"
    SEND_ENGINE = "send-engine"


@app.callback()
def _audit() -> None:
    """List what was logged, and verify that the log is whole."""


@app.command("list")
@administers
def list_events(
    installation: Installation,
    service: Annotated[Service, typer.Option(help="Whose log.")] = Service.MEMBER_CENTER,
    count: Annotated[int, typer.Option(min=1, max=100_000, help="The most events to show.")] = 50,
    before: Annotated[int, typer.Option(min=0, help="Only events before this number. 0: the newest.")] = 0,
) -> Answer:
    """List what was done and by whom, newest first. It holds ids, and nothing that names a person."""
    stub = _stub(installation, service)
    events: list[audit_pb2.AuditEvent] = []
    while len(events) < count:
        request = audit_pb2.ListAuditEventsRequest(before=before, page_size=min(_PAGE, count - len(events)))
        page = stub.ListAuditEvents(request)
        events += page.events
        if not page.more or not page.events:
            break
        before = page.events[-1].number
    shown = [facts_of(event) | {"number": event.number} for event in events]
    rows = [
        (str(one["number"]), one["at"], one["event"], one["client_id"], _told(one["facts"]), one["request_id"])
        for one in shown
    ]
    return Answer({"events": shown}, table(("number", "at", "event", "client", "facts", "request"), rows))


@app.command()
@administers
def verify(
    installation: Installation,
    head: Annotated[
        list[str],
        typer.Option(
            metavar="SERVICE=NUMBER:MAC",
            default_factory=list,
            show_default=False,
            help="A head that an earlier run printed: the log must still lead through it. Repeat it for each log.",
        ),
    ],
) -> Answer:
    """Check that no event of either service's log was changed, put in or taken out. Exit status 1 when one was.

    Keep the heads that it prints where nobody who could change the database can change them.
    """
    known = _read_heads(head)
    logs = {service.value: _verify(_stub(installation, service), known.get(service, "")) for service in Service}
    lines = []
    for name, log in logs.items():
        lines += [f"{name}: event {one['number']}: {one['problem']}" for one in log["problems"]]
        if not log["problems"]:
            lines.append(f"{name}: whole, {log['events']} events; head: {name}={log['head']}")
    return Answer({"logs": logs}, "\n".join(lines), 1 if any(log["problems"] for log in logs.values()) else 0)


def _verify(stub: audit_pb2_grpc.AuditLogStub, known_head: str) -> dict[str, Any]:
    problems: list[dict[str, Any]] = []
    after = 0
    while True:
        page = stub.VerifyAuditLog(
            audit_pb2.VerifyAuditLogRequest(after=after, known_head="" if after else known_head), timeout=_PAGE_SECONDS
        )
        problems += [{"number": one.number, "problem": one.problem} for one in page.problems]
        if not page.more or page.verified_until == after:
            return {"events": page.verified_until, "head": page.head, "problems": problems}
        after = page.verified_until


def _read_heads(given: list[str]) -> dict[Service, str]:
    heads = {}
    for one in given:
        name, separator, told = one.partition("=")
        if not separator or name not in set(Service):
            raise CommandFailed(
                f"--head {one} names no service", "Give it as an earlier run printed it: SERVICE=NUMBER:MAC."
            )
        heads[Service(name)] = told
    return heads


def _stub(installation: Installation, service: Service) -> audit_pb2_grpc.AuditLogStub:
    return installation.member_center_audit if service is Service.MEMBER_CENTER else installation.send_engine_audit


def _told(facts: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in facts.items())
