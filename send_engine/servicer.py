"""The gRPC face of Send Engine: requests in, calls of the nouns, answers out. It decides nothing."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import UUID

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from messmail.send_engine.v1 import send_engine_admin_pb2 as admin_pb
from messmail.send_engine.v1 import send_engine_admin_pb2_grpc as admin_grpc
from messmail.send_engine.v1 import send_engine_pb2 as pb
from messmail.send_engine.v1 import send_engine_pb2_grpc
from send_engine.esp_accounts import EspAccountAdmin
from send_engine.records import OPERATOR, CountedJob, LimitScope, SendLimit, UnknownPolicy
from send_engine.send_jobs import SendJobs, Wish
from send_engine.send_limits import SendLimits
from servicekit.access import caller
from servicekit.errors import MessmailError, Reason, invalid_field

_POLICIES = {
    pb.UNKNOWN_POLICY_UNSPECIFIED: UnknownPolicy.RESEND,
    pb.UNKNOWN_POLICY_RESEND: UnknownPolicy.RESEND,
    pb.UNKNOWN_POLICY_HOLD: UnknownPolicy.HOLD,
}


_SCOPES = {
    admin_pb.SEND_LIMIT_SCOPE_TENANT: LimitScope.TENANT,
    admin_pb.SEND_LIMIT_SCOPE_ESP_ACCOUNT: LimitScope.ESP_ACCOUNT,
    admin_pb.SEND_LIMIT_SCOPE_DOMAIN: LimitScope.DOMAIN,
}


class SendEngineServicer(send_engine_pb2_grpc.SendEngineServicer):
    """Serves SendEngine."""

    def __init__(self, jobs: SendJobs) -> None:
        self._jobs = jobs

    def CreateSendJob(
        self, request: pb.CreateSendJobRequest, context: grpc.ServicerContext
    ) -> pb.CreateSendJobResponse:
        """Makes a send job."""
        wish = Wish(
            list_id=UUID(request.list_id),
            name=request.name,
            subject=request.subject,
            body_html=request.body_html,
            body_text=request.body_text,
            template=request.template,
            on_unknown=_POLICIES[request.on_unknown],
            scheduled_at=_time(request.scheduled_at) if request.HasField("scheduled_at") else None,
        )
        job = self._jobs.create(caller().acting_tenant(request.tenant_id), wish)
        return pb.CreateSendJobResponse(send_job=_message(job))

    def GetSendJob(self, request: pb.GetSendJobRequest, context: grpc.ServicerContext) -> pb.GetSendJobResponse:
        """Returns a send job."""
        job = self._jobs.get(caller().acting_tenant(request.tenant_id), UUID(request.id))
        return pb.GetSendJobResponse(send_job=_message(job))

    def ListSendJobs(self, request: pb.ListSendJobsRequest, context: grpc.ServicerContext) -> pb.ListSendJobsResponse:
        """Lists send jobs."""
        page = self._jobs.page(caller().acting_tenant(request.tenant_id), request.page_size, request.page_token)
        return pb.ListSendJobsResponse(
            send_jobs=[_message(job) for job in page.jobs], next_page_token=page.next_page_token
        )

    def CancelSendJob(
        self, request: pb.CancelSendJobRequest, context: grpc.ServicerContext
    ) -> pb.CancelSendJobResponse:
        """Cancels a send job."""
        cancelled = self._jobs.cancel(caller().acting_tenant(request.tenant_id), UUID(request.id))
        return pb.CancelSendJobResponse(
            id=str(cancelled.job_id),
            status=pb.SEND_JOB_STATUS_CANCELLED,
            cancelled_at=_timestamp(cancelled.cancelled_at),
            sent=cancelled.sent,
            sending=cancelled.sending,
        )

    def WatchSendJob(
        self, request: pb.WatchSendJobRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.WatchSendJobResponse]:
        """Streams a send job."""
        tenant_id = caller().acting_tenant(request.tenant_id)
        for job in self._jobs.watch(tenant_id, UUID(request.id), context.is_active):
            yield pb.WatchSendJobResponse(send_job=_message(job))


class SendEngineAdminServicer(admin_grpc.SendEngineAdminServicer):
    """Serves SendEngineAdmin. Without master keys, credentials cannot be kept, so no account can be set."""

    def __init__(self, accounts: EspAccountAdmin | None, limits: SendLimits) -> None:
        self._accounts = accounts
        self._limits = limits

    def SetEspAccount(
        self, request: admin_pb.SetEspAccountRequest, context: grpc.ServicerContext
    ) -> admin_pb.SetEspAccountResponse:
        """Sets a tenant's ESP account."""
        relay = self._admin().set(UUID(request.tenant_id), request.smtp_url)
        return admin_pb.SetEspAccountResponse(
            account=admin_pb.EspAccount(tenant_id=str(UUID(request.tenant_id)), relay=relay)
        )

    def GetEspAccount(
        self, request: admin_pb.GetEspAccountRequest, context: grpc.ServicerContext
    ) -> admin_pb.GetEspAccountResponse:
        """Returns a tenant's ESP account."""
        relay = self._admin().relay(UUID(request.tenant_id))
        return admin_pb.GetEspAccountResponse(
            account=admin_pb.EspAccount(tenant_id=str(UUID(request.tenant_id)), relay=relay)
        )

    def SetSendLimit(
        self, request: admin_pb.SetSendLimitRequest, context: grpc.ServicerContext
    ) -> admin_pb.SetSendLimitResponse:
        """Sets a limit."""
        limit = self._limits.set(
            _owner(request.tenant_id), _SCOPES[request.scope], request.domain, request.mails_per_second or None
        )
        return admin_pb.SetSendLimitResponse(limit=_limit(request.tenant_id, limit))

    def ListSendLimits(
        self, request: admin_pb.ListSendLimitsRequest, context: grpc.ServicerContext
    ) -> admin_pb.ListSendLimitsResponse:
        """Lists limits."""
        page = self._limits.page(_owner(request.tenant_id), request.page_size, request.page_token)
        return admin_pb.ListSendLimitsResponse(
            limits=[_limit(request.tenant_id, limit) for limit in page.limits], next_page_token=page.next_page_token
        )

    def _admin(self) -> EspAccountAdmin:
        if self._accounts is None:
            raise MessmailError(Reason.ERROR_REASON_UNPROCESSABLE, "this installation has no SEND_ENGINE_MASTER_KEYS")
        return self._accounts


