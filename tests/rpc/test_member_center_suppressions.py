"""Suppressed addresses: nobody mails them, nobody but the person brings them back, and nobody can tell who they are."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import timedelta

import pytest

from messmail.member_center.v1 import member_center_admin_pb2 as admin_pb
from messmail.member_center.v1 import member_center_feed_pb2 as feed_pb
from messmail.member_center.v1 import member_center_people_pb2 as pb
from tests.member_center_fixtures import MemberCenter, Newsletter, reason_of, status_name, unique_address

UNKNOWN = "00000000-0000-4000-8000-000000000000"
NEWSLETTER, EVERYTHING = pb.SUPPRESSION_SCOPE_NEWSLETTER, pb.SUPPRESSION_SCOPE_EVERYTHING
COMPLAINT, MANUAL, BOUNCED = (
    pb.SUPPRESSION_REASON_COMPLAINT,
    pb.SUPPRESSION_REASON_MANUAL,
    pb.SUPPRESSION_REASON_BOUNCED,
)
SetClock = Callable[[timedelta], None]


def suppress(
    center: MemberCenter,
    newsletter: Newsletter,
    email: str,
    scope: pb.SuppressionScope.ValueType = NEWSLETTER,
    reason: pb.SuppressionReason.ValueType = MANUAL,
    list_id: str = "",
) -> pb.Suppression:
    request = pb.AddSuppressionRequest(
        tenant_id=newsletter.tenant_id, email=email, list_id=list_id, scope=scope, reason=reason
    )
    return center.admin.AddSuppression(request).suppression


def listed(center: MemberCenter, tenant_id: str, email: str = "") -> list[pb.Suppression]:
    found: list[pb.Suppression] = []
    request = pb.ListSuppressionsRequest(tenant_id=tenant_id, email=email, page_size=2)
    while True:
        page = center.admin.ListSuppressions(request)
        found += page.suppressions
        request.page_token = page.next_page_token
        if not request.page_token:
            return found


def lift(center: MemberCenter, tenant_id: str, suppression_id: str) -> None:
    center.admin.RemoveSuppression(pb.RemoveSuppressionRequest(tenant_id=tenant_id, suppression_id=suppression_id))


def refused(center: MemberCenter, newsletter: Newsletter, *ids: bytes) -> dict[bytes, int]:
    """Asks whom of a group a send job may mail; returns the reasons of the others."""
    answer = center.feed.AuthorizeRecipients(
        feed_pb.AuthorizeRecipientsRequest(
            tenant_id=newsletter.tenant_id, list_id=newsletter.list_id, subscription_ids=ids
        )
    )
    assert len(answer.authorized) + len(answer.refused) == len(ids)
    return {each.subscription_id: each.reason for each in answer.refused}


def imported(center: MemberCenter, newsletter: Newsletter, email: str, *, confirmed: bool = True) -> int:
    request = admin_pb.ImportMembersRequest(
        tenant_id=newsletter.tenant_id,
        list_id=newsletter.list_id,
        rows=[admin_pb.ImportRow(email=email)],
        confirmed=confirmed,
        evidence="a paper form" if confirmed else "",
    )
    return center.admin.ImportMembers(request).imported


def statuses(center: MemberCenter, tenant_id: str, email: str) -> list[str]:
    person = center.admin.ExportPerson(pb.ExportPersonRequest(tenant_id=tenant_id, email=email))
    return [status_name(each.status) for each in person.subscriptions]


def complain(center: MemberCenter, newsletter: Newsletter, email: str) -> str:
    request = pb.RecordComplaintRequest(
        tenant_id=newsletter.tenant_id, list_id=newsletter.list_id, email=email, evidence="a letter"
    )
    return status_name(center.admin.RecordComplaint(request).status)


def lift_complaint(center: MemberCenter, newsletter: Newsletter, email: str) -> str:
    request = pb.LiftComplaintRequest(
        tenant_id=newsletter.tenant_id, list_id=newsletter.list_id, email=email, evidence="a call"
    )
    return status_name(center.admin.LiftComplaint(request).status)


def mailed_token(center: MemberCenter, newsletter: Newsletter) -> str:
    (mail,) = center.lease_mails(newsletter)
    return mail.confirm_url.partition("token=")[2]


# ---- what a suppression stops


@pytest.mark.parametrize("scope", [NEWSLETTER, EVERYTHING])
@pytest.mark.parametrize("reason", [COMPLAINT, MANUAL, BOUNCED])
def test_a_suppressed_member_is_in_no_group_that_may_be_mailed(
    member_center: MemberCenter, scope: pb.SuppressionScope.ValueType, reason: pb.SuppressionReason.ValueType
) -> None:
    newsletter, email = member_center.make_newsletter(), unique_address("Reader")
    held, free = member_center.add_member(newsletter, email), member_center.add_member(newsletter, unique_address())
    assert refused(member_center, newsletter, held, free) == {}
    added = suppress(member_center, newsletter, email.upper().replace("MAIL.EXAMPLE", "mail.example"), scope, reason)
    assert refused(member_center, newsletter, held, free) == {held: feed_pb.REFUSAL_REASON_SUPPRESSED}
    # Still in the plan, so that it shows among the suppressed of a job.
    assert set(member_center.members(newsletter)) == {held, free}
    lift(member_center, newsletter.tenant_id, added.suppression_id)
    assert refused(member_center, newsletter, held, free) == {}


def test_a_suppression_is_for_one_list_or_for_all_of_its_tenant_and_for_no_other(member_center: MemberCenter) -> None:
    here, email = member_center.make_newsletter(), unique_address()
    beside = Newsletter(here.tenant_id, member_center.make_list(here.tenant_id))
    elsewhere = member_center.make_newsletter()
    members = {each: member_center.add_member(each, email) for each in (here, beside, elsewhere)}

    def held() -> list[Newsletter]:
        return [each for each, member in members.items() if refused(member_center, each, member)]

    of_list = suppress(member_center, here, email, list_id=here.list_id)
    assert held() == [here]
    suppress(member_center, here, email)
    assert held() == [here, beside]
    lift(member_center, here.tenant_id, of_list.suppression_id)
    assert held() == [here, beside]


def test_newsletter_leaves_confirmation_mails_alone_and_everything_stops_them_too(member_center: MemberCenter) -> None:
    newsletter = member_center.make_newsletter()
    newsletters_only, nothing, of_other_list = (unique_address() for _ in range(3))
    suppress(member_center, newsletter, newsletters_only, NEWSLETTER)
    suppress(member_center, newsletter, nothing, EVERYTHING)
    other_list = member_center.make_list(newsletter.tenant_id)
    suppress(member_center, newsletter, of_other_list, EVERYTHING, list_id=other_list)
    for email in (newsletters_only, nothing, of_other_list):
        member_center.subscribe(newsletter.list_id, email)
    assert {mail.address for mail in member_center.lease_mails(newsletter)} == {newsletters_only, of_other_list}
    outcomes = member_center.rows(
        "SELECT outcome FROM confirmation_mails m JOIN subscriptions s ON s.id = subscription_id WHERE address = %s",
        nothing,
    )
    assert outcomes == [("skipped",)]


@pytest.mark.parametrize("confirmed", [True, False])
def test_an_import_skips_the_suppressed(member_center: MemberCenter, *, confirmed: bool) -> None:
    newsletter, email = member_center.make_newsletter(), unique_address()
    added = suppress(member_center, newsletter, email)
    assert imported(member_center, newsletter, email, confirmed=confirmed) == 0
    assert statuses(member_center, newsletter.tenant_id, email) == []
    lift(member_center, newsletter.tenant_id, added.suppression_id)
    assert imported(member_center, newsletter, email, confirmed=confirmed) == 1


def test_for_a_suppressed_address_only_the_mailed_link_confirms(member_center: MemberCenter) -> None:
    newsletter, email = member_center.make_newsletter(), unique_address()
    suppress(member_center, newsletter, email)
    token = member_center.subscribe(newsletter.list_id, email)
    assert status_name(member_center.confirm(token)) == "pending"
    assert statuses(member_center, newsletter.tenant_id, email) == ["pending"]
    assert status_name(member_center.confirm(mailed_token(member_center, newsletter))) == "confirmed"
    member = member_center.subscription_id(newsletter, email)
    assert refused(member_center, newsletter, member) == {member: feed_pb.REFUSAL_REASON_SUPPRESSED}


# ---- the operator's calls


def test_a_suppression_is_listed_by_address_and_page_by_page(member_center: MemberCenter) -> None:
    newsletter = member_center.make_newsletter()
    emails = [unique_address() for _ in range(5)]
    added = [suppress(member_center, newsletter, email) for email in emails]
    for_list = suppress(member_center, newsletter, emails[0], EVERYTHING, BOUNCED, newsletter.list_id)
    assert listed(member_center, newsletter.tenant_id) == [*added, for_list]
    assert listed(member_center, newsletter.tenant_id, emails[0]) == [added[0], for_list]
    assert (for_list.list_id, for_list.scope, for_list.reason) == (newsletter.list_id, EVERYTHING, BOUNCED)
    assert listed(member_center, newsletter.tenant_id, unique_address()) == []


def test_the_same_suppression_twice_is_one_and_has_the_later_scope(member_center: MemberCenter) -> None:
    newsletter, email = member_center.make_newsletter(), unique_address()
    first = suppress(member_center, newsletter, email)
    second = suppress(member_center, newsletter, email, EVERYTHING)
    assert (second.suppression_id, second.scope) == (first.suppression_id, EVERYTHING)
    assert listed(member_center, newsletter.tenant_id) == [second]


def test_a_suppression_of_another_tenant_is_not_found(member_center: MemberCenter) -> None:
    mine, theirs = member_center.make_newsletter(), member_center.make_newsletter()
    added = suppress(member_center, mine, unique_address())
    assert reason_of(lambda: lift(member_center, theirs.tenant_id, added.suppression_id)) == "SUPPRESSION_NOT_FOUND"
    assert listed(member_center, mine.tenant_id) == [added]
    for_foreign_list = pb.AddSuppressionRequest(
        tenant_id=mine.tenant_id, email=unique_address(), list_id=theirs.list_id, scope=NEWSLETTER, reason=MANUAL
    )
    assert reason_of(lambda: member_center.admin.AddSuppression(for_foreign_list)) == "LIST_NOT_FOUND"
    for_nobody = pb.AddSuppressionRequest(tenant_id=UNKNOWN, email=unique_address(), scope=NEWSLETTER, reason=MANUAL)
    assert reason_of(lambda: member_center.admin.AddSuppression(for_nobody)) == "TENANT_NOT_FOUND"


@pytest.mark.parametrize(
    "bad",
    [
        {"email": "nobody"},
        {"email": ""},
        {"scope": pb.SUPPRESSION_SCOPE_UNSPECIFIED},
        {"reason": pb.SUPPRESSION_REASON_ERASED},
        {"reason": 9},
        {"list_id": "weekly"},
    ],
    ids=str,
)
def test_a_suppression_that_makes_no_sense_is_refused(member_center: MemberCenter, bad: dict[str, object]) -> None:
    newsletter = member_center.make_newsletter()
    fields = {"tenant_id": newsletter.tenant_id, "email": unique_address(), "scope": NEWSLETTER, "reason": MANUAL}
    request = pb.AddSuppressionRequest(**(fields | bad))  # type: ignore[arg-type]
    assert reason_of(lambda: member_center.admin.AddSuppression(request)) == "INVALID_FIELD"


def test_the_hashes_of_two_tenants_cannot_be_compared_and_say_nothing(member_center: MemberCenter) -> None:
    email = unique_address()
    ids = [suppress(member_center, member_center.make_newsletter(), email).suppression_id for _ in range(2)]
    rows = member_center.rows("SELECT address_hash, s::text FROM suppressions s WHERE id = ANY(%s::uuid[])", ids)
    assert len({bytes(address_hash) for address_hash, _ in rows}) == 2
    assert email not in str(rows)
    assert hashlib.sha256(email.encode()).digest() not in {bytes(address_hash) for address_hash, _ in rows}


# ---- complaints


def test_after_a_complaint_nothing_but_the_operator_helps(member_center: MemberCenter) -> None:
    newsletter, email = member_center.make_newsletter(), unique_address()
    member = member_center.add_member(newsletter, email)
    before = member_center.subscribe(newsletter.list_id, email)
    assert complain(member_center, newsletter, email) == "complained"
    assert refused(member_center, newsletter, member) == {member: feed_pb.REFUSAL_REASON_COMPLAINED}
    assert reason_of(lambda: member_center.confirm(before)) == "LINK_SUPERSEDED"
    token = member_center.subscribe(newsletter.list_id, email)
    assert member_center.lease_mails(newsletter) == []
    assert status_name(member_center.confirm(token)) == "pending"
    assert imported(member_center, newsletter, email) == 0
    assert complain(member_center, newsletter, email) == "complained"
    assert statuses(member_center, newsletter.tenant_id, email) == ["complained"]


def test_who_is_pardoned_is_unsubscribed_and_needs_the_mailed_link(
    member_center: MemberCenter, clock: SetClock
) -> None:
    newsletter, email = member_center.make_newsletter(), unique_address()
    member_center.add_member(newsletter, email)
    member_center.lease_mails(newsletter)
    complain(member_center, newsletter, email)
    assert lift_complaint(member_center, newsletter, email) == "unsubscribed"
    assert lift_complaint(member_center, newsletter, email) == "unsubscribed"
    assert imported(member_center, newsletter, email) == 0
    clock(timedelta(hours=2))
    assert status_name(member_center.confirm(member_center.subscribe(newsletter.list_id, email))) == "pending"
    assert status_name(member_center.confirm(mailed_token(member_center, newsletter))) == "confirmed"
    assert [line[1:] for line in member_center.consent_log(newsletter, email)] == [
        ("pending", "subscribe"),
        ("confirmed", "confirm_token"),
        ("complained", "operator"),
        ("unsubscribed", "operator"),
        ("pending", "subscribe"),
        ("confirmed", "mailed_link"),
    ]


def test_a_complaint_of_somebody_who_never_was_on_the_list_is_not_found(member_center: MemberCenter) -> None:
    newsletter, email = member_center.make_newsletter(), unique_address()
    member_center.add_member(member_center.make_newsletter(), email)
    assert reason_of(lambda: complain(member_center, newsletter, email)) == "SUBSCRIPTION_NOT_FOUND"
    assert reason_of(lambda: lift_complaint(member_center, newsletter, email)) == "SUBSCRIPTION_NOT_FOUND"
