"""A tenant sees nothing of another: what is somebody else's answers like what is not there at all."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from functools import partial

import pytest
from google.protobuf.struct_pb2 import Struct

from messmail.member_center.v1 import member_center_pb2 as pb
from messmail.member_center.v1 import member_center_pb2_grpc
from tests.member_center_fixtures import MemberCenter, refusal, unique_address

Site = member_center_pb2_grpc.MemberCenterStub
CALLS: dict[str, Callable[[Site, str, str], object]] = {
    "Subscribe": lambda site, list_id, email: site.Subscribe(pb.SubscribeRequest(list_id=list_id, email=email)),
    "RequestUnsubscribeToken": lambda site, list_id, email: site.RequestUnsubscribeToken(
        pb.RequestUnsubscribeTokenRequest(list_id=list_id, email=email)
    ),
    "GetPreferences": lambda site, list_id, email: site.GetPreferences(
        pb.GetPreferencesRequest(list_id=list_id, email=email)
    ),
    "UpdatePreferences": lambda site, list_id, email: site.UpdatePreferences(
        pb.UpdatePreferencesRequest(list_id=list_id, email=email, preferences=Struct())
    ),
}


def snapshot(center: MemberCenter, list_id: str) -> list[tuple[object, ...]]:
    """Everything that is stored of the people on a list."""
    return [
        row
        for table in ("subscriptions", "consent_log", "confirmation_mails")
        for row in center.rows(f"SELECT t::text FROM {table} t WHERE list_id = %s ORDER BY 1", list_id)
    ]


@pytest.mark.parametrize("name", CALLS)
def test_another_tenants_list_answers_like_one_that_is_not_there(member_center: MemberCenter, name: str) -> None:
    mine, theirs = member_center.make_newsletter(), member_center.make_newsletter()
    member = unique_address("member")
    member_center.add_member(theirs, member)
    site = member_center.public_as(member_center.make_client(mine.tenant_id))
    before = snapshot(member_center, theirs.list_id)
    answers = set()
    for list_id, email in (
        (theirs.list_id, member),
        (theirs.list_id, unique_address()),
        (str(uuid.uuid4()), member),
    ):
        error = refusal(partial(CALLS[name], site, list_id, email))
        answers.add((error.status.name, error.message, error.violations, tuple(error.metadata.items())))
    assert len(answers) == 1
    assert answers.pop()[0] == "LIST_NOT_FOUND"
    assert snapshot(member_center, theirs.list_id) == before


@pytest.mark.parametrize("name", ["ConfirmSubscription", "Unsubscribe", "FollowConfirmLink", "FollowUnsubscribeLink"])
def test_another_tenants_link_answers_like_one_that_was_never_made(member_center: MemberCenter, name: str) -> None:
    mine, theirs = member_center.make_newsletter(), member_center.make_newsletter()
    site = member_center.public_as(member_center.make_client(mine.tenant_id))
    email = unique_address()
    confirm = member_center.subscribe(theirs.list_id, email)
    leave = member_center.unsubscribe_token(theirs.list_id, email)
    before = snapshot(member_center, theirs.list_id)
    request = getattr(pb, f"{name}Request")
    answers = {
        (error.status.name, error.message)
        for token in (confirm, leave, "A" * 124)
        for error in [refusal(partial(getattr(site, name), request(token=token)))]
    }
    assert len(answers) == 1
    assert answers.pop()[0] == "LINK_INVALID"
    assert snapshot(member_center, theirs.list_id) == before


def test_one_person_on_two_tenants_lists_is_two_people(member_center: MemberCenter) -> None:
    mine, theirs, email = member_center.make_newsletter(), member_center.make_newsletter(), unique_address()
    for newsletter in (mine, theirs):
        member_center.add_member(newsletter, email)
    before = snapshot(member_center, theirs.list_id)
    member_center.unsubscribe(member_center.unsubscribe_token(mine.list_id, email))
    assert member_center.members(mine) == []
    assert len(member_center.members(theirs)) == 1
    assert snapshot(member_center, theirs.list_id) == before
