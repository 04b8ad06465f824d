"""How much is allowed, to whom, and what happens when nobody can count."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path

import grpc
import pytest
import redis

from local_stack.data_directory import DataDirectory
from local_stack.engines import running
from local_stack.engines.valkey import Valkey
from local_stack.ports import free_address
from member_center.limits import DEFAULTS
from messmail.member_center.v1 import member_center_admin_pb2 as admin_pb
from messmail.member_center.v1 import member_center_feed_pb2 as feed_pb
from messmail.member_center.v1 import member_center_pb2 as pb
from servicekit.errors import MessmailError, Reason
from tests.member_center_fixtures import (
    Engines,
    MemberCenter,
    reason_of,
    refusal,
    running_member_center,
    status_name,
    unique_address,
)

LIMITED = Reason.ERROR_REASON_RATE_LIMITED
NAMES = tuple(field.name for field in admin_pb.Limits.DESCRIPTOR.fields)


def wait_until(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def is_limited(call: Callable[[], object]) -> bool:
    try:
        call()
    except (grpc.RpcError, MessmailError):
        assert refusal(call).reason == LIMITED
        return True
    return False


@pytest.fixture
def usual_limits(member_center: MemberCenter) -> Iterator[None]:
    """Sets every limit back to its default when the test has ended."""
    yield
    member_center.set_limits(**{name: getattr(DEFAULTS, name) for name in NAMES})
    member_center.set_limits(anonymous_calls_per_ip_per_minute=100_000)


def test_one_address_on_one_list_may_be_asked_for_five_times_an_hour(member_center: MemberCenter) -> None:
    newsletter, other, email = member_center.make_newsletter(), member_center.make_newsletter(), unique_address()
    for _ in range(5):
        member_center.subscribe(newsletter.list_id, email)
    for spelling in (email, email.upper().replace("MAIL.EXAMPLE", "mail.example")):
        refused = refusal(partial(member_center.subscribe, newsletter.list_id, spelling))
        assert refused.reason == LIMITED
        assert refused.metadata["limit"] == "subscribes_per_address_per_hour"
        assert refused.retry_after is not None
        assert 3500 < refused.retry_after <= 3600
        assert email not in refused.message
    member_center.subscribe(newsletter.list_id, unique_address())
    member_center.subscribe(other.list_id, email)


def test_a_refused_call_is_counted_nowhere(member_center: MemberCenter) -> None:
    newsletter, email = member_center.make_newsletter(), unique_address()
    member_center.set_limits(newsletter, subscribes_per_list_per_minute=7)
    for _ in range(5):
        member_center.subscribe(newsletter.list_id, email)
    for _ in range(5):
        assert reason_of(lambda: member_center.subscribe(newsletter.list_id, email)) == "RATE_LIMITED"
    for _ in range(2):
        member_center.subscribe(newsletter.list_id, unique_address())
    full = refusal(lambda: member_center.subscribe(newsletter.list_id, unique_address()))
    assert full.metadata["limit"] == "subscribes_per_list_per_minute"


def test_limits_of_a_list_are_its_own_and_soon_in_force(member_center: MemberCenter) -> None:
    newsletter, other = member_center.make_newsletter(), member_center.make_newsletter()
    member_center.subscribe(newsletter.list_id, unique_address())
    in_force = member_center.set_limits(newsletter, subscribes_per_address_per_hour=0)
    assert in_force.subscribes_per_address_per_hour == 0
    assert in_force.subscribes_per_list_per_minute == DEFAULTS.subscribes_per_list_per_minute
    wait_until(lambda: is_limited(lambda: member_center.subscribe(newsletter.list_id, unique_address())), 5)
    member_center.subscribe(other.list_id, unique_address())
    again = member_center.set_limits(newsletter, subscribes_per_list_per_minute=9)
    assert (again.subscribes_per_address_per_hour, again.subscribes_per_list_per_minute) == (0, 9)


def test_a_limit_of_the_installation_cannot_be_set_for_a_list(member_center: MemberCenter) -> None:
    newsletter = member_center.make_newsletter()
    refused = refusal(lambda: member_center.set_limits(newsletter, calls_per_client_per_minute=5))
    assert [violation.field for violation in refused.violations] == ["limits.calls_per_client_per_minute"]
    theirs = member_center.make_newsletter()
    request = admin_pb.SetLimitsRequest(
        tenant_id=newsletter.tenant_id, list_id=theirs.list_id, limits=admin_pb.Limits()
    )
    assert reason_of(lambda: member_center.admin.SetLimits(request)) == "LIST_NOT_FOUND"


@pytest.mark.usefixtures("usual_limits")
def test_strangers_share_the_budget_of_their_address_and_sites_have_their_own(member_center: MemberCenter) -> None:
    newsletter = member_center.make_newsletter()
    site = member_center.public_as(member_center.make_client(newsletter.tenant_id))
    request = pb.GetPreferencesRequest(list_id=newsletter.list_id, email=unique_address())
    site.GetPreferences(request)
    member_center.set_limits(anonymous_calls_per_ip_per_minute=0)
    refused = refusal(lambda: member_center.public.GetPreferences(request))
    assert refused.metadata["limit"] == "anonymous_calls_per_ip_per_minute"
    strangers: list[Callable[[], object]] = [
        partial(member_center.subscribe, newsletter.list_id, unique_address()),
        partial(member_center.unsubscribe_token, newsletter.list_id, unique_address()),
        partial(member_center.confirm, "A" * 124),
        partial(member_center.unsubscribe, "A" * 124),
    ]
    assert {reason_of(call) for call in strangers} == {"RATE_LIMITED"}
    site.GetPreferences(request)
    member_center.set_limits(calls_per_client_per_minute=0)
    assert refusal(lambda: site.GetPreferences(request)).metadata["limit"] == "calls_per_client_per_minute"


@pytest.mark.usefixtures("usual_limits")
def test_whoever_holds_the_one_click_link_of_a_mail_leaves_however_many_leave_from_there(
    member_center: MemberCenter,
) -> None:
    newsletter = member_center.make_newsletter()
    people = [member_center.add_member(newsletter, unique_address()) for _ in range(3)]
    answer = member_center.feed.AuthorizeRecipients(
        feed_pb.AuthorizeRecipientsRequest(
            tenant_id=newsletter.tenant_id, list_id=newsletter.list_id, subscription_ids=people
        )
    )
    tokens = [each.one_click_url.rpartition("token=")[2] for each in answer.authorized]
    member_center.set_limits(anonymous_calls_per_ip_per_minute=0)
    assert {status_name(member_center.unsubscribe(token)) for token in tokens} == {"unsubscribed"}
    assert member_center.members(newsletter) == []
    assert reason_of(partial(member_center.unsubscribe, tokens[0][:-8] + "AAAAAAAA")) == "RATE_LIMITED"


@pytest.mark.usefixtures("usual_limits")
def test_an_address_gets_so_many_confirmation_mails_a_day_over_all_tenants(member_center: MemberCenter) -> None:
    member_center.set_limits(confirmation_mails_per_address_per_day=3)
    victim, other = unique_address("victim"), unique_address("other")
    newsletters = [member_center.make_newsletter() for _ in range(6)]
    for newsletter in newsletters:
        member_center.subscribe(newsletter.list_id, victim)
    member_center.subscribe(newsletters[0].list_id, other)
    mails = member_center.lease_mails()
    assert [mail.address for mail in mails].count(victim) == 3
    assert [mail.address for mail in mails].count(other) == 1
    query = "SELECT count(*) FROM confirmation_mails WHERE outcome = 'capped'"
    assert member_center.rows(query) == [(3,)]


def test_a_lapsed_lease_costs_no_second_mail_of_the_day(engines: Engines) -> None:
    with running_member_center(engines) as center:
        center.set_limits(confirmation_mails_per_address_per_day=1)
        newsletter, email = center.make_newsletter(), unique_address()
        center.subscribe(newsletter.list_id, email)
        for minutes in range(3):
            center.set_clock(timedelta(minutes=2 * minutes))
            assert [mail.address for mail in center.lease_mails()] == [email]


def test_no_address_is_in_the_limiters_store(member_center: MemberCenter, engines: Engines) -> None:
    newsletter, email = member_center.make_newsletter(), unique_address("findme")
    member_center.subscribe(newsletter.list_id, email)
    member_center.lease_mails(newsletter)
    with redis.Redis.from_url(engines.valkey.url) as store:
        # Workers of other tests keep their own keys there.
        keys = list(store.scan_iter(b"messmail:limit:*"))
        assert keys
        # -1 would be a key that stays; one that went in the meantime answers -2.
        assert all(store.ttl(key) != -1 for key in keys)
        dumped = b"".join(keys) + b"".join(store.dump(key) or b"" for key in keys)
    assert b"findme" not in dumped


def test_while_nobody_counts_calls_go_on_and_confirmation_mails_wait(engines: Engines, tmp_path: Path) -> None:
    address = free_address()
    valkey = Valkey.prepare(DataDirectory(tmp_path / "data"), address)
    with running_member_center(engines, broker_url=valkey.url) as center:
        newsletter, email = center.make_newsletter(), unique_address()
        tokens = [center.subscribe(newsletter.list_id, email) for _ in range(8)]
        assert center.lease_mails() == []
        with running(valkey, tmp_path / "valkey.log"):
            found: list[str] = []

            def has_found() -> bool:
                found.extend(mail.address for mail in center.lease_mails())
                return bool(found)

            wait_until(has_found)
            assert found == [email]
        center.confirm(tokens[0])
        assert len(center.members(newsletter)) == 1
