"""What Send Engine is told: audiences, consent at the moment of sending, and confirmation mails."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from messmail.member_center.v1 import member_center_admin_pb2 as admin_pb
from messmail.member_center.v1 import member_center_feed_pb2 as pb
from tests.member_center_fixtures import MemberCenter, Newsletter, ids_of, reason_of, unique_address

SENT, DEFERRED, FAILED = pb.MAIL_OUTCOME_SENT, pb.MAIL_OUTCOME_DEFERRED, pb.MAIL_OUTCOME_FAILED
SetClock = Callable[[timedelta], None]


def import_members(center: MemberCenter, newsletter: Newsletter, count: int) -> list[str]:
    emails = [unique_address() for _ in range(count)]
    center.admin.ImportMembers(
        admin_pb.ImportMembersRequest(
            tenant_id=newsletter.tenant_id,
            list_id=newsletter.list_id,
            rows=[admin_pb.ImportRow(email=email) for email in emails],
            confirmed=True,
            evidence="a test",
        )
    )
    return emails


def page(
    center: MemberCenter, newsletter: Newsletter, size: int, after: bytes = b"", as_of: Timestamp | None = None
) -> pb.ListConfirmedSubscriptionsResponse:
    return center.feed.ListConfirmedSubscriptions(
        pb.ListConfirmedSubscriptionsRequest(
            tenant_id=newsletter.tenant_id, list_id=newsletter.list_id, after=after, page_size=size, as_of=as_of
        )
    )


def authorize(center: MemberCenter, newsletter: Newsletter, *ids: bytes) -> pb.AuthorizeRecipientsResponse:
    return center.feed.AuthorizeRecipients(
        pb.AuthorizeRecipientsRequest(tenant_id=newsletter.tenant_id, list_id=newsletter.list_id, subscription_ids=ids)
    )


def stored(center: MemberCenter, mail: pb.ConfirmationMail) -> tuple[str | None, str, timedelta]:
    """Returns a mail's outcome, the last reply, and how far the clock is from the time when it is due."""
    query = "SELECT outcome, last_reply, due_at - statement_timestamp() FROM confirmation_mails WHERE id = %s"
    ((outcome, reply, due_in),) = center.rows(query, uuid.UUID(bytes=mail.mail_id))
    return outcome, reply, due_in


# ---- the audience


def test_pages_lead_through_the_whole_audience_once(member_center: MemberCenter) -> None:
    newsletter = member_center.make_newsletter()
    import_members(member_center, newsletter, 25)
    first = page(member_center, newsletter, 10)
    ids, domains, more = ids_of(first), list(first.recipient_domains), first.more
    while more:
        answer = page(member_center, newsletter, 10, ids[-1], first.as_of)
        assert answer.as_of == first.as_of
        ids += ids_of(answer)
        domains += answer.recipient_domains
        more = answer.more
    assert ids == sorted(ids)
    assert len(set(ids)) == 25
    assert domains == ["mail.example"] * 25


def test_who_confirms_later_is_not_in_an_audience_of_before(member_center: MemberCenter) -> None:
    newsletter = member_center.make_newsletter()
    member_center.add_member(newsletter, unique_address())
    first = page(member_center, newsletter, 10)
    member_center.add_member(newsletter, unique_address())
    assert len(page(member_center, newsletter, 10, as_of=first.as_of).recipient_domains) == 1
    assert len(page(member_center, newsletter, 10).recipient_domains) == 2


def test_another_tenants_list_has_no_audience(member_center: MemberCenter) -> None:
    mine, theirs = member_center.make_newsletter(), member_center.make_newsletter()
    subscription = member_center.add_member(theirs, unique_address())
    foreign = Newsletter(mine.tenant_id, theirs.list_id)
    assert reason_of(lambda: page(member_center, foreign, 10)) == "LIST_NOT_FOUND"
    (refused,) = authorize(member_center, foreign, subscription).refused
    assert refused.reason == pb.REFUSAL_REASON_GONE
    (refused,) = authorize(member_center, mine, subscription).refused
    assert refused.reason == pb.REFUSAL_REASON_GONE


# ---- consent at the moment of sending


