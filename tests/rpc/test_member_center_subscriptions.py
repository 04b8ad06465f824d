"""Subscribing, confirming and unsubscribing, as strangers, sites and people do it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct

from messmail.member_center.v1 import member_center_feed_pb2 as feed_pb
from messmail.member_center.v1 import member_center_pb2 as pb
from tests.member_center_fixtures import MemberCenter, counted_commits, reason_of, status_name, unique_address

UNKNOWN = "00000000-0000-4000-8000-000000000000"
SetClock = Callable[[timedelta], None]


def token_of(url: str) -> str:
    return url.partition("token=")[2]


def preferences_of(member_center: MemberCenter, list_id: str, email: str) -> dict[str, object]:
    request = pb.GetPreferencesRequest(list_id=list_id, email=email)
    return dict(member_center.public.GetPreferences(request).preferences)


def one_click_token(member_center: MemberCenter, tenant_id: str, list_id: str, subscription_id: bytes) -> str:
    request = feed_pb.AuthorizeRecipientsRequest(
        tenant_id=tenant_id, list_id=list_id, subscription_ids=[subscription_id]
    )
    return token_of(member_center.feed.AuthorizeRecipients(request).authorized[0].one_click_url)


def struct(**members: Any) -> Struct:
    made = Struct()
    made.update(members)
    return made


# ---- subscribing and confirming


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


def test_following_the_answers_token_confirms_as_published(member_center: MemberCenter) -> None:
    newsletter, email = member_center.make_newsletter("zh-TW"), unique_address()
    token = member_center.subscribe(newsletter.list_id, email, preferences=struct(lang="en-GB"))
    for _ in range(3):
        followed = member_center.public.FollowConfirmLink(pb.FollowConfirmLinkRequest(token=token))
        assert (status_name(followed.status), followed.list_id) == ("confirmed", newsletter.list_id)
        assert (followed.list_name, followed.language) == ("Weekly", "en")
    assert len(member_center.consent_log(newsletter, email)) == 2


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
    assert status_name(member_center.confirm(token)) == "confirmed"
    followed = member_center.public.FollowConfirmLink(pb.FollowConfirmLinkRequest(token=token))
    assert status_name(followed.status) == "confirmed"
    assert member_center.consent_log(newsletter, email)[1:] == [(2, "confirmed", "mailed_link")]


def test_an_expired_confirmation_link_changes_nothing(member_center: MemberCenter, clock: SetClock) -> None:
    newsletter, email = member_center.make_newsletter(), unique_address()
    token = member_center.subscribe(newsletter.list_id, email)
    (mail,) = member_center.lease_mails(newsletter)
    clock(timedelta(days=7, seconds=1))
    for each in (token, token_of(mail.confirm_url)):
        confirm, follow = pb.ConfirmSubscriptionRequest(token=each), pb.FollowConfirmLinkRequest(token=each)
        assert reason_of(partial(member_center.public.ConfirmSubscription, confirm)) == "LINK_EXPIRED"
        assert reason_of(partial(member_center.public.FollowConfirmLink, follow)) == "LINK_EXPIRED"
    assert len(member_center.consent_log(newsletter, email)) == 1
    assert status_name(member_center.confirm(member_center.subscribe(newsletter.list_id, email))) == "confirmed"


def test_a_link_from_before_an_unsubscribe_is_superseded(member_center: MemberCenter) -> None:
    newsletter, email = member_center.make_newsletter(), unique_address()
    token = member_center.subscribe(newsletter.list_id, email)
    member_center.unsubscribe(member_center.unsubscribe_token(newsletter.list_id, email))
    assert reason_of(lambda: member_center.confirm(token)) == "LINK_SUPERSEDED"


def test_after_an_unsubscribe_only_the_mailed_link_confirms(member_center: MemberCenter) -> None:
    newsletter, email = member_center.make_newsletter(), unique_address()
    member_center.add_member(newsletter, email)
    member_center.unsubscribe(member_center.unsubscribe_token(newsletter.list_id, email))
    member_center.lease_mails(newsletter)
    token = member_center.subscribe(newsletter.list_id, email)
    assert status_name(member_center.confirm(token)) == "pending"
    followed = member_center.public.FollowConfirmLink(pb.FollowConfirmLinkRequest(token=token))
    assert status_name(followed.status) == "pending"
    assert member_center.members(newsletter) == []
    (mail,) = member_center.lease_mails(newsletter)
    assert status_name(member_center.confirm(token_of(mail.confirm_url))) == "confirmed"
    assert len(member_center.members(newsletter)) == 1


def test_the_same_person_asking_at_once_has_one_subscription_and_one_mail(member_center: MemberCenter) -> None:
    newsletter, email = member_center.make_newsletter(), unique_address()

    def ask(spelling: str) -> str:
        return member_center.subscribe(newsletter.list_id, spelling)

    with ThreadPoolExecutor(5) as pool:
        tokens = list(
            pool.map(ask, [email, email.upper().replace("MAIL.EXAMPLE", "mail.example"), email, email, email])
        )
    assert len(member_center.consent_log(newsletter, email)) == 1
    assert len(member_center.lease_mails(newsletter)) == 1
    assert {status_name(member_center.confirm(token)) for token in tokens} == {"confirmed"}


def test_confirming_and_leaving_at_once_leaves_a_log_without_gaps(member_center: MemberCenter) -> None:
    newsletter, emails = member_center.make_newsletter(), [unique_address() for _ in range(8)]

    def confirm_and_leave(email: str) -> None:
        confirm = member_center.subscribe(newsletter.list_id, email)
        leave = member_center.unsubscribe_token(newsletter.list_id, email)
        with ThreadPoolExecutor(2) as pool:
            outcomes = [pool.submit(member_center.confirm, confirm), pool.submit(member_center.unsubscribe, leave)]
        assert sum(outcome.exception() is None for outcome in outcomes) >= 1

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(confirm_and_leave, emails))
    for email in emails:
        generations = [line[0] for line in member_center.consent_log(newsletter, email)]
        assert generations == [1, 2]


# ---- unsubscribing


def test_unsubscribing_a_hundred_times_answers_the_same_and_is_one_event(member_center: MemberCenter) -> None:
    newsletter, email = member_center.make_newsletter(), unique_address()
    member_center.add_member(newsletter, email)
    token = member_center.unsubscribe_token(newsletter.list_id, email)
    request = pb.UnsubscribeRequest(token=token)
    answers = {member_center.public.Unsubscribe(request).SerializeToString() for _ in range(100)}
    assert len(answers) == 1
    assert member_center.consent_log(newsletter, email)[2:] == [(3, "unsubscribed", "unsubscribe_token")]
    assert member_center.members(newsletter) == []


def test_the_one_click_link_of_a_mail_works_for_ever(member_center: MemberCenter, clock: SetClock) -> None:
    newsletter, email = member_center.make_newsletter(), unique_address()
    subscription = member_center.add_member(newsletter, email)
    token = one_click_token(member_center, newsletter.tenant_id, newsletter.list_id, subscription)
    clock(timedelta(days=3650))
    followed = member_center.public.FollowUnsubscribeLink(pb.FollowUnsubscribeLinkRequest(token=token))
    assert status_name(followed.status) == "confirmed"
    assert status_name(member_center.unsubscribe(token)) == "unsubscribed"
    followed = member_center.public.FollowUnsubscribeLink(pb.FollowUnsubscribeLinkRequest(token=token))
    assert status_name(followed.status) == "unsubscribed"
    assert member_center.consent_log(newsletter, email)[2:] == [(3, "unsubscribed", "one_click")]


def test_an_unsubscribe_token_lives_for_an_hour(member_center: MemberCenter, clock: SetClock) -> None:
    newsletter, email = member_center.make_newsletter(), unique_address()
    member_center.add_member(newsletter, email)
    token = member_center.unsubscribe_token(newsletter.list_id, email)
    clock(timedelta(hours=1, seconds=1))
    assert reason_of(lambda: member_center.unsubscribe(token)) == "LINK_EXPIRED"
    assert len(member_center.members(newsletter)) == 1
    member_center.unsubscribe(member_center.unsubscribe_token(newsletter.list_id, email))
    assert status_name(member_center.unsubscribe(token)) == "unsubscribed"


@pytest.mark.claim("T6", "decoys: like the token of somebody known in length, use and end", run=1)
def test_the_token_of_an_unknown_address_answers_like_a_repeat(member_center: MemberCenter) -> None:
    newsletter, email = member_center.make_newsletter("en"), unique_address()
    member_center.confirm(member_center.subscribe(newsletter.list_id, email, preferences=struct(lang="zh-TW")))
    member_center.unsubscribe(member_center.unsubscribe_token(newsletter.list_id, email))
    known, decoy = (member_center.unsubscribe_token(newsletter.list_id, who) for who in (email, unique_address()))
    assert len(known) == len(decoy)
    repeat, nothing = (member_center.public.Unsubscribe(pb.UnsubscribeRequest(token=token)) for token in (known, decoy))
    assert repeat == nothing


@pytest.mark.claim("T6", "decoys: like the token of somebody known in length, use and end", run=5)
def test_following_a_token_that_anybody_can_ask_for_tells_nothing_of_the_person(
    member_center: MemberCenter, clock: SetClock
) -> None:
    newsletter = member_center.make_newsletter("en")
    confirmed, pending, left, changed, unknown = (unique_address() for _ in range(5))
    for email in (confirmed, left):
        member_center.confirm(member_center.subscribe(newsletter.list_id, email, preferences=struct(lang="zh-TW")))
    member_center.unsubscribe(member_center.unsubscribe_token(newsletter.list_id, left))
    confirm, _ = (member_center.subscribe(newsletter.list_id, email) for email in (changed, pending))
    people = (confirmed, pending, left, changed, unknown)
    requests = [
        pb.FollowUnsubscribeLinkRequest(token=member_center.unsubscribe_token(newsletter.list_id, email))
        for email in people
    ]
    member_center.confirm(confirm)
    follow = member_center.public.FollowUnsubscribeLink
    (answer,) = {follow(request).SerializeToString() for request in requests}
    told = pb.FollowUnsubscribeLinkResponse.FromString(answer)
    assert (status_name(told.status), told.list_name, told.language) == ("confirmed", "Weekly", "en")
    clock(timedelta(hours=1, seconds=1))
    assert [reason_of(partial(follow, request)) for request in requests] == ["LINK_EXPIRED"] * len(people)


def test_a_token_does_only_what_it_is_for(member_center: MemberCenter) -> None:
    newsletter, email = member_center.make_newsletter(), unique_address()
    confirm = member_center.subscribe(newsletter.list_id, email)
    leave = member_center.unsubscribe_token(newsletter.list_id, email)
    assert reason_of(lambda: member_center.unsubscribe(confirm)) == "LINK_INVALID"
    assert reason_of(lambda: member_center.confirm(leave)) == "LINK_INVALID"
    assert reason_of(lambda: member_center.confirm("A" * 124)) == "LINK_INVALID"


# ---- preferences


def test_preferences_of_a_subscribe_take_effect_when_the_person_confirms(member_center: MemberCenter) -> None:
    newsletter, email = member_center.make_newsletter(), unique_address()
    token = member_center.subscribe(newsletter.list_id, email, preferences=struct(lang="zh-TW", topics=["tea"]))
    assert preferences_of(member_center, newsletter.list_id, email) == {}
    member_center.confirm(token)
    assert preferences_of(member_center, newsletter.list_id, email)["lang"] == "zh-TW"
    member_center.subscribe(newsletter.list_id, email, preferences=struct(lang="en"))
    assert preferences_of(member_center, newsletter.list_id, email)["lang"] == "zh-TW"


def test_preferences_are_changed_by_a_merge_patch(member_center: MemberCenter) -> None:
    newsletter, email = member_center.make_newsletter(), unique_address()
    member_center.add_member(newsletter, email)

    def update(**patch: object) -> dict[str, object]:
        request = pb.UpdatePreferencesRequest(list_id=newsletter.list_id, email=email, preferences=struct(**patch))
        return dict(member_center.public.UpdatePreferences(request).preferences)

    assert update(lang="en", often=True) == {"lang": "en", "often": True}
    assert update(often=None, count=3) == {"lang": "en", "count": 3}
    assert preferences_of(member_center, newsletter.list_id, email) == {"lang": "en", "count": 3}
    assert update() == {"lang": "en", "count": 3}
    assert reason_of(lambda: update(text="x" * 4096)) == "INVALID_FIELD"
    update(first="x" * 3000)
    assert reason_of(lambda: update(second="x" * 3000)) == "INVALID_FIELD"
    assert len(member_center.consent_log(newsletter, email)) == 2


def test_preferences_of_anybody_else_are_empty_and_stay_so(member_center: MemberCenter) -> None:
    newsletter, pending = member_center.make_newsletter(), unique_address()
    token = member_center.subscribe(newsletter.list_id, pending)
    for email in (pending, unique_address()):
        request = pb.UpdatePreferencesRequest(list_id=newsletter.list_id, email=email, preferences=struct(lang="en"))
        assert dict(member_center.public.UpdatePreferences(request).preferences) == {}
        assert preferences_of(member_center, newsletter.list_id, email) == {}
    member_center.confirm(token)
    assert preferences_of(member_center, newsletter.list_id, pending) == {}


# ---- what strangers learn


def test_answers_cost_the_same_commits_whatever_is_known_of_the_address(member_center: MemberCenter) -> None:
    newsletter = member_center.make_newsletter()
    confirmed, left, pending = (unique_address() for _ in range(3))
    for email in (confirmed, left):
        member_center.add_member(newsletter, email)
    member_center.unsubscribe(member_center.unsubscribe_token(newsletter.list_id, left))
    member_center.subscribe(newsletter.list_id, pending)
    calls: dict[str, Callable[[str], object]] = {
        "subscribe": lambda email: member_center.subscribe(newsletter.list_id, email),
        "unsubscribe-token": lambda email: member_center.unsubscribe_token(newsletter.list_id, email),
        "preferences": lambda email: member_center.public.UpdatePreferences(
            pb.UpdatePreferencesRequest(list_id=newsletter.list_id, email=email, preferences=struct(a=1))
        ),
    }
    for name, call in calls.items():
        costs = {}
        for who, email in {
            "confirmed": confirmed,
            "left": left,
            "pending": pending,
            "unknown": unique_address(),
        }.items():
            # Lists and limits are read again every two seconds: the cheapest of a few calls is one without that.
            counts = []
            for _ in range(2):
                with counted_commits() as commits:
                    call(email)
                counts.append(len(commits))
            costs[who] = min(counts)
        assert set(costs.values()) == {1}, (name, costs)


@pytest.mark.claim("T9", "a filled honeypot costs the commits of success", run=2)
def test_a_filled_honeypot_costs_the_same_commits_as_an_empty_one(member_center: MemberCenter) -> None:
    newsletter = member_center.make_newsletter(honeypot_field="website")
    costs = {}
    for website in ("", "filled"):
        counts = []
        for _ in range(3):
            with counted_commits() as commits:
                member_center.subscribe(newsletter.list_id, unique_address(), preferences=struct(website=website))
            counts.append(len(commits))
        costs[website] = min(counts)
    assert set(costs.values()) == {1}, costs


def test_an_unknown_list_is_not_found_by_anybody(member_center: MemberCenter) -> None:
    email = unique_address()
    assert reason_of(lambda: member_center.subscribe(UNKNOWN, email)) == "LIST_NOT_FOUND"
    assert reason_of(lambda: member_center.unsubscribe_token(UNKNOWN, email)) == "LIST_NOT_FOUND"
    assert reason_of(lambda: preferences_of(member_center, UNKNOWN, email)) == "LIST_NOT_FOUND"


def test_another_tenants_list_is_not_found_and_its_links_open_nothing(member_center: MemberCenter) -> None:
    mine, theirs = member_center.make_newsletter(), member_center.make_newsletter()
    site = member_center.public_as(member_center.make_client(mine.tenant_id))
    email = unique_address()
    request = pb.SubscribeRequest(list_id=theirs.list_id, email=email)
    assert reason_of(lambda: site.Subscribe(request)) == "LIST_NOT_FOUND"
    named = pb.SubscribeRequest(list_id=theirs.list_id, email=email, tenant_id=mine.tenant_id)
    assert reason_of(lambda: member_center.public.Subscribe(named)) == "LIST_NOT_FOUND"
    foreign = pb.SubscribeRequest(list_id=mine.list_id, email=email, tenant_id=theirs.tenant_id)
    assert reason_of(lambda: site.Subscribe(foreign)) == "TENANT_MISMATCH"
    token = member_center.subscribe(theirs.list_id, email)
    confirm = pb.ConfirmSubscriptionRequest(token=token)
    assert reason_of(lambda: site.ConfirmSubscription(confirm)) == "LINK_INVALID"
    assert status_name(member_center.confirm(token)) == "confirmed"


def test_an_internal_caller_names_the_tenant_it_acts_for(member_center: MemberCenter) -> None:
    newsletter, other = member_center.make_newsletter(), member_center.make_newsletter()
    caller = member_center.public_as(member_center.make_internal_client("internal:send"))
    email = unique_address()
    unnamed = pb.SubscribeRequest(list_id=newsletter.list_id, email=email)
    assert reason_of(lambda: caller.Subscribe(unnamed)) == "INVALID_FIELD"
    wrong = pb.SubscribeRequest(list_id=newsletter.list_id, email=email, tenant_id=other.tenant_id)
    assert reason_of(lambda: caller.Subscribe(wrong)) == "LIST_NOT_FOUND"
    right = pb.SubscribeRequest(list_id=newsletter.list_id, email=email, tenant_id=newsletter.tenant_id)
    token = caller.Subscribe(right).confirm_token
    answer = caller.ConfirmSubscription(pb.ConfirmSubscriptionRequest(token=token))
    assert status_name(answer.status) == "confirmed"


# ---- evidence and fields


def test_a_site_with_a_token_passes_on_who_acted(member_center: MemberCenter) -> None:
    newsletter, email = member_center.make_newsletter(), unique_address()
    client = member_center.make_client(newsletter.tenant_id)
    evidence = pb.CallerEvidence(ip="2001:db8::7", user_agent="Browser\x0a1", source_url="https://acme.example/join")
    member_center.public_as(client).Subscribe(
        pb.SubscribeRequest(list_id=newsletter.list_id, email=email, client=evidence)
    )
    query = "SELECT client_id::text, ip, user_agent, source_url, text_version FROM consent_log WHERE list_id = %s"
    (line,) = member_center.rows(query, newsletter.list_id)
    assert line[:4] == (
        client.client_id,
        "2001:db8::7",
        "Browser\N{REPLACEMENT CHARACTER}1",
        "https://acme.example/join",
    )
    assert line[4] != ""


def test_evidence_confirms_whoever_never_decided_without_a_mail_and_is_kept(member_center: MemberCenter) -> None:
    newsletter, email = member_center.make_newsletter(), unique_address()
    site = member_center.public_as(member_center.make_client(newsletter.tenant_id, "newsletter:members.write"))
    request = pb.SubscribeRequest(list_id=newsletter.list_id, email=email, evidence="signed at the till on 5 May")
    request.preferences.update({"lang": "en"})
    for _ in range(2):
        answer = site.Subscribe(request)
        assert (status_name(answer.status), answer.confirm_token) == ("confirmed", "")
    query = "SELECT status, through, evidence FROM consent_log WHERE list_id = %s"
    assert member_center.rows(query, newsletter.list_id) == [("confirmed", "subscribe", "signed at the till on 5 May")]
    assert member_center.members(newsletter) == [member_center.subscription_id(newsletter, email)]
    assert member_center.rows("SELECT 1 FROM confirmation_mails WHERE list_id = %s", newsletter.list_id) == []
    member = pb.GetPreferencesRequest(list_id=newsletter.list_id, email=email)
    assert dict(member_center.public.GetPreferences(member).preferences) == {"lang": "en"}


def test_evidence_brings_nobody_back_who_left(member_center: MemberCenter) -> None:
    newsletter, email = member_center.make_newsletter(), unique_address()
    member_center.add_member(newsletter, email)
    member_center.unsubscribe(member_center.unsubscribe_token(newsletter.list_id, email))
    site = member_center.public_as(member_center.make_client(newsletter.tenant_id, "newsletter:members.write"))
    answer = site.Subscribe(pb.SubscribeRequest(list_id=newsletter.list_id, email=email, evidence="they called"))
    assert status_name(answer.status) == "pending"
    assert member_center.members(newsletter) == []
    assert status_name(member_center.confirm(answer.confirm_token)) == "pending"


def test_only_a_site_that_may_speak_for_members_brings_evidence(member_center: MemberCenter) -> None:
    newsletter, email = member_center.make_newsletter(), unique_address()
    request = pb.SubscribeRequest(list_id=newsletter.list_id, email=email, evidence="trust me")
    sender = member_center.public_as(member_center.make_client(newsletter.tenant_id, "newsletter:send.write"))
    assert reason_of(lambda: member_center.public.Subscribe(request)) == "TOKEN_MISSING"
    assert reason_of(lambda: sender.Subscribe(request)) == "SCOPE_MISSING"
    site = member_center.public_as(member_center.make_client(newsletter.tenant_id, "newsletter:members.write"))
    for nothing_said in ("a\0b", " ", "\t\r\n", "\x0b", "\u00a0", "\u3000"):
        request.evidence = nothing_said
        assert reason_of(lambda: site.Subscribe(request)) == "INVALID_FIELD"
    assert member_center.rows("SELECT 1 FROM subscriptions WHERE list_id = %s", newsletter.list_id) == []


def test_a_stranger_cannot_say_who_acted(member_center: MemberCenter) -> None:
    newsletter, email = member_center.make_newsletter(), unique_address()
    evidence = pb.CallerEvidence(ip="192.0.2.1")
    assert reason_of(lambda: member_center.subscribe(newsletter.list_id, email, client=evidence)) == "INVALID_FIELD"
    member_center.subscribe(newsletter.list_id, email)
    assert member_center.rows("SELECT ip FROM consent_log WHERE list_id = %s", newsletter.list_id) == [("127.0.0.1",)]


@pytest.mark.parametrize(
    "email",
    ["", "ann", "ann@", "@mail.example", "ann@mail", "a b@mail.example", "ann@mail.example\n", "a\0b@mail.example"],
)
def test_a_bad_address_is_refused_and_nothing_is_stored(member_center: MemberCenter, email: str) -> None:
    newsletter = member_center.make_newsletter()
    assert reason_of(lambda: member_center.subscribe(newsletter.list_id, email)) == "INVALID_FIELD"
    assert member_center.rows("SELECT 1 FROM subscriptions WHERE list_id = %s", newsletter.list_id) == []


def test_an_international_domain_becomes_its_a_label_and_the_local_part_stays(member_center: MemberCenter) -> None:
    newsletter = member_center.make_newsletter()
    member_center.subscribe(newsletter.list_id, "Ann.Müller@Bücher.example")
    (mail,) = member_center.lease_mails(newsletter)
    assert mail.address == "Ann.Müller@xn--bcher-kva.example"


@pytest.mark.parametrize("preferences", [{"a": "\0"}, {"a": {"b": {"c": {"d": {}}}}}, {"a": "x" * 5000}])
def test_preferences_out_of_bounds_are_refused(member_center: MemberCenter, preferences: dict[str, object]) -> None:
    newsletter, email = member_center.make_newsletter(), unique_address()
    wanted = struct(**preferences)
    assert reason_of(lambda: member_center.subscribe(newsletter.list_id, email, preferences=wanted)) == "INVALID_FIELD"


def test_no_link_is_ever_stored(member_center: MemberCenter) -> None:
    newsletter, email = member_center.make_newsletter(), unique_address()
    token = member_center.subscribe(newsletter.list_id, email)
    member_center.lease_mails(newsletter)
    for (table,) in member_center.rows("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"):
        found = member_center.rows(f"SELECT 1 FROM {table} t WHERE t::text LIKE %s", f"%{token[10:60]}%")
        assert found == [], table