def _time(scheduled_at: Timestamp) -> datetime:
    try:
        return scheduled_at.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise invalid_field(
            "scheduled_at", "must be a time of the years 1 to 9999, with 0 to 999,999,999 nanoseconds"
        ) from None


def _message(counted: CountedJob) -> pb.SendJob:
    job, counters = counted.job, counted.counters
    return pb.SendJob(
        id=str(job.id),
        tenant_id=str(job.tenant_id),
        list_id=str(job.list_id),
        name=job.name,
        subject=job.subject,
        status=pb.SendJobStatus.Value(f"SEND_JOB_STATUS_{job.status.name}"),
        status_reason=job.status_reason,
        counters=pb.SendJobCounters(
            total=counters.total,
            pending=counters.pending,
            claimed=counters.claimed,
            sending=counters.sending,
            deferred=counters.deferred,
            sent=counters.sent,
            failed=counters.failed,
            suppressed=counters.suppressed,
            cancelled=counters.cancelled,
            unknown=counters.unknown,
        ),
        scheduled_at=_timestamp(job.scheduled_at),
        created_at=_timestamp(job.created_at),
        started_at=None if job.started_at is None else _timestamp(job.started_at),
        ended_at=None if job.ended_at is None else _timestamp(job.ended_at),
    )


def _owner(tenant_id: str) -> UUID:
    return UUID(tenant_id) if tenant_id else OPERATOR


def _limit(tenant_id: str, limit: SendLimit) -> admin_pb.SendLimit:
    return admin_pb.SendLimit(
        tenant_id=str(UUID(tenant_id)) if tenant_id else "",
        scope=admin_pb.SendLimitScope.Value(f"SEND_LIMIT_SCOPE_{limit.scope.name}"),
        domain=limit.domain,
        mails_per_second=limit.rate or 0,
        slowed_to=limit.slowed_to or 0,
    )


def _timestamp(moment: datetime) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromDatetime(moment)
    return timestamp
