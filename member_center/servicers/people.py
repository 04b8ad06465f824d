"""What MemberCenterAdmin does about one person: suppressions, complaints, export and erasure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import grpc

from member_center.complaints import Complaints
from member_center.people import People
from member_center.records.consent import Evidence, Status, Suppression, SuppressionReason, SuppressionScope
from member_center.records.people import ConsentLine, PersonMail, PersonSubscription
from member_center.servicers.messages import read_address, read_text, status_number, struct, timestamp
from member_center.suppressions import Suppressions
from messmail.member_center.v1 import member_center_admin_pb2_grpc
from messmail.member_center.v1 import member_center_people_pb2 as pb
from servicekit.access import caller

_PAGE_SIZE = 100
_SCOPE_PREFIX, _REASON_PREFIX = "SUPPRESSION_SCOPE_", "SUPPRESSION_REASON_"


class PeopleServicer(member_center_admin_pb2_grpc.MemberCenterAdminServicer):
    """Serves the operator where a call is about one person. No line that it logs says who."""

    _suppressions: Suppressions
    _complaints: Complaints
    _people: People

    def AddSuppression(
        self, request: pb.AddSuppressionRequest, context: grpc.ServicerContext
    ) -> pb.AddSuppressionResponse:
        """Suppresses an address."""
        added = self._suppressions.add(
            UUID(request.tenant_id),
            UUID(request.list_id) if request.list_id else None,
            read_address(request.email),
            SuppressionScope[pb.SuppressionScope.Name(request.scope).removeprefix(_SCOPE_PREFIX)],
            SuppressionReason[pb.SuppressionReason.Name(request.reason).removeprefix(_REASON_PREFIX)],
        )
        return pb.AddSuppressionResponse(suppression=_suppression(added))

    def ListSuppressions(
        self, request: pb.ListSuppressionsRequest, context: grpc.ServicerContext
    ) -> pb.ListSuppressionsResponse:
        """Lists suppressions."""
        address = read_address(request.email) if request.email else None
        page = self._suppressions.page(
            UUID(request.tenant_id), address, request.page_token, request.page_size or _PAGE_SIZE
        )
        return pb.ListSuppressionsResponse(
            suppressions=[_suppression(each) for each in page.items], next_page_token=page.next_page_token
        )

    def RemoveSuppression(
        self, request: pb.RemoveSuppressionRequest, context: grpc.ServicerContext
    ) -> pb.RemoveSuppressionResponse:
        """Lifts a suppression."""
        self._suppressions.remove(UUID(request.tenant_id), UUID(request.suppression_id))
        return pb.RemoveSuppressionResponse()

    def RecordComplaint(
        self, request: pb.RecordComplaintRequest, context: grpc.ServicerContext
    ) -> pb.RecordComplaintResponse:
        """Records a complaint."""
        return pb.RecordComplaintResponse(status=_decide(self._complaints.record, request))

    def LiftComplaint(
        self, request: pb.LiftComplaintRequest, context: grpc.ServicerContext
    ) -> pb.LiftComplaintResponse:
        """Lifts a complaint."""
        return pb.LiftComplaintResponse(status=_decide(self._complaints.lift, request))

    def ExportPerson(self, request: pb.ExportPersonRequest, context: grpc.ServicerContext) -> pb.ExportPersonResponse:
        """Returns all that is known of a person."""
        found = self._people.export(UUID(request.tenant_id), read_address(request.email))
        return pb.ExportPersonResponse(
            subscriptions=[_subscription(each) for each in found.subscriptions],
            suppressions=[_suppression(each) for each in found.suppressions],
        )

    def ErasePerson(self, request: pb.ErasePersonRequest, context: grpc.ServicerContext) -> pb.ErasePersonResponse:
        """Erases a person."""
        ids = [str(each) for each in self._people.erase(UUID(request.tenant_id), read_address(request.email))]
        return pb.ErasePersonResponse(subscription_ids=ids)


def _decide(decide: Callable[..., Status], request: pb.RecordComplaintRequest | pb.LiftComplaintRequest) -> Any:
    evidence = Evidence(caller().client_id, text=read_text("evidence", request.evidence))
    address = read_address(request.email)
    return status_number(decide(UUID(request.tenant_id), UUID(request.list_id), address, evidence))


def _suppression(found: Suppression) -> pb.Suppression:
    return pb.Suppression(
        suppression_id=str(found.id),
        list_id=str(found.list_id) if found.list_id else "",
        scope=pb.SuppressionScope.Value(f"{_SCOPE_PREFIX}{found.scope.name}"),
        reason=pb.SuppressionReason.Value(f"{_REASON_PREFIX}{found.reason.name}"),
        created_at=timestamp(found.created_at),
    )


def _subscription(known: PersonSubscription) -> pb.PersonSubscription:
    found, pending = known.subscription, known.subscription.pending
    return pb.PersonSubscription(
        subscription_id=str(found.id),
        list_id=str(found.list_id),
        list_name=known.list_name,
        email=found.address,
        status=status_number(known.status),
        preferences=struct(found.preferences),
        confirmed_at=timestamp(found.confirmed_at) if found.confirmed_at else None,
        pending_until=timestamp(pending.expires_at) if pending else None,
        pending_preferences=struct(pending.preferences) if pending and pending.preferences is not None else None,
        consent_log=[_line(each) for each in known.consent_log],
        confirmation_mails=[_mail(each) for each in known.mails],
    )


def _line(line: ConsentLine) -> pb.ConsentLogLine:
    evidence = line.evidence
    return pb.ConsentLogLine(
        generation=line.generation,
        status=status_number(line.status),
        through=line.through,
        at=timestamp(line.at),
        client_id=str(evidence.client_id) if evidence.client_id else "",
        ip=evidence.ip,
        user_agent=evidence.user_agent,
        source_url=evidence.source_url,
        evidence=evidence.text,
        text_version=line.text_version,
    )


def _mail(mail: PersonMail) -> pb.PersonMail:
    return pb.PersonMail(
        created_at=timestamp(mail.created_at),
        outcome=mail.outcome,
        ended_at=timestamp(mail.ended_at) if mail.ended_at else None,
        last_reply=mail.last_reply,
    )