def test_everybody_asked_about_is_answered_once(member_center: MemberCenter) -> None:
    newsletter = member_center.make_newsletter()
    import_members(member_center, newsletter, 20)
    ids = member_center.members(newsletter)
    strangers = [uuid.uuid4().bytes for _ in range(3)]
    answer = authorize(member_center, newsletter, *ids, *strangers, *ids, *strangers)
    assert sorted(each.subscription_id for each in answer.authorized) == ids
    assert sorted(each.subscription_id for each in answer.refused) == sorted(strangers)
    links = [url for each in answer.authorized for url in (each.one_click_url, each.preferences_url)]
    assert len(set(links)) == 40


@pytest.mark.parametrize("standing", ["bounced", "complained"])
def test_the_reason_of_a_refusal_is_told(member_center: MemberCenter, standing: str) -> None:
    newsletter = member_center.make_newsletter()
    subscription = member_center.add_member(newsletter, unique_address())
    with psycopg.connect(member_center.superuser_url) as connection:
        connection.execute(
            "UPDATE subscriptions SET standing = %s WHERE id = %s", [standing, uuid.UUID(bytes=subscription)]
        )
    (refused,) = authorize(member_center, newsletter, subscription).refused
    assert pb.RefusalReason.Name(refused.reason) == f"REFUSAL_REASON_{standing.upper()}"


def test_the_answer_is_told_by_the_databases_clock(member_center: MemberCenter, clock: SetClock) -> None:
    newsletter = member_center.make_newsletter()
    subscription = member_center.add_member(newsletter, unique_address())
    clock(timedelta(days=100))
    ahead = authorize(member_center, newsletter, subscription).read_at.ToDatetime(UTC) - datetime.now(UTC)
    assert timedelta(days=99, hours=23) < ahead < timedelta(days=100, minutes=1)


def test_nobody_is_authorized_by_an_answer_read_after_they_left(member_center: MemberCenter) -> None:
    newsletter = member_center.make_newsletter()
    emails = import_members(member_center, newsletter, 60)
    ids = member_center.members(newsletter)
    left_at: dict[bytes, datetime] = {}
    answers: list[pb.AuthorizeRecipientsResponse] = []
    done = threading.Event()

    def leave(email: str) -> None:
        subscription = member_center.subscription_id(newsletter, email)
        member_center.unsubscribe(member_center.unsubscribe_token(newsletter.list_id, email))
        # Read once the unsubscribe has answered: from here on nobody may be told that this person can be mailed.
        left_at[subscription] = member_center.rows("SELECT messmail_now()")[0][0]

    def watch() -> None:
        while not done.is_set():
            answers.append(authorize(member_center, newsletter, *ids))

    with ThreadPoolExecutor(5) as pool:
        watcher = pool.submit(watch)
        list(pool.map(leave, emails))
        done.set()
        watcher.result()
    assert len(answers) > 3
    for answer in answers:
        read_at = answer.read_at.ToDatetime(UTC)
        for authorized in answer.authorized:
            assert read_at < left_at[authorized.subscription_id]
        assert len(answer.authorized) + len(answer.refused) == 60


# ---- confirmation mails


def test_a_leased_mail_is_not_leased_again_until_the_lease_lapses(member_center: MemberCenter, clock: SetClock) -> None:
    newsletter = member_center.make_newsletter()
    member_center.subscribe(newsletter.list_id, unique_address())
    (first,) = member_center.lease_mails(newsletter)
    assert member_center.lease_mails(newsletter) == []
    clock(timedelta(seconds=61))
    (second,) = member_center.lease_mails(newsletter)
    assert second.mail_id == first.mail_id
    assert second.fence > first.fence
    assert member_center.acknowledge(first, SENT) == 0
    assert member_center.acknowledge(second, SENT) == 1
    assert member_center.acknowledge(second, FAILED) == 0
    assert stored(member_center, first)[0] == "sent"
    clock(timedelta(hours=1))
    assert member_center.lease_mails(newsletter) == []


