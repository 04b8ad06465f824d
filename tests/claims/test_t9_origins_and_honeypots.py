"""T9: browsers of allowed origins may call a list and read its answers, and a filled honeypot is told nothing."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlencode

import pytest

from messmail.member_center.v1 import member_center_pb2 as pb
from tests.gateway_fixtures import gateway as gateway
from tests.member_center_fixtures import MemberCenter, reason_of, unique_address
from tests.rpc.gateway_under_test import GatewayProcess, HttpAnswer

SHOP, OTHER, STRANGER = "https://shop.example", "https://other.example", "https://stranger.example"
PATHS = ("subscribe", "confirm", "unsubscribe-token", "unsubscribe", "preferences")


def cors_headers(answer: HttpAnswer) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name.startswith("access-control")}


def preflight(gateway: GatewayProcess, path: str, origin: str, method: str = "POST") -> HttpAnswer:
    return gateway.call(
        "OPTIONS",
        path,
        None,
        Origin=origin,
        Access_Control_Request_Method=method,
        Access_Control_Request_Headers="content-type",
    )


@pytest.fixture(scope="module", autouse=True)
def lists_with_origins(member_center: MemberCenter) -> Iterator[None]:
    """Some list allows the shop, and another tenant's allows another site."""
    member_center.make_newsletter(origins=[SHOP])
    member_center.make_newsletter(origins=[OTHER])
    yield


@pytest.mark.claim("T9", "preflights: answered for origins that a list names, and for no others", run=15)
@pytest.mark.parametrize("name", PATHS)
def test_a_preflight_is_answered_for_the_origins_that_some_list_allows(gateway: GatewayProcess, name: str) -> None:
    answer = preflight(gateway, f"/newsletter/{name}", SHOP)
    assert (answer.status, answer.headers["vary"], answer.headers["access-control-allow-origin"]) == (
        204,
        "origin",
        SHOP,
    )
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert answer.headers["access-control-allow-headers"] == "Content-Type"
    assert "access-control-allow-credentials" not in answer.headers
    for origin in (STRANGER, "null"):
        refused = preflight(gateway, f"/newsletter/{name}", origin)
        assert (refused.status, cors_headers(refused), refused.headers["vary"]) == (204, {}, "origin")


def test_only_the_newsletter_paths_may_be_called_from_elsewhere(gateway: GatewayProcess) -> None:
    for path, method in (("/oauth/token", "POST"), ("/.well-known/jwks.json", "GET"), ("/healthz", "GET")):
        answer = preflight(gateway, path, SHOP, method)
        assert (answer.status, cors_headers(answer)) == (204, {}), path
    assert preflight(gateway, "/newsletter/subscribe", SHOP, "DELETE").status == 405
    plain = gateway.call("OPTIONS", "/newsletter/subscribe")
    assert (plain.status, plain.headers["allow"], cors_headers(plain)) == (204, "OPTIONS, POST", {})


@pytest.mark.claim("T9", "calls of pages: readable where the list named allows the origin, nowhere else", run=6)
def test_an_answer_is_readable_where_the_list_named_allows_the_origin(
    member_center: MemberCenter, gateway: GatewayProcess
) -> None:
    mine, theirs = member_center.make_newsletter(origins=[SHOP]), member_center.make_newsletter(origins=[OTHER])
    for newsletter, origin, is_readable in (
        (mine, SHOP, True),
        (mine, OTHER, False),
        (mine, STRANGER, False),
        (theirs, SHOP, False),
        (theirs, OTHER, True),
        (member_center.make_newsletter(), SHOP, False),
    ):
        body = {"list_id": newsletter.list_id, "email": unique_address()}
        for answer in (
            gateway.post_json("/newsletter/subscribe", body, Origin=origin),
            gateway.call("GET", f"/newsletter/preferences?{urlencode(body)}", None, Origin=origin),
        ):
            assert answer.status == 200
            assert answer.headers["vary"] == "origin"
            readable = {
                "access-control-allow-origin": origin,
                "access-control-expose-headers": "Retry-After, X-Request-Id",
            }
            assert cors_headers(answer) == (readable if is_readable else {})
    server = gateway.post_json("/newsletter/subscribe", {"list_id": mine.list_id, "email": unique_address()})
    assert cors_headers(server) == {} and "vary" not in server.headers


