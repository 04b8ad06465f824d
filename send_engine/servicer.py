"""The gRPC face of Send Engine: requests in, calls of the nouns, answers out. It decides nothing."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from messmail.send_engine.v1 import send_engine_admin_pb2 as admin_pb
from messmail.send_engine.v1 import send_engine_admin_pb2_grpc as admin_grpc
from messmail.send_engine.v1 import send_engine_pb2 as pb
from messmail.send_engine.v1 import send_engine_pb2_grpc
from send_engine.delivery_pages import DeliveryPages
from send_engine.esp_accounts import EspAccountAdmin
from send_engine.idempotency import IdempotencyKey
from send_engine.person_deliveries import PersonDeliveries
from send_engine.records import (
    OPERATOR,
    CountedJob,
    Delivery,
    DeliveryState,
    LimitScope,
    PersonDelivery,
    SendLimit,
    ShownState,
    UnknownPolicy,
)
from send_engine.rounds import Rounds
from send_engine.send_jobs import SendJobs, Wish
from send_engine.send_limits import SendLimits
from send_engine.sending import delivery_id
from send_engine.unknowns import Unknowns
from servicekit.access import caller
from servicekit.errors import invalid_field

_POLICIES = {
    pb.UNKNOWN_POLICY_UNSPECIFIED: UnknownPolicy.RESEND,
    pb.UNKNOWN_POLICY_RESEND: UnknownPolicy.RESEND,
    pb.UNKNOWN_POLICY_HOLD: UnknownPolicy.HOLD,
}

_RETRIED = {
    pb.RETRIED_STATE_FAILED: DeliveryState.FAILED,
    pb.RETRIED_STATE_UNKNOWN: DeliveryState.UNKNOWN,
}
_OUTCOMES = {
    pb.RESOLVED_OUTCOME_SENT: DeliveryState.SENT,
    pb.RESOLVED_OUTCOME_FAILED: DeliveryState.FAILED,
}
_STATE_PREFIX = "DELIVERY_STATE_"


_SCOPES = {
    admin_pb.SEND_LIMIT_SCOPE_TENANT: LimitScope.TENANT,
    admin_pb.SEND_LIMIT_SCOPE_ESP_ACCOUNT: LimitScope.ESP_ACCOUNT,
    admin_pb.SEND_LIMIT_SCOPE_DOMAIN: LimitScope.DOMAIN,
}


class SendEngineServicer(send_engine_pb2_grpc.SendEngineServicer):
    """Serves SendEngine."""

    def __init__(self, jobs: SendJobs, rounds: Rounds, unknowns: Unknowns, delivery_pages: DeliveryPages) -> None:
        self._jobs = jobs
        self._rounds = rounds
        self._unknowns = unknowns
        self._delivery_pages = delivery_pages

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
            give_up_seconds=_seconds(request.give_up_after) if request.HasField("give_up_after") else None,
        )
        client_id = caller().client_id
        key = IdempotencyKey(client_id, request.idempotency_key) if client_id and request.idempotency_key else None
        job = self._jobs.create(caller().acting_tenant(request.tenant_id), wish, key)
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

    def PauseSendJob(self, request: pb.PauseSendJobRequest, context: grpc.ServicerContext) -> pb.PauseSendJobResponse:
        """Pauses a send job."""
        job = self._jobs.pause(caller().acting_tenant(request.tenant_id), UUID(request.id))
        return pb.PauseSendJobResponse(send_job=_message(job))

    def ResumeSendJob(
        self, request: pb.ResumeSendJobRequest, context: grpc.ServicerContext
    ) -> pb.ResumeSendJobResponse:
        """Resumes a send job."""
        job = self._jobs.resume(caller().acting_tenant(request.tenant_id), UUID(request.id))
        return pb.ResumeSendJobResponse(send_job=_message(job))

    def RetrySendJob(self, request: pb.RetrySendJobRequest, context: grpc.ServicerContext) -> pb.RetrySendJobResponse:
        """Sends a completed job again to some of its audience."""
        states = [_RETRIED[state] for state in request.states]
        job = self._rounds.begin(caller().acting_tenant(request.tenant_id), UUID(request.id), states)
        return pb.RetrySendJobResponse(send_job=_message(job))

    def ResolveSendJob(
        self, request: pb.ResolveSendJobRequest, context: grpc.ServicerContext
    ) -> pb.ResolveSendJobResponse:
        """Settles unknown deliveries."""
        only = None if request.all else {UUID(delivery_id) for delivery_id in request.delivery_ids}
        resolved, job = self._unknowns.resolve(
            caller().acting_tenant(request.tenant_id), UUID(request.id), _OUTCOMES[request.outcome], only
        )
        return pb.ResolveSendJobResponse(resolved=resolved, send_job=_message(job))

    def ListDeliveries(
        self, request: pb.ListDeliveriesRequest, context: grpc.ServicerContext
    ) -> pb.ListDeliveriesResponse:
        """Lists deliveries."""
        state = None if request.state == pb.DELIVERY_STATE_UNSPECIFIED else _state(request.state)
        tenant_id, job_id = caller().acting_tenant(request.tenant_id), UUID(request.id)
        page = self._delivery_pages.page(tenant_id, job_id, state, request.page_size, request.page_token)
        return pb.ListDeliveriesResponse(
            deliveries=[_delivery(job_id, delivery) for delivery in page.deliveries],
            next_page_token=page.next_page_token,
        )

    def WatchSendJob(
        self, request: pb.WatchSendJobRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.WatchSendJobResponse]:
        """Streams a send job."""
        tenant_id = caller().acting_tenant(request.tenant_id)
        for job in self._jobs.watch(tenant_id, UUID(request.id), context.is_active):
            yield pb.WatchSendJobResponse(send_job=_message(job))


class SendEngineAdminServicer(admin_grpc.SendEngineAdminServicer):
    """Serves SendEngineAdmin."""

    def __init__(self, accounts: EspAccountAdmin, limits: SendLimits, person_deliveries: PersonDeliveries) -> None:
        self._accounts = accounts
        self._limits = limits
        self._person_deliveries = person_deliveries

    def SetEspAccount(
        self, request: admin_pb.SetEspAccountRequest, context: grpc.ServicerContext
    ) -> admin_pb.SetEspAccountResponse:
        """Sets a tenant's ESP account."""
        relay = self._accounts.set(UUID(request.tenant_id), request.smtp_url)
        return admin_pb.SetEspAccountResponse(
            account=admin_pb.EspAccount(tenant_id=str(UUID(request.tenant_id)), relay=relay)
        )

    def GetEspAccount(
        self, request: admin_pb.GetEspAccountRequest, context: grpc.ServicerContext
    ) -> admin_pb.GetEspAccountResponse:
        """Returns a tenant's ESP account."""
        relay = self._accounts.relay(UUID(request.tenant_id))
        return admin_pb.GetEspAccountResponse(
            account=admin_pb.EspAccount(tenant_id=str(UUID(request.tenant_id)), relay=relay)
        )

    def ReencryptCredentials(
        self, request: admin_pb.ReencryptCredentialsRequest, context: grpc.ServicerContext
    ) -> admin_pb.ReencryptCredentialsResponse:
        """Encrypts the credentials anew."""
        count, master_key_id = self._accounts.reencrypt()
        return admin_pb.ReencryptCredentialsResponse(reencrypted=count, master_key_id=master_key_id)

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

    def ExportRecipient(
        self, request: admin_pb.ExportRecipientRequest, context: grpc.ServicerContext
    ) -> admin_pb.ExportRecipientResponse:
        """Returns a person's deliveries."""
        found = self._person_deliveries.export(
            UUID(request.tenant_id), [UUID(each) for each in request.subscription_ids]
        )
        return admin_pb.ExportRecipientResponse(deliveries=[_person_delivery(each) for each in found])

    def EraseRecipient(
        self, request: admin_pb.EraseRecipientRequest, context: grpc.ServicerContext
    ) -> admin_pb.EraseRecipientResponse:
        """Takes a person out of the ledger."""
        ids = [UUID(each) for each in request.subscription_ids]
        return admin_pb.EraseRecipientResponse(erased=self._person_deliveries.erase(UUID(request.tenant_id), ids))


