"""T9: what a list may ask of those who call for it; without settings the published contract holds."""

from __future__ import annotations

import json
from functools import partial

import pytest

from messmail.member_center.v1 import member_center_admin_pb2 as admin_pb
from messmail.member_center.v1 import member_center_pb2 as pb
from servicekit.errors import Reason
from tests.gateway_fixtures import gateway as gateway
from tests.member_center_fixtures import MemberCenter, Newsletter, reason_of, refusal, status_name, unique_address
from tests.rpc.gateway_under_test import GatewayProcess, HttpAnswer

MEMBERS, SEND = "newsletter:members.write", "newsletter:send.write"
CALLS = ("subscribe", "unsubscribe-token", "preferences", "new preferences")


def call(
    gateway: GatewayProcess, name: str, newsletter: Newsletter, email: str, token: str = "", **headers: str
) -> HttpAnswer:
    """Makes one of the calls that name a list, over REST."""
    if token:
        headers["Authorization"] = f"Bearer {token}"
    person = {"list_id": newsletter.list_id, "email": email}
    if name == "preferences":
        return gateway.call(
            "GET", f"/newsletter/preferences?list_id={newsletter.list_id}&email={email}", None, **headers
        )
    if name == "new preferences":
        return gateway.post_json("/newsletter/preferences", {**person, "preferences": {"a": 1}}, **headers)
    return gateway.post_json(f"/newsletter/{name}", person, **headers)


def access_token(center: MemberCenter, tenant_id: str, *scopes: str) -> str:
    client = center.make_client(tenant_id, *scopes)
    request = pb.IssueTokenRequest(
        grant_type="client_credentials", client_id=client.client_id, client_secret=client.client_secret
    )
    return center.public.IssueToken(request).access_token


@pytest.mark.claim("T9", "a list that requires a token: calls without the right one refused, over REST", run=16)
@pytest.mark.parametrize("name", CALLS)
def test_a_list_that_requires_a_token_refuses_calls_without_the_right_one(
    member_center: MemberCenter, gateway: GatewayProcess, name: str
) -> None:
    newsletter = member_center.make_newsletter(require_token=True)
    other = member_center.make_newsletter()
    email = unique_address()
    anonymous = call(gateway, name, newsletter, email)
    assert (anonymous.status, anonymous.json["reason"]) == (401, "TOKEN_MISSING")
    assert anonymous.headers["www-authenticate"] == 'Bearer realm="messmail"'
    narrow = call(gateway, name, newsletter, email, access_token(member_center, newsletter.tenant_id, SEND))
    assert (narrow.status, narrow.json["reason"]) == (403, "SCOPE_MISSING")
    assert f'error="insufficient_scope", scope="{MEMBERS}"' in narrow.headers["www-authenticate"]
    foreign = call(gateway, name, newsletter, email, access_token(member_center, other.tenant_id, MEMBERS))
    assert (foreign.status, foreign.json["reason"]) == (404, "LIST_NOT_FOUND")
    assert member_center.rows("SELECT 1 FROM subscriptions WHERE list_id = %s", newsletter.list_id) == []
    right = access_token(member_center, newsletter.tenant_id, MEMBERS)
    assert call(gateway, name, newsletter, email, right).status == 200


def test_whoever_may_not_ask_uses_up_nothing_of_the_persons_or_the_lists(member_center: MemberCenter) -> None:
    newsletter, email = member_center.make_newsletter(require_token=True), unique_address()
    for _ in range(6):
        assert reason_of(partial(member_center.subscribe, newsletter.list_id, email)) == "TOKEN_MISSING"
    site = member_center.public_as(member_center.make_client(newsletter.tenant_id, MEMBERS))
    for _ in range(5):
        site.Subscribe(pb.SubscribeRequest(list_id=newsletter.list_id, email=email))


@pytest.mark.claim("T9", "a list that requires a token: links and their tokens work without", run=5)
def test_links_and_their_tokens_work_without_an_access_token(
    member_center: MemberCenter, gateway: GatewayProcess
) -> None:
    newsletter, email = member_center.make_newsletter(require_token=True), unique_address()
    right = access_token(member_center, newsletter.tenant_id, MEMBERS)
    answered = call(gateway, "subscribe", newsletter, email, right).json
    [mail] = member_center.lease_mails(newsletter)
    mailed = mail.confirm_url.rpartition("token=")[2]
    assert gateway.call("GET", f"/newsletter/confirm?token={mailed}").json["status"] == "pending"
    assert gateway.call("GET", f"/newsletter/confirm?token={answered['confirm_token']}").json["status"] == "confirmed"
    assert gateway.post_json("/newsletter/confirm", {"token": mailed}).json["status"] == "confirmed"
    leaving = call(gateway, "unsubscribe-token", newsletter, email, right).json["unsubscribe_token"]
    assert gateway.call("GET", f"/newsletter/unsubscribe?token={leaving}").status == 200
    assert gateway.post_json("/newsletter/unsubscribe", {"token": leaving}).json["status"] == "unsubscribed"


def test_an_internal_caller_needs_only_its_own_scope(member_center: MemberCenter) -> None:
    newsletter = member_center.make_newsletter(require_token=True)
    internal = member_center.public_as(member_center.make_internal_client("internal:send"))
    request = pb.SubscribeRequest(list_id=newsletter.list_id, tenant_id=newsletter.tenant_id, email=unique_address())
    assert status_name(internal.Subscribe(request).status) == "pending"


