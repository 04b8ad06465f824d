"""Subscribing, confirming and unsubscribing, as strangers, sites and people do it."""

from __future__ import annotations

from messmail.member_center.v1 import member_center_feed_pb2 as feed_pb
from messmail.member_center.v1 import member_center_pb2 as pb
from tests.member_center_fixtures import MemberCenter, reason_of, status_name, unique_address


def token_of(url: str) -> str:
    return url.partition("token=")[2]


def test_who_subscribes_and_confirms_is_in_the_audience(member_center: MemberCenter) -> None:
    newsletter, email = member_center.make_newsletter(), unique_address("ann")
    token = member_center.subscribe(newsletter.list_id, email)
    assert member_center.members(newsletter) == []
    assert status_name(member_center.confirm(token)) == "confirmed"
    assert member_center.members(newsletter) == [member_center.subscription_id(newsletter, email)]
    assert member_center.consent_log(newsletter, email) == [
        (1, "pending", "subscribe"),
        (2, "confirmed", "confirm_token"),
    ]


def test_the_mailed_link_confirms_by_post_and_changes_nothing_by_get(member_center: MemberCenter) -> None:
    newsletter, email = member_center.make_newsletter(), unique_address("bob")
    member_center.subscribe(newsletter.list_id, email)
    (mail,) = member_center.lease_mails(newsletter)
    assert (mail.address, mail.language, mail.profile.from_address) == (email, "en", "news@acme.example")
    token = token_of(mail.confirm_url)
    for _ in range(3):
        followed = member_center.public.FollowConfirmLink(pb.FollowConfirmLinkRequest(token=token))
        assert status_name(followed.status) == "pending"
    assert member_center.members(newsletter) == []
    assert status_name(member_center.confirm(token)) == "confirmed"
    followed = member_center.public.FollowConfirmLink(pb.FollowConfirmLinkRequest(token=token))
    assert status_name(followed.status) == "confirmed"
    assert member_center.acknowledge(mail, feed_pb.MAIL_OUTCOME_SENT) == 1


def test_only_the_confirmed_are_authorized(member_center: MemberCenter) -> None:
    newsletter = member_center.make_newsletter()
    ann, bob, eve = (unique_address(name) for name in ("ann", "bob", "eve"))
    ids = [member_center.add_member(newsletter, email) for email in (ann, bob)]
    member_center.subscribe(newsletter.list_id, eve)
    ids += [member_center.subscription_id(newsletter, eve), b"\1" * 16]
    member_center.unsubscribe(member_center.unsubscribe_token(newsletter.list_id, bob))
    answer = member_center.feed.AuthorizeRecipients(
        feed_pb.AuthorizeRecipientsRequest(
            tenant_id=newsletter.tenant_id, list_id=newsletter.list_id, subscription_ids=ids
        )
    )
    assert [(each.subscription_id, each.address, each.preferences_json) for each in answer.authorized] == [
        (ids[0], ann, "{}")
    ]
    assert {each.subscription_id: feed_pb.RefusalReason.Name(each.reason) for each in answer.refused} == {
        ids[1]: "REFUSAL_REASON_UNSUBSCRIBED",
        ids[2]: "REFUSAL_REASON_NOT_CONFIRMED",
        ids[3]: "REFUSAL_REASON_GONE",
    }
    assert status_name(member_center.unsubscribe(token_of(answer.authorized[0].one_click_url))) == "unsubscribed"
    assert member_center.members(newsletter) == []


def test_an_unknown_list_is_not_found(member_center: MemberCenter) -> None:
    unknown = "00000000-0000-4000-8000-000000000000"
    assert reason_of(lambda: member_center.subscribe(unknown, unique_address())) == "LIST_NOT_FOUND"