def _time(scheduled_at: Timestamp) -> datetime:
    try:
        return scheduled_at.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise invalid_field(
            "scheduled_at", "must be a time of the years 1 to 9999, with 0 to 999,999,999 nanoseconds"
        ) from None


def _seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos / 1e9


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromTimedelta(timedelta(seconds=seconds))
    return duration


def _state(state: pb.DeliveryState.ValueType) -> ShownState:
    return ShownState[pb.DeliveryState.Name(state).removeprefix(_STATE_PREFIX)]


def _delivery(job_id: UUID, delivery: Delivery) -> pb.Delivery:
    return pb.Delivery(
        delivery_id=delivery_id(job_id, delivery.subscription_id.bytes),
        subscription_id=str(delivery.subscription_id),
        recipient_domain=delivery.domain,
        state=pb.DeliveryState.Value(_STATE_PREFIX + delivery.state.name),
        reason=delivery.reason,
        last_reply=delivery.last_reply,
        attempts=delivery.attempts,
        recorded_at=None if delivery.recorded_at is None else _timestamp(delivery.recorded_at),
    )


def _person_delivery(delivery: PersonDelivery) -> admin_pb.RecipientDelivery:
    return admin_pb.RecipientDelivery(
        job_id=str(delivery.job_id),
        subscription_id=str(delivery.subscription_id),
        subject=delivery.subject,
        recipient_domain=delivery.domain,
        state=delivery.state,
        reason=delivery.reason,
        last_reply=delivery.last_reply,
        attempts=delivery.attempts,
        recorded_at=None if delivery.recorded_at is None else _timestamp(delivery.recorded_at),
    )


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
        on_unknown=pb.UnknownPolicy.Value(f"UNKNOWN_POLICY_{job.on_unknown.name}"),
        give_up_after=None if job.give_up_seconds is None else _duration(job.give_up_seconds),
        round=job.round,
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