@pytest.mark.claim("T9", "a list that returns no confirm_token: the mailed link alone confirms", run=2)
def test_a_list_may_keep_its_confirm_tokens_to_itself(member_center: MemberCenter, gateway: GatewayProcess) -> None:
    newsletter, email = member_center.make_newsletter(return_confirm_token=False), unique_address()
    answer = call(gateway, "subscribe", newsletter, email)
    assert (answer.status, answer.json) == (200, {"status": "pending"})
    request = pb.SubscribeRequest(list_id=newsletter.list_id, email=unique_address())
    assert member_center.public.Subscribe(request).confirm_token == ""
    mail = next(mail for mail in member_center.lease_mails(newsletter) if mail.address == email)
    assert status_name(member_center.confirm(mail.confirm_url.rpartition("token=")[2])) == "confirmed"


@pytest.mark.claim("T9", "without settings: the published answers, no token needed, no CORS header", run=4)
@pytest.mark.parametrize("name", CALLS)
def test_without_settings_the_published_contract_holds(
    member_center: MemberCenter, gateway: GatewayProcess, name: str
) -> None:
    newsletter = member_center.make_newsletter()
    answer = call(gateway, name, newsletter, unique_address(), Origin="https://shop.example")
    assert answer.status == 200
    if name == "subscribe":
        assert list(answer.json) == ["status", "confirm_token"]
    assert not [header for header in answer.headers if header.startswith("access-control")]


def test_settings_are_changed_one_by_one_and_are_in_force_soon(member_center: MemberCenter) -> None:
    newsletter = member_center.make_newsletter(honeypot_field="website", origins=["https://shop.example"])
    request = admin_pb.UpdateListRequest(tenant_id=newsletter.tenant_id, list_id=newsletter.list_id)
    request.settings.require_token = True
    settings = member_center.admin.UpdateList(request).list.settings
    assert (settings.require_token, settings.return_confirm_token, settings.honeypot_field) == (True, True, "website")
    assert settings.allowed_origins.origins == ["https://shop.example"]
    assert reason_of(partial(member_center.subscribe, newsletter.list_id, unique_address())) == "TOKEN_MISSING"
    cleared = admin_pb.ListSettings(require_token=False, allowed_origins=admin_pb.AllowedOrigins(), honeypot_field="")
    request.settings.CopyFrom(cleared)
    settings = member_center.admin.UpdateList(request).list.settings
    assert (settings.require_token, settings.honeypot_field) == (False, "")
    assert list(settings.allowed_origins.origins) == []
    member_center.subscribe(newsletter.list_id, unique_address())
    listed = member_center.admin.ListLists(admin_pb.ListListsRequest(tenant_id=newsletter.tenant_id)).lists
    assert [each.settings for each in listed] == [settings]


def test_settings_of_another_tenants_list_cannot_be_changed(member_center: MemberCenter) -> None:
    mine, theirs = member_center.make_newsletter(), member_center.make_newsletter()
    request = admin_pb.UpdateListRequest(tenant_id=mine.tenant_id, list_id=theirs.list_id)
    for settings in (admin_pb.ListSettings(), admin_pb.ListSettings(require_token=True)):
        request.settings.CopyFrom(settings)
        assert reason_of(lambda: member_center.admin.UpdateList(request)) == "LIST_NOT_FOUND"
    member_center.subscribe(theirs.list_id, unique_address())


@pytest.mark.parametrize(
    "origin",
    [
        "*", "null", "shop.example", "https://shop.example/", "https://Shop.example", "https://shop.example:443",
        "http://shop.example:80", "ftp://shop.example", "https://shop.example https://other.example", "https://",
        "https://user@shop.example", "https://*.shop.example", "https://\N{CJK UNIFIED IDEOGRAPH-66F8}.example",
    ],
)  # fmt: skip
def test_an_origin_that_no_browser_sends_is_refused_by_its_place(member_center: MemberCenter, origin: str) -> None:
    tenant_id = member_center.make_tenant()
    good = ["https://shop.example", "http://localhost:3000", "https://[::1]:8443"]
    settings = admin_pb.ListSettings(allowed_origins=admin_pb.AllowedOrigins(origins=[*good, origin]))
    refused = refusal(partial(member_center.make_list, tenant_id, settings=settings))
    assert refused.reason == Reason.ERROR_REASON_INVALID_FIELD
    assert [each.field for each in refused.violations] == ["settings.allowed_origins.origins[3]"]


@pytest.mark.parametrize("name", ["with space", "a" * 65, "a.b", "\N{CJK UNIFIED IDEOGRAPH-7DB2}"])
def test_a_honeypot_that_cannot_be_a_fields_name_is_refused(member_center: MemberCenter, name: str) -> None:
    settings = admin_pb.ListSettings(honeypot_field=name)
    refused = refusal(partial(member_center.make_list, member_center.make_tenant(), settings=settings))
    assert [each.field for each in refused.violations] == ["settings.honeypot_field"]


def test_json_and_text_of_an_answer_agree(member_center: MemberCenter, gateway: GatewayProcess) -> None:
    """What is left out is left out of the schema's required members, too."""
    document = json.loads(gateway.call("GET", "/openapi.json").body)
    schema = document["components"]["schemas"]["SubscribeResponse"]
    assert (schema["required"], set(schema["properties"])) == (["status"], {"status", "confirm_token"})
