"""What Send Engine is told: the service MemberCenterFeed."""

from __future__ import annotations

from uuid import UUID

import grpc

from member_center.audience import Audience
from member_center.lists import Lists
from member_center.outbox import Outbox
from member_center.records.installation import NewsletterList
from member_center.records.mailing import ConfirmationMail, Lease, MailOutcome, MailResult, Refusal
from member_center.revocations import RevocationList
from member_center.servicers.messages import moment, timestamp
from member_center.texts import one_line
from messmail.member_center.v1 import member_center_feed_pb2 as pb
from messmail.member_center.v1 import member_center_feed_pb2_grpc
from servicekit.errors import invalid_field

_PAGE_SIZE = 5000
_MAILS = 100
_LEASE_SECONDS = 60
_LEAST_LEASE_SECONDS = 10
_REPLY_CHARACTERS = 512
_OUTCOMES = {
    pb.MAIL_OUTCOME_SENT: MailOutcome.SENT,
    pb.MAIL_OUTCOME_DEFERRED: None,
    pb.MAIL_OUTCOME_FAILED: MailOutcome.FAILED,
}
_REFUSALS = {
    Refusal.UNSUBSCRIBED: pb.REFUSAL_REASON_UNSUBSCRIBED,
    Refusal.BOUNCED: pb.REFUSAL_REASON_BOUNCED,
    Refusal.COMPLAINED: pb.REFUSAL_REASON_COMPLAINED,
    Refusal.NOT_CONFIRMED: pb.REFUSAL_REASON_NOT_CONFIRMED,
    Refusal.SUPPRESSED: pb.REFUSAL_REASON_SUPPRESSED,
    Refusal.GONE: pb.REFUSAL_REASON_GONE,
}


class MemberCenterFeedServicer(member_center_feed_pb2_grpc.MemberCenterFeedServicer):
    """Serves Send Engine."""

    def __init__(self, lists: Lists, audience: Audience, outbox: Outbox, revocations: RevocationList) -> None:
        self._lists = lists
        self._audience = audience
        self._outbox = outbox
        self._revocations = revocations

    def GetListProfile(
        self, request: pb.GetListProfileRequest, context: grpc.ServicerContext
    ) -> pb.GetListProfileResponse:
        """Returns what the mails of a list need."""
        found = self._lists.get(UUID(request.list_id), UUID(request.tenant_id))
        return pb.GetListProfileResponse(profile=_profile(found))

    def ListConfirmedSubscriptions(
        self, request: pb.ListConfirmedSubscriptionsRequest, context: grpc.ServicerContext
    ) -> pb.ListConfirmedSubscriptionsResponse:
        """Returns a page of the confirmed subscriptions of a list."""
        page = self._audience.page(
            UUID(request.tenant_id),
            UUID(request.list_id),
            moment(request.as_of) if request.HasField("as_of") else None,
            UUID(bytes=request.after) if request.after else None,
            request.page_size or _PAGE_SIZE,
        )
        return pb.ListConfirmedSubscriptionsResponse(
            as_of=timestamp(page.as_of),
            subscription_ids=page.subscription_ids,
            recipient_domains=page.recipient_domains,
            more=page.more,
        )

    def AuthorizeRecipients(
        self, request: pb.AuthorizeRecipientsRequest, context: grpc.ServicerContext
    ) -> pb.AuthorizeRecipientsResponse:
        """Tells who of a group may be mailed now."""
        answer = self._audience.authorize(
            UUID(request.tenant_id),
            UUID(request.list_id),
            list(request.subscription_ids),
            with_preferences=not request.omit_preferences_urls,
        )
        group = answer.group
        told = pb.AuthorizeRecipientsResponse(
            read_at=timestamp(group.read_at),
            refused=[
                pb.RefusedRecipient(subscription_id=subscription_id, reason=_REFUSALS[refusal])
                for subscription_id, refusal in answer.refused
            ],
        )
        columns = group.mailable, group.addresses, group.preferences, answer.one_click_urls, answer.preferences_urls
        # Made in its place, a message costs half of one that is made and then copied into the list.
        add = told.authorized.add
        for subscription_id, address, preferences, one_click_url, preferences_url in zip(*columns, strict=True):
            add(
                subscription_id=subscription_id,
                address=address,
                preferences_json=preferences,
                one_click_url=one_click_url,
                preferences_url=preferences_url,
            )
        return told

    def LeaseConfirmationMails(
        self, request: pb.LeaseConfirmationMailsRequest, context: grpc.ServicerContext
    ) -> pb.LeaseConfirmationMailsResponse:
        """Leases confirmation mails that are due."""
        seconds = request.lease_seconds or _LEASE_SECONDS
        if seconds < _LEAST_LEASE_SECONDS:
            raise invalid_field("lease_seconds", f"at least {_LEAST_LEASE_SECONDS}, or 0 for {_LEASE_SECONDS}")
        mails, more = self._outbox.lease(request.page_size or _MAILS, seconds)
        return pb.LeaseConfirmationMailsResponse(mails=[_mail(mail) for mail in mails], more=more)

    def AcknowledgeConfirmationMails(
        self, request: pb.AcknowledgeConfirmationMailsRequest, context: grpc.ServicerContext
    ) -> pb.AcknowledgeConfirmationMailsResponse:
        """Records what became of leased confirmation mails."""
        results = [
            MailResult(
                Lease(UUID(result.tenant_id), UUID(bytes=result.mail_id), result.fence),
                _OUTCOMES[result.outcome],
                one_line(result.reply, _REPLY_CHARACTERS),
            )
            for result in request.results
        ]
        return pb.AcknowledgeConfirmationMailsResponse(recorded=self._outbox.acknowledge(results))

    def ListRevocations(
        self, request: pb.ListRevocationsRequest, context: grpc.ServicerContext
    ) -> pb.ListRevocationsResponse:
        """Lists which tokens have been ended."""
        revoked = self._revocations.read()
        return pb.ListRevocationsResponse(token_ids=revoked.token_ids, client_ids=map(str, revoked.client_ids))


def _profile(found: NewsletterList) -> pb.ListProfile:
    profile = found.profile
    return pb.ListProfile(
        list_id=str(found.id),
        list_name=profile.name,
        from_name=profile.from_name,
        from_address=profile.from_address,
        reply_to=profile.reply_to,
        envelope_sender=profile.envelope_sender or profile.from_address,
        language=profile.language,
    )


def _mail(mail: ConfirmationMail) -> pb.ConfirmationMail:
    return pb.ConfirmationMail(
        tenant_id=str(mail.lease.tenant_id),
        mail_id=mail.lease.mail_id.bytes,
        fence=mail.lease.fence,
        profile=_profile(mail.newsletter_list),
        address=mail.address,
        language=mail.language,
        confirm_url=mail.confirm_url,
    )