def test_the_token_of_a_link_names_its_list(member_center: MemberCenter, gateway: GatewayProcess) -> None:
    newsletter, email = member_center.make_newsletter(origins=[SHOP]), unique_address()
    token = member_center.subscribe(newsletter.list_id, email)
    for origin, is_readable in ((SHOP, True), (OTHER, False)):
        followed = gateway.call("GET", f"/newsletter/confirm?token={token}", None, Origin=origin)
        assert ("access-control-allow-origin" in followed.headers) is is_readable
    leaving = member_center.unsubscribe_token(newsletter.list_id, email)
    answer = gateway.post_json("/newsletter/unsubscribe", {"token": leaving}, Origin=SHOP)
    assert (answer.json["status"], answer.headers["access-control-allow-origin"]) == ("unsubscribed", SHOP)


def test_a_page_can_read_what_was_wrong(member_center: MemberCenter, gateway: GatewayProcess) -> None:
    newsletter, email = member_center.make_newsletter(origins=[SHOP]), unique_address()
    body = {"list_id": newsletter.list_id, "email": email}
    for _ in range(5):
        gateway.post_json("/newsletter/subscribe", body, Origin=SHOP)
    limited = gateway.post_json("/newsletter/subscribe", body, Origin=SHOP)
    assert (limited.status, limited.headers["access-control-allow-origin"]) == (429, SHOP)
    assert int(limited.headers["retry-after"]) > 0
    misspelt = gateway.post_json("/newsletter/subscribe", {**body, "adress": email}, Origin=SHOP)
    assert (misspelt.status, misspelt.headers["access-control-allow-origin"]) == (400, SHOP)


def test_an_origin_no_longer_named_by_any_list_gets_no_preflight(
    member_center: MemberCenter, gateway: GatewayProcess
) -> None:
    once = "https://once.example"
    newsletter = member_center.make_newsletter(origins=[once])
    assert cors_headers(preflight(gateway, "/newsletter/subscribe", once))
    member_center.change_settings(newsletter, origins=[])
    assert cors_headers(preflight(gateway, "/newsletter/subscribe", once)) == {}


# ---- honeypots


def subscribe(gateway: GatewayProcess, list_id: str, email: str, preferences: object) -> HttpAnswer:
    body = {"list_id": list_id, "email": email, "preferences": preferences}
    return gateway.post_json("/newsletter/subscribe", body)


def rows_of(center: MemberCenter, list_id: str) -> list[tuple[object, ...]]:
    return center.rows("SELECT 1 FROM subscriptions WHERE list_id = %s", list_id)


@pytest.mark.claim("T9", "a filled honeypot: the answer of success, nothing stored, no mail", run=5)
@pytest.mark.parametrize("filled", ["https://spam.example", 1, True, ["x"], {"a": None}])
def test_a_filled_honeypot_answers_like_success_and_stores_nothing(
    member_center: MemberCenter, gateway: GatewayProcess, filled: object
) -> None:
    newsletter = member_center.make_newsletter(honeypot_field="website")
    program = subscribe(gateway, newsletter.list_id, unique_address(), {"lang": "en", "website": filled})
    assert rows_of(member_center, newsletter.list_id) == []
    assert member_center.lease_mails(newsletter) == []
    person = subscribe(gateway, newsletter.list_id, unique_address(), {"lang": "en", "website": ""})
    assert program.status == person.status == 200
    assert {name: len(text) for name, text in program.json.items()} == {
        name: len(text) for name, text in person.json.items()
    }
    assert set(program.headers) == set(person.headers)
    token = program.json["confirm_token"]
    confirm = pb.ConfirmSubscriptionRequest(token=token)
    assert reason_of(lambda: member_center.public.ConfirmSubscription(confirm)) == "LINK_EXPIRED"


@pytest.mark.parametrize("empty", ["", None, False])
def test_an_empty_honeypot_is_no_preference(
    member_center: MemberCenter, gateway: GatewayProcess, empty: object
) -> None:
    newsletter, email = member_center.make_newsletter(honeypot_field="website"), unique_address()
    answer = subscribe(gateway, newsletter.list_id, email, {"lang": "en", "website": empty})
    member_center.confirm(answer.json["confirm_token"])
    kept = gateway.call("GET", f"/newsletter/preferences?list_id={newsletter.list_id}&email={email}")
    assert kept.json == {"lang": "en"}


def test_a_honeypot_changes_nothing_for_somebody_known_and_counts_as_a_call(
    member_center: MemberCenter, gateway: GatewayProcess
) -> None:
    newsletter, email = member_center.make_newsletter(honeypot_field="website"), unique_address()
    member_center.add_member(newsletter, email)
    before = member_center.consent_log(newsletter, email)
    statuses = [subscribe(gateway, newsletter.list_id, email, {"website": "x"}).status for _ in range(5)]
    assert statuses == [200] * 4 + [429]
    assert member_center.consent_log(newsletter, email) == before
