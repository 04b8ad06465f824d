"""The operator's look at the audit log: the service AuditLog, the same in each service."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from messmail.audit.v1 import audit_pb2, audit_pb2_grpc
from servicekit.audit import AuditLog
from servicekit.audit_check import AuditCheck
from servicekit.audit_store import StoredEvent
from servicekit.server import Service

_PAGE_SIZE = 100


class AuditLogServicer(audit_pb2_grpc.AuditLogServicer):
    """Serves AuditLog."""

    def __init__(self, audit: AuditLog, check: AuditCheck) -> None:
        self._audit = audit
        self._check = check

    def ListAuditEvents(
        self, request: audit_pb2.ListAuditEventsRequest, context: grpc.ServicerContext
    ) -> audit_pb2.ListAuditEventsResponse:
        """Lists events."""
        size = request.page_size or _PAGE_SIZE
        found = self._audit.newest(request.before, size + 1)
        return audit_pb2.ListAuditEventsResponse(events=[_event(each) for each in found[:size]], more=len(found) > size)

    def VerifyAuditLog(
        self, request: audit_pb2.VerifyAuditLogRequest, context: grpc.ServicerContext
    ) -> audit_pb2.VerifyAuditLogResponse:
        """Checks a page."""
        found = self._check.page(request.after, request.known_head)
        return audit_pb2.VerifyAuditLogResponse(
            verified_until=found.verified_until,
            more=found.more,
            problems=[audit_pb2.AuditProblem(number=number, problem=text) for number, text in found.problems],
            head=found.head,
        )


def audit_service(audit: AuditLog, check: AuditCheck) -> Service:
    """Makes what a server serves of the log."""
    servicer = AuditLogServicer(audit, check)
    return Service(
        "messmail.audit.v1.AuditLog", lambda server: audit_pb2_grpc.add_AuditLogServicer_to_server(servicer, server)
    )


def _event(stored: StoredEvent) -> audit_pb2.AuditEvent:
    at, facts = Timestamp(), Struct()
    at.FromDatetime(stored.at)
    told: dict[str, Any] = stored.facts
    facts.update(told)
    return audit_pb2.AuditEvent(
        number=stored.number,
        at=at,
        event=stored.event,
        client_id="" if stored.client_id is None else str(stored.client_id),
        request_id=stored.request_id,
        facts=facts,
    )
