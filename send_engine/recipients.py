"""The port to Member Center, which alone knows the people: lists, audiences, consent, confirmation mails.

Every call raises MessmailError. The messages of the contract stop here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID

import grpc
import orjson
from google.protobuf.timestamp_pb2 import Timestamp

from messmail.member_center.v1 import member_center_feed_pb2 as feed
from messmail.member_center.v1 import member_center_feed_pb2_grpc as feed_grpc
from send_engine.composing import ListProfile, Recipient
from send_engine.records import AudiencePage, DeliveryState
from servicekit.revocations import Revoked

# Somebody's call waits for it.
_REVOCATIONS_SECONDS = 2.0
_REFUSAL_PREFIX = "REFUSAL_REASON_"
_OUTCOMES = {
    DeliveryState.SENT: feed.MAIL_OUTCOME_SENT,
    DeliveryState.PENDING: feed.MAIL_OUTCOME_DEFERRED,
    DeliveryState.FAILED: feed.MAIL_OUTCOME_FAILED,
}


@dataclass(frozen=True, slots=True)
class Consent:
    """Who of a group may be mailed, as of read_at by Member Center's clock, and why the rest may not."""

    read_at: datetime
    authorized: Mapping[bytes, Recipient]
    refused: Mapping[bytes, str]


@dataclass(frozen=True, slots=True)
class ConfirmationMail:
    """A leased confirmation mail. The fence goes back with its result."""

    tenant_id: UUID
    mail_id: UUID
    fence: int
    profile: ListProfile
    address: str = field(repr=False)
    language: str
    confirm_url: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ConfirmationResult:
    """What became of a confirmation mail: SENT, FAILED, or PENDING when it is to be tried again."""

    mail: ConfirmationMail
    state: DeliveryState
    reply: str


class Recipients:
    """A client of MemberCenterFeed."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._feed = feed_grpc.MemberCenterFeedStub(channel)

    def revocations(self) -> Revoked:
        """Returns which access tokens have been ended before their time."""
        answer = self._feed.ListRevocations(feed.ListRevocationsRequest(), timeout=_REVOCATIONS_SECONDS)
        return Revoked(frozenset(answer.token_ids), frozenset(map(UUID, answer.client_ids)))

    def list_profile(self, tenant_id: UUID, list_id: UUID) -> ListProfile:
        """Returns how a list presents itself. Raises LIST_NOT_FOUND."""
        answer = self._feed.GetListProfile(
            feed.GetListProfileRequest(tenant_id=str(tenant_id), list_id=str(list_id)), timeout=5.0
        )
        return _profile(answer.profile)

    def audience_page(
        self, tenant_id: UUID, list_id: UUID, as_of: datetime | None, after: UUID | None, size: int
    ) -> AudiencePage:
        """Returns a page of those confirmed at as_of (first page: None, meaning now). Raises LIST_NOT_FOUND."""
        answer = self._feed.ListConfirmedSubscriptions(
            feed.ListConfirmedSubscriptionsRequest(
                tenant_id=str(tenant_id),
                list_id=str(list_id),
                as_of=None if as_of is None else _timestamp(as_of),
                after=b"" if after is None else after.bytes,
                page_size=size,
            )
        )
        domains = list(answer.recipient_domains)
        return AudiencePage(_datetime(answer.as_of), answer.subscription_ids, domains, answer.more)

    def authorize(
        self, tenant_id: UUID, list_id: UUID, subscription_ids: Sequence[bytes], *, with_preferences_urls: bool
    ) -> Consent:
        """Asks who of a group may be mailed now. Raises LIST_NOT_FOUND."""
        answer = self._feed.AuthorizeRecipients(
            feed.AuthorizeRecipientsRequest(
                tenant_id=str(tenant_id),
                list_id=str(list_id),
                subscription_ids=subscription_ids,
                omit_preferences_urls=not with_preferences_urls,
            )
        )
        authorized = {
            one.subscription_id: Recipient(
                one.address, orjson.loads(one.preferences_json or "{}"), one.one_click_url, one.preferences_url
            )
            for one in answer.authorized
        }
        refused = {one.subscription_id: _refusal(one.reason) for one in answer.refused}
        return Consent(_datetime(answer.read_at), authorized, refused)

    def lease_confirmations(self, size: int, lease_seconds: int) -> tuple[list[ConfirmationMail], bool]:
        """Leases confirmation mails that are due, and tells whether there may be more."""
        answer = self._feed.LeaseConfirmationMails(
            feed.LeaseConfirmationMailsRequest(page_size=size, lease_seconds=lease_seconds)
        )
        mails = [
            ConfirmationMail(
                tenant_id=UUID(mail.tenant_id),
                mail_id=UUID(bytes=mail.mail_id),
                fence=mail.fence,
                profile=_profile(mail.profile),
                address=mail.address,
                language=mail.language,
                confirm_url=mail.confirm_url,
            )
            for mail in answer.mails
        ]
        return mails, answer.more

    def acknowledge_confirmations(self, results: Sequence[ConfirmationResult]) -> None:
        """Records what became of leased confirmation mails."""
        self._feed.AcknowledgeConfirmationMails(
            feed.AcknowledgeConfirmationMailsRequest(
                results=[
                    feed.ConfirmationMailResult(
                        tenant_id=str(result.mail.tenant_id),
                        mail_id=result.mail.mail_id.bytes,
                        fence=result.mail.fence,
                        outcome=_OUTCOMES[result.state],
                        reply=result.reply[:512],
                    )
                    for result in results
                ]
            )
        )


def _profile(profile: feed.ListProfile) -> ListProfile:
    return ListProfile(
        list_id=profile.list_id,
        list_name=profile.list_name,
        from_name=profile.from_name,
        from_address=profile.from_address,
        reply_to=profile.reply_to or None,
        envelope_sender=profile.envelope_sender,
        language=profile.language,
    )


def _refusal(reason: feed.RefusalReason.ValueType) -> str:
    value = feed.RefusalReason.DESCRIPTOR.values_by_number.get(reason)
    return value.name.removeprefix(_REFUSAL_PREFIX).lower() if value else "unspecified"


def _timestamp(moment: datetime) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromDatetime(moment)
    return timestamp


def _datetime(timestamp: Timestamp) -> datetime:
    return timestamp.ToDatetime(tzinfo=UTC)