def test_a_deferred_mail_waits_longer_each_time_until_it_is_given_up(
    member_center: MemberCenter, clock: SetClock
) -> None:
    newsletter = member_center.make_newsletter()
    member_center.subscribe(newsletter.list_id, unique_address())
    waits, now, outcome, reply = [], timedelta(0), None, ""
    while outcome is None:
        (mail,) = member_center.lease_mails(newsletter)
        assert member_center.acknowledge(mail, DEFERRED, "451 later\r\nplease") == 1
        outcome, reply, due_in = stored(member_center, mail)
        assert member_center.lease_mails(newsletter) == []
        waits.append(round((due_in - now).total_seconds()))
        now = due_in + timedelta(seconds=1)
        clock(now)
    assert outcome == "failed"
    assert reply == "451 later\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}please"
    assert waits[:3] == [pytest.approx(wait, abs=5) for wait in (30, 60, 120)]
    assert max(waits) == pytest.approx(3600, abs=5)
    assert sum(waits[:-1]) == pytest.approx(24 * 3600, abs=3700)


def test_what_is_no_longer_pending_is_never_mailed(member_center: MemberCenter, clock: SetClock) -> None:
    newsletter = member_center.make_newsletter()
    confirmed, left, late = (unique_address() for _ in range(3))
    member_center.confirm(member_center.subscribe(newsletter.list_id, confirmed))
    member_center.subscribe(newsletter.list_id, left)
    member_center.unsubscribe(member_center.unsubscribe_token(newsletter.list_id, left))
    member_center.subscribe(newsletter.list_id, late)
    clock(timedelta(days=8))
    assert member_center.lease_mails(newsletter) == []
    query = "SELECT outcome FROM confirmation_mails WHERE list_id = %s"
    assert [row[0] for row in member_center.rows(query, newsletter.list_id)] == ["skipped"] * 3


def test_asking_again_queues_no_second_mail_while_one_waits_or_has_just_left(
    member_center: MemberCenter, clock: SetClock
) -> None:
    newsletter, email = member_center.make_newsletter(), unique_address()
    for _ in range(2):
        member_center.subscribe(newsletter.list_id, email)
    (mail,) = member_center.lease_mails(newsletter)
    member_center.subscribe(newsletter.list_id, email)
    assert member_center.acknowledge(mail, SENT) == 1
    assert member_center.lease_mails(newsletter) == []
    member_center.subscribe(newsletter.list_id, email)
    assert member_center.lease_mails(newsletter) == []
    clock(timedelta(minutes=5))
    member_center.subscribe(newsletter.list_id, email)
    assert len(member_center.lease_mails(newsletter)) == 1


def test_two_that_lease_at_once_get_different_mails(member_center: MemberCenter) -> None:
    newsletter = member_center.make_newsletter()
    emails = {unique_address() for _ in range(40)}
    for email in emails:
        member_center.subscribe(newsletter.list_id, email)
    with ThreadPoolExecutor(4) as pool:
        found = [
            mail for leased in pool.map(lambda _: member_center.lease_mails(newsletter), range(4)) for mail in leased
        ]
    assert len(found) == 40
    assert {mail.address for mail in found} == emails


def test_a_tenant_with_many_mails_does_not_keep_another_waiting(member_center: MemberCenter) -> None:
    busy, quiet = member_center.make_newsletter(), member_center.make_newsletter()
    for _ in range(20):
        member_center.subscribe(busy.list_id, unique_address())
    member_center.subscribe(quiet.list_id, unique_address())
    answer = member_center.feed.LeaseConfirmationMails(pb.LeaseConfirmationMailsRequest(page_size=4))
    tenants = [mail.tenant_id for mail in answer.mails]
    assert quiet.tenant_id in tenants
    assert len(tenants) <= 4
    assert answer.more
    assert len(tenants) + len(member_center.lease_mails()) == 21


def test_a_lease_is_ten_seconds_or_more(member_center: MemberCenter) -> None:
    request = pb.LeaseConfirmationMailsRequest(lease_seconds=9)
    assert reason_of(lambda: member_center.feed.LeaseConfirmationMails(request)) == "INVALID_FIELD"


def test_a_result_for_another_tenants_mail_changes_nothing(member_center: MemberCenter) -> None:
    newsletter = member_center.make_newsletter()
    member_center.subscribe(newsletter.list_id, unique_address())
    (mail,) = member_center.lease_mails(newsletter)
    foreign = pb.ConfirmationMail()
    foreign.CopyFrom(mail)
    foreign.tenant_id = member_center.make_tenant()
    assert member_center.acknowledge(foreign, SENT) == 0
    assert member_center.acknowledge(mail, SENT) == 1
