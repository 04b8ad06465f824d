"""T8: so much and no more, however many gateways and lists somebody goes through."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import chain

import pytest

from messmail.member_center.v1 import member_center_pb2 as pb
from tests.claims_table import ClaimRow, cases, hand_in_claim
from tests.gateway_fixtures import gateway_before
from tests.member_center_fixtures import MemberCenter, refusal, unique_address
from tests.rpc.gateway_under_test import GatewayProcess, HttpAnswer

LISTS = 10_000
MAILS_A_DAY = 10


@pytest.fixture(scope="module")
def gateways(member_center: MemberCenter, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[GatewayProcess]]:
    """Two gateways, which believe X-Forwarded-For: a test can be many callers."""
    # The defaults are what is claimed.
    member_center.set_limits(anonymous_calls_per_ip_per_minute=600)
    logs = tmp_path_factory.mktemp("gateways")
    with (
        gateway_before(member_center, logs / "one", GATEWAY_TRUSTED_PROXIES="127.0.0.1") as one,
        gateway_before(member_center, logs / "two", GATEWAY_TRUSTED_PROXIES="127.0.0.1") as two,
    ):
        yield [one, two]


def some_ip() -> str:
    """An address that no other test uses."""
    return f"10.{random.randrange(256)}.{random.randrange(256)}.{random.randrange(1, 255)}"


def subscribe(gateway: GatewayProcess, list_id: str, email: str, **headers: str) -> HttpAnswer:
    return gateway.post_json("/newsletter/subscribe", {"list_id": list_id, "email": email}, **headers)


def check_refusal(answer: HttpAnswer, limit: str, seconds: int) -> None:
    assert (answer.status, answer.json["reason"], answer.json["metadata"]["limit"]) == (429, "RATE_LIMITED", limit)
    assert 0 < int(answer.headers["retry-after"]) <= seconds


@pytest.mark.claim("T8", "5 an hour for one address on one list, over two gateways, from whatever IP", run=7)
def test_the_gateways_share_the_five_an_hour_of_an_address_on_a_list(
    member_center: MemberCenter, gateways: list[GatewayProcess]
) -> None:
    newsletter, email = member_center.make_newsletter(), unique_address()
    for turn in range(5):
        answer = subscribe(gateways[turn % 2], newsletter.list_id, email, X_Forwarded_For=some_ip())
        assert answer.status == 200
    for gateway in gateways:
        refused = subscribe(gateway, newsletter.list_id, email, X_Forwarded_For=some_ip())
        check_refusal(refused, "subscribes_per_address_per_hour", 3600)
    other = subscribe(gateways[0], newsletter.list_id, unique_address(), X_Forwarded_For=some_ip())
    assert other.status == 200


@pytest.mark.claim("T8", "600 a minute for an anonymous IP, over two gateways and two paths", asked=601, run=601)
def test_the_gateways_share_the_six_hundred_a_minute_of_an_address(
    member_center: MemberCenter, gateways: list[GatewayProcess]
) -> None:
    newsletter, ip = member_center.make_newsletter(), some_ip()
    path = f"/newsletter/preferences?list_id={newsletter.list_id}&email={unique_address()}"
    statuses = {gateways[turn % 2].call("GET", path, None, X_Forwarded_For=ip).status for turn in range(600)}
    assert statuses == {200}
    for gateway in gateways:
        refused = gateway.call("GET", path, None, X_Forwarded_For=ip)
        check_refusal(refused, "anonymous_calls_per_ip_per_minute", 60)
        assert subscribe(gateway, newsletter.list_id, unique_address(), X_Forwarded_For=ip).status == 429
        assert gateway.call("GET", path, None, X_Forwarded_For=some_ip()).status == 200
    client = member_center.make_client(newsletter.tenant_id)
    token = member_center.public.IssueToken(
        pb.IssueTokenRequest(
            grant_type="client_credentials", client_id=client.client_id, client_secret=client.client_secret
        )
    ).access_token
    bearer = f"Bearer {token}"
    for gateway in gateways:
        assert gateway.call("GET", path, None, X_Forwarded_For=ip, Authorization=bearer).status == 200


@pytest.mark.claim("T8", "a caller with a token has a budget of its own, whatever its IP", run=3)
def test_a_site_with_a_token_has_a_budget_of_its_own(
    member_center: MemberCenter, gateways: list[GatewayProcess]
) -> None:
    newsletter = member_center.make_newsletter()
    request = pb.GetPreferencesRequest(list_id=newsletter.list_id, email=unique_address())
    one, other = (member_center.public_as(member_center.make_client(newsletter.tenant_id)) for _ in range(2))
    one.GetPreferences(request)
    other.GetPreferences(request)
    member_center.set_limits(calls_per_client_per_minute=8)
    try:
        for _ in range(7):
            one.GetPreferences(request)
        refused = refusal(lambda: one.GetPreferences(request))
        assert refused.metadata["limit"] == "calls_per_client_per_minute"
        other.GetPreferences(request)
        path = f"/newsletter/preferences?list_id={newsletter.list_id}&email={unique_address()}"
        assert gateways[0].call("GET", path, None, X_Forwarded_For=some_ip()).status == 200
    finally:
        member_center.set_limits(calls_per_client_per_minute=6000)


@pytest.mark.timeout(1800)
def test_one_victim_on_ten_thousand_lists_gets_ten_mails_a_day(
    member_center: MemberCenter, gateways: list[GatewayProcess], record_property: object
) -> None:
    count = cases(LISTS, least=40)
    tenants = [member_center.make_tenant() for _ in range(20)]
    victim = unique_address("Victim")
    local, _, domain = victim.partition("@")
    spellings = [victim, victim.lower(), f"{local.upper()}@{domain}", f"{local}@{domain.upper()}"]

    def attack(turn: int) -> int:
        list_id = member_center.make_list(tenants[turn % len(tenants)])
        return subscribe(gateways[turn % 2], list_id, spellings[turn % 4], X_Forwarded_For=some_ip()).status

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(attack, range(count))) == {200}
        mails = list(chain.from_iterable(pool.map(lambda _: member_center.lease_mails(), range(4))))
        # Every lease lapses, so all are due again: that must not make others of them leave.
        for minutes in (2, 4):
            member_center.set_clock(timedelta(minutes=minutes))
            mails += chain.from_iterable(pool.map(lambda _: member_center.lease_mails(), range(4)))
    member_center.set_clock(timedelta(0))
    sent = {mail.mail_id for mail in mails if mail.address.lower() == victim.lower()}
    what = f"one victim on {LISTS:,} lists of 20 tenants: at most {MAILS_A_DAY} mails"
    hand_in_claim(record_property, ClaimRow("T8", what, LISTS, count, max(0, len(sent) - MAILS_A_DAY)))
    assert len(sent) == MAILS_A_DAY
