"""The preference centre, as the person behind a link of a mail uses it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

import psycopg
import pytest

from messmail.member_center.v1 import member_center_feed_pb2 as feed_pb
from messmail.member_center.v1 import member_center_pb2 as pb
from tests.member_center_fixtures import MemberCenter, Newsletter, reason_of, status_name, unique_address

SetClock = Callable[[timedelta], None]


def preferences_token(member_center: MemberCenter, newsletter: Newsletter, email: str) -> str:
    """Returns the token of the link to the preference centre that a mail to this person would show."""
    request = feed_pb.AuthorizeRecipientsRequest(
        tenant_id=newsletter.tenant_id,
        list_id=newsletter.list_id,
        subscription_ids=[member_center.subscription_id(newsletter, email)],
    )
    url: str = member_center.feed.AuthorizeRecipients(request).authorized[0].preferences_url
    return url.partition("?token=")[2]


def look(member_center: MemberCenter, token: str) -> pb.GetPreferenceCenterResponse:
    return member_center.public.GetPreferenceCenter(pb.GetPreferenceCenterRequest(token=token))


def choose(member_center: MemberCenter, token: str, **choice: Any) -> pb.UpdatePreferenceCenterResponse:
    return member_center.public.UpdatePreferenceCenter(pb.UpdatePreferenceCenterRequest(token=token, **choice))


def states(shown: pb.GetPreferenceCenterResponse | pb.UpdatePreferenceCenterResponse) -> dict[str, str]:
    return {each.list_id: status_name(each.status) for each in shown.lists}


def newsletters_of_one_tenant(member_center: MemberCenter, count: int) -> Sequence[Newsletter]:
    first = member_center.make_newsletter()
    lists = [member_center.make_list(first.tenant_id) for _ in range(count - 1)]
    return [first, *(Newsletter(first.tenant_id, list_id) for list_id in lists)]


def test_it_shows_the_lists_of_that_tenant_that_the_person_is_on(member_center: MemberCenter) -> None:
    mine, asked, never, other_tenant = (
        *newsletters_of_one_tenant(member_center, 3),
        member_center.make_newsletter(),
    )
    email, neighbour = unique_address("ann"), unique_address("bob")
    for newsletter, person in ((mine, email), (other_tenant, email), (never, neighbour), (mine, neighbour)):
        member_center.add_member(newsletter, person)
    member_center.subscribe(asked.list_id, email)
    shown = look(member_center, preferences_token(member_center, mine, email))
    assert states(shown) == {mine.list_id: "confirmed", asked.list_id: "pending"}
    assert (shown.language, shown.lists[0].list_name) == ("en", "Weekly")


def test_looking_a_hundred_times_changes_nothing(member_center: MemberCenter) -> None:
    newsletter, email = member_center.make_newsletter(), unique_address()
    member_center.add_member(newsletter, email)
    token = preferences_token(member_center, newsletter, email)
    assert len({look(member_center, token).SerializeToString(deterministic=True) for _ in range(100)}) == 1
    assert len(member_center.consent_log(newsletter, email)) == 2


def test_leaving_one_list_leaves_the_others_and_is_one_event(member_center: MemberCenter) -> None:
    left, kept = newsletters_of_one_tenant(member_center, 2)
    email = unique_address()
    for newsletter in (left, kept):
        member_center.add_member(newsletter, email)
    # The link of one list's mail leaves another.
    token = preferences_token(member_center, kept, email)
    answers = {
        choose(member_center, token, leave_list_id=left.list_id).SerializeToString(deterministic=True)
        for _ in range(100)
    }
    assert len(answers) == 1
    assert states(look(member_center, token)) == {left.list_id: "unsubscribed", kept.list_id: "confirmed"}
    assert member_center.consent_log(left, email)[2:] == [(3, "unsubscribed", "preference_center")]
    assert member_center.members(left) == []
    assert len(member_center.members(kept)) == 1


def test_leaving_all_leaves_every_list_of_that_tenant_and_none_of_another(member_center: MemberCenter) -> None:
    first, second, asked = newsletters_of_one_tenant(member_center, 3)
    elsewhere, email, neighbour = member_center.make_newsletter(), unique_address(), unique_address()
    for newsletter in (first, second, elsewhere):
        member_center.add_member(newsletter, email)
    member_center.add_member(first, neighbour)
    confirm = member_center.subscribe(asked.list_id, email)
    token = preferences_token(member_center, first, email)
    for _ in range(3):
        assert set(states(choose(member_center, token, leave_all=True)).values()) == {"unsubscribed"}
    for newsletter in (first, second):
        assert member_center.consent_log(newsletter, email)[2:] == [(3, "unsubscribed", "preference_center")]
    assert reason_of(partial(member_center.confirm, confirm)) == "LINK_SUPERSEDED"
    assert member_center.members(first) == [member_center.subscription_id(first, neighbour)]
    assert len(member_center.members(elsewhere)) == 1


def test_who_left_is_lifted_by_the_mailed_link_alone(member_center: MemberCenter) -> None:
    newsletter, email = member_center.make_newsletter(), unique_address()
    member_center.add_member(newsletter, email)
    token = preferences_token(member_center, newsletter, email)
    choose(member_center, token, leave_list_id=newsletter.list_id)
    assert status_name(member_center.confirm(member_center.subscribe(newsletter.list_id, email))) == "pending"
    assert states(look(member_center, token)) == {newsletter.list_id: "pending"}


def test_a_language_holds_for_every_list_and_is_no_change_of_consent(member_center: MemberCenter) -> None:
    first, second = newsletters_of_one_tenant(member_center, 2)
    email = unique_address()
    for newsletter in (first, second):
        member_center.add_member(newsletter, email)
        request = pb.UpdatePreferencesRequest(list_id=newsletter.list_id, email=email)
        request.preferences.update({"lang": "en", "size": "large"})
        member_center.public.UpdatePreferences(request)
    token = preferences_token(member_center, first, email)
    assert choose(member_center, token, language="zh-TW").language == "zh-TW"
    assert look(member_center, token).language == "zh-TW"
    for newsletter in (first, second):
        get = pb.GetPreferencesRequest(list_id=newsletter.list_id, email=email)
        assert dict(member_center.public.GetPreferences(get).preferences) == {"lang": "zh-TW", "size": "large"}
        assert len(member_center.consent_log(newsletter, email)) == 2


def test_a_list_that_the_person_was_never_on_cannot_be_left(member_center: MemberCenter) -> None:
    mine, other = newsletters_of_one_tenant(member_center, 2)
    email = unique_address()
    member_center.add_member(mine, email)
    token = preferences_token(member_center, mine, email)
    for list_id in (other.list_id, member_center.make_newsletter().list_id):
        leave = partial(choose, member_center, token, leave_list_id=list_id, language="zh-TW")
        assert reason_of(leave) == "LIST_NOT_FOUND"
    assert look(member_center, token).language == "en"


def test_the_link_lives_for_a_year(member_center: MemberCenter, clock: SetClock) -> None:
    newsletter, email = member_center.make_newsletter(), unique_address()
    member_center.add_member(newsletter, email)
    token = preferences_token(member_center, newsletter, email)
    clock(timedelta(days=364))
    assert states(look(member_center, token)) == {newsletter.list_id: "confirmed"}
    clock(timedelta(days=365, seconds=1))
    assert reason_of(partial(look, member_center, token)) == "LINK_EXPIRED"
    assert reason_of(partial(choose, member_center, token, leave_all=True)) == "LINK_EXPIRED"
    assert len(member_center.members(newsletter)) == 1


def test_no_other_link_opens_it_and_it_opens_nothing_else(member_center: MemberCenter) -> None:
    newsletter, email = member_center.make_newsletter(), unique_address()
    member_center.add_member(newsletter, email)
    preferences = preferences_token(member_center, newsletter, email)
    for other in (
        member_center.subscribe(newsletter.list_id, email),
        member_center.unsubscribe_token(newsletter.list_id, email),
        preferences[:-1] + ("A" if preferences[-1] != "A" else "B"),
    ):
        assert reason_of(partial(look, member_center, other)) == "LINK_INVALID"
        assert reason_of(partial(choose, member_center, other, leave_all=True)) == "LINK_INVALID"
    assert reason_of(partial(member_center.confirm, preferences)) == "LINK_INVALID"
    assert reason_of(partial(member_center.unsubscribe, preferences)) == "LINK_INVALID"
    stranger = member_center.public_as(member_center.make_client(member_center.make_tenant()))
    look_as_another_tenant = partial(stranger.GetPreferenceCenter, pb.GetPreferenceCenterRequest(token=preferences))
    assert reason_of(look_as_another_tenant) == "LINK_INVALID"


def test_of_somebody_who_is_gone_it_shows_nothing(member_center: MemberCenter) -> None:
    newsletter, email = member_center.make_newsletter(), unique_address()
    member_center.add_member(newsletter, email)
    token = preferences_token(member_center, newsletter, email)
    subscription = member_center.subscription_id(newsletter, email).hex()
    with psycopg.connect(member_center.superuser_url) as connection:
        connection.execute("DELETE FROM consent_log WHERE subscription_id = %s", [subscription])
        connection.execute("DELETE FROM confirmation_mails WHERE subscription_id = %s", [subscription])
        connection.execute("DELETE FROM subscriptions WHERE id = %s", [subscription])
    assert reason_of(partial(look, member_center, token)) == "LINK_EXPIRED"
    assert reason_of(partial(choose, member_center, token, leave_all=True)) == "LINK_EXPIRED"


@pytest.mark.parametrize(("omit", "length"), [(False, 124), (True, 0)])
def test_a_link_is_sealed_only_for_mails_that_show_it(member_center: MemberCenter, omit: bool, length: int) -> None:
    newsletter, email = member_center.make_newsletter(), unique_address()
    request = feed_pb.AuthorizeRecipientsRequest(
        tenant_id=newsletter.tenant_id,
        list_id=newsletter.list_id,
        subscription_ids=[member_center.add_member(newsletter, email)],
        omit_preferences_urls=omit,
    )
    (authorized,) = member_center.feed.AuthorizeRecipients(request).authorized
    assert authorized.one_click_url
    assert len(authorized.preferences_url.partition("?token=")[2]) == length
