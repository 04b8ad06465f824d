"""What operators do: tenants, lists, clients, imports."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct

from member_center import wiring
from messmail.member_center.v1 import member_center_admin_pb2 as pb
from messmail.member_center.v1 import member_center_feed_pb2 as feed_pb
from messmail.member_center.v1 import member_center_pb2 as public_pb
from tests.member_center_fixtures import MemberCenter, Newsletter, reason_of, unique_address

NOBODY = str(uuid.UUID(int=0))
UNKNOWN = "00000000-0000-4000-8000-000000000000"
SetClock = Callable[[timedelta], None]


def create_list(center: MemberCenter, **fields: Any) -> str:
    request = pb.CreateListRequest(**{"name": "Weekly", "from": "news@acme.example", **fields})
    return str(center.admin.CreateList(request).list_id)


def import_page(center: MemberCenter, newsletter: Newsletter, *rows: Any, **fields: Any) -> pb.ImportMembersResponse:
    request = pb.ImportMembersRequest(
        tenant_id=newsletter.tenant_id,
        list_id=newsletter.list_id,
        rows=[row if isinstance(row, pb.ImportRow) else pb.ImportRow(email=row) for row in rows],
        **fields,
    )
    return center.admin.ImportMembers(request)


def pages(call: Callable[[str], Any], items: str) -> list[Any]:
    """Follows the page tokens to the end."""
    found, token = [], ""
    while True:
        page = call(token)
        assert len(getattr(page, items)) <= 2
        found += getattr(page, items)
        token = page.next_page_token
        if not token:
            return found


# ---- tenants and lists


def test_tenants_are_listed_page_by_page_and_the_operator_is_none_of_them(member_center: MemberCenter) -> None:
    made = [member_center.make_tenant() for _ in range(5)]
    found = pages(
        lambda token: member_center.admin.ListTenants(pb.ListTenantsRequest(page_size=2, page_token=token)), "tenants"
    )
    ids = [tenant.tenant_id for tenant in found]
    assert len(ids) == len(set(ids))
    assert ids[-5:] == made
    assert NOBODY not in ids


def test_lists_are_listed_as_they_were_made(member_center: MemberCenter) -> None:
    tenant_id = member_center.make_tenant()
    senders = ["Acme <a@acme.example>", '"Acme: News, \\"daily\\"" <b@acme.example>', "c@acme.example"]
    made = [
        create_list(
            member_center,
            tenant_id=tenant_id,
            reply_to="ask@acme.example",
            envelope_sender="bounces@acme.example",
            **{"from": sender},
        )
        for sender in senders
    ]
    found = pages(
        lambda token: member_center.admin.ListLists(
            pb.ListListsRequest(tenant_id=tenant_id, page_size=2, page_token=token)
        ),
        "lists",
    )
    assert [each.list_id for each in found] == made
    assert [getattr(each, "from") for each in found] == senders
    assert {(each.reply_to, each.envelope_sender, each.language) for each in found} == {
        ("ask@acme.example", "bounces@acme.example", "zh-TW")
    }


def test_the_profile_of_a_list_has_what_its_mails_need(member_center: MemberCenter) -> None:
    tenant_id = member_center.make_tenant()
    list_id = create_list(member_center, tenant_id=tenant_id, language="en", **{"from": "Acmé <news@BÜCHER.example>"})
    request = feed_pb.GetListProfileRequest(tenant_id=tenant_id, list_id=list_id)
    profile = member_center.feed.GetListProfile(request).profile
    assert (profile.from_name, profile.from_address) == ("Acmé", "news@xn--bcher-kva.example")
    assert (profile.reply_to, profile.envelope_sender, profile.language) == ("", profile.from_address, "en")
    foreign = feed_pb.GetListProfileRequest(tenant_id=member_center.make_tenant(), list_id=list_id)
    assert reason_of(lambda: member_center.feed.GetListProfile(foreign)) == "LIST_NOT_FOUND"


BREAKING = ["\r\nBcc: eve@evil.example", "a\nb", "a\rb", "a\0b", "a\x85b", "a\u2028b", "=?UTF-8?Q?=0A?="]


@pytest.mark.parametrize("text", BREAKING, ids=ascii)
def test_nothing_that_breaks_out_of_a_header_becomes_part_of_a_list_or_tenant(
    member_center: MemberCenter, text: str
) -> None:
    tenant_id = member_center.make_tenant()
    for field in ("name", "from", "reply_to", "envelope_sender"):
        values = [text, f"Acme {text} <news@acme.example>", f"news@acme.example{text}"]
        for value in values if field != "name" else values[:1]:
            create = partial(create_list, member_center, tenant_id=tenant_id, **{field: value})
            assert reason_of(create) == "INVALID_FIELD", (field, value)
    assert reason_of(lambda: member_center.admin.CreateTenant(pb.CreateTenantRequest(name=text))) == "INVALID_FIELD"
    assert member_center.rows("SELECT 1 FROM lists WHERE tenant_id = %s", tenant_id) == []


@pytest.mark.parametrize("name", [" ", "\u3000 \u2003"], ids=ascii)
def test_a_name_that_nobody_sees_is_none(member_center: MemberCenter, name: str) -> None:
    tenant_id = member_center.make_tenant()
    assert reason_of(partial(create_list, member_center, tenant_id=tenant_id, name=name)) == "INVALID_FIELD"
    assert reason_of(lambda: member_center.admin.CreateTenant(pb.CreateTenantRequest(name=name))) == "INVALID_FIELD"


@pytest.mark.parametrize("tenant_id", [UNKNOWN, NOBODY])
def test_nothing_is_made_for_a_tenant_that_is_not_there(member_center: MemberCenter, tenant_id: str) -> None:
    assert reason_of(lambda: create_list(member_center, tenant_id=tenant_id)) == "TENANT_NOT_FOUND"
    assert reason_of(lambda: member_center.make_client(tenant_id)) == "TENANT_NOT_FOUND"
    listing = pb.ListListsRequest(tenant_id=tenant_id)
    assert reason_of(lambda: member_center.admin.ListLists(listing)) == "TENANT_NOT_FOUND"


@pytest.mark.parametrize("token", ["x", "AAAA", "MjAyNi0xMS0yMyB4", "\N{SNOWMAN}", "MjAyNi0xMS0yMyAwMDAwMDAwMA"])
def test_a_page_token_that_was_not_given_out_is_refused(member_center: MemberCenter, token: str) -> None:
    request = pb.ListTenantsRequest(page_token=token)
    assert reason_of(lambda: member_center.admin.ListTenants(request)) == "INVALID_FIELD"


# ---- clients


@pytest.mark.parametrize(
    "usage, with_tenant, scopes, reason",
    [
        ("TENANT_API", True, ["internal:admin"], "SCOPE_INVALID"),
        ("TENANT_API", True, ["newsletter:everything"], "SCOPE_INVALID"),
        ("TENANT_API", False, ["newsletter:send.read"], "INVALID_FIELD"),
        ("INTERNAL", False, ["newsletter:send.read"], "SCOPE_INVALID"),
        ("INTERNAL", True, ["internal:send"], "INVALID_FIELD"),
    ],
)
def test_a_client_has_only_what_its_usage_allows(
    member_center: MemberCenter, usage: str, with_tenant: bool, scopes: list[str], reason: str
) -> None:
    request = pb.CreateClientRequest(
        tenant_id=member_center.make_tenant() if with_tenant else "",
        usage=pb.ClientUsage.Value(f"CLIENT_USAGE_{usage}"),
        scopes=scopes,
    )
    assert reason_of(lambda: member_center.admin.CreateClient(request)) == reason


def test_a_client_that_is_not_there_is_not_found(member_center: MemberCenter) -> None:
    rotate, disable = pb.RotateClientSecretRequest(client_id=UNKNOWN), pb.DisableClientRequest(client_id=UNKNOWN)
    assert reason_of(lambda: member_center.admin.RotateClientSecret(rotate)) == "CLIENT_NOT_FOUND"
    assert reason_of(lambda: member_center.admin.DisableClient(disable)) == "CLIENT_NOT_FOUND"


# ---- imports


def test_proven_members_are_confirmed_with_their_evidence(member_center: MemberCenter) -> None:
    newsletter = member_center.make_newsletter()
    ann, bob = unique_address("ann"), unique_address("bob")
    preferences = Struct()
    preferences.update({"lang": "en"})
    rows = [pb.ImportRow(email=ann, preferences=preferences), bob]
    answer = import_page(member_center, newsletter, *rows, confirmed=True, evidence="Fair 2025")
    assert (answer.imported, answer.skipped, list(answer.rejected)) == (2, 0, [])
    assert len(member_center.members(newsletter)) == 2
    assert member_center.consent_log(newsletter, ann) == [(1, "confirmed", "import")]
    assert member_center.rows("SELECT DISTINCT evidence FROM consent_log WHERE list_id = %s", newsletter.list_id) == [
        ("Fair 2025",)
    ]
    assert member_center.lease_mails(newsletter) == []
    got = member_center.public.GetPreferences(public_pb.GetPreferencesRequest(list_id=newsletter.list_id, email=ann))
    assert dict(got.preferences) == {"lang": "en"}
    again = import_page(member_center, newsletter, *rows, confirmed=True, evidence="Fair 2025")
    assert (again.imported, again.skipped) == (0, 2)


def test_members_without_proof_are_asked_to_confirm(member_center: MemberCenter) -> None:
    newsletter, email = member_center.make_newsletter(), unique_address()
    assert import_page(member_center, newsletter, email).imported == 1
    assert member_center.members(newsletter) == []
    (mail,) = member_center.lease_mails(newsletter)
    assert mail.address == email
    assert import_page(member_center, newsletter, email).skipped == 1
    member_center.confirm(mail.confirm_url.partition("token=")[2])
    assert len(member_center.members(newsletter)) == 1


def test_an_import_resurrects_nobody(member_center: MemberCenter) -> None:
    newsletter = member_center.make_newsletter()
    left, member, waiting = (unique_address(name) for name in ("left", "member", "waiting"))
    for email in (left, member):
        member_center.add_member(newsletter, email)
    member_center.unsubscribe(member_center.unsubscribe_token(newsletter.list_id, left))
    member_center.subscribe(newsletter.list_id, waiting)
    answer = import_page(member_center, newsletter, left, member, waiting, confirmed=True, evidence="proof")
    assert (answer.imported, answer.skipped) == (1, 2)
    expected = {member_center.subscription_id(newsletter, email) for email in (member, waiting)}
    assert set(member_center.members(newsletter)) == expected
    assert len(member_center.consent_log(newsletter, left)) == 3


def test_bad_rows_are_named_and_the_others_go_on(member_center: MemberCenter) -> None:
    newsletter, email = member_center.make_newsletter(), unique_address()
    deep, spoilt = Struct(), Struct()
    deep.update({"a": {"b": {"c": {"d": {}}}}})
    spoilt.update({"a": "\0"})
    rows = [
        "not an address",
        email,
        pb.ImportRow(email=unique_address(), preferences=deep),
        email.upper().replace("MAIL.EXAMPLE", "mail.example"),
        pb.ImportRow(email=unique_address(), preferences=spoilt),
        "eve@evil.example\r\nBcc: x@evil.example",
    ]
    answer = import_page(member_center, newsletter, *rows, confirmed=True, evidence="proof")
    assert (answer.imported, answer.skipped) == (1, 1)
    assert [row.index for row in answer.rejected] == [0, 2, 4, 5]
    problems = " ".join(row.problem for row in answer.rejected)
    assert "evil" not in problems
    assert all(row.problem for row in answer.rejected)


def test_a_page_of_two_thousand_is_stored_whole(member_center: MemberCenter) -> None:
    newsletter = member_center.make_newsletter()
    rows = [unique_address() for _ in range(2000)]
    answer = import_page(member_center, newsletter, *rows, confirmed=True, evidence="proof")
    assert answer.imported == 2000
    assert len(member_center.members(newsletter)) == 2000


def test_an_import_names_its_list_and_its_evidence(member_center: MemberCenter) -> None:
    mine, theirs = member_center.make_newsletter(), member_center.make_newsletter()
    foreign = Newsletter(mine.tenant_id, theirs.list_id)
    email = unique_address()
    assert reason_of(lambda: import_page(member_center, foreign, email)) == "LIST_NOT_FOUND"
    assert reason_of(lambda: import_page(member_center, mine, email, confirmed=True)) == "INVALID_FIELD"
    for nothing_said in ("a\0b", " ", "\u3000"):
        spoilt = partial(import_page, member_center, mine, email, confirmed=True, evidence=nothing_said)
        assert reason_of(spoilt) == "INVALID_FIELD"


# ---- upkeep and first credentials


def test_who_never_confirmed_is_forgotten_in_time_and_nobody_else(member_center: MemberCenter, clock: SetClock) -> None:
    newsletter = member_center.make_newsletter()
    never, left = unique_address("never"), unique_address("left")
    member_center.subscribe(newsletter.list_id, never)
    member_center.add_member(newsletter, left)
    member_center.unsubscribe(member_center.unsubscribe_token(newsletter.list_id, left))
    member_center.subscribe(newsletter.list_id, left)
    query = "SELECT address FROM subscriptions WHERE list_id = %s"
    clock(timedelta(days=36))
    wiring.maintain(member_center.owner_url)
    assert {row[0] for row in member_center.rows(query, newsletter.list_id)} == {never, left}
    clock(timedelta(days=38))
    wiring.maintain(member_center.owner_url)
    assert {row[0] for row in member_center.rows(query, newsletter.list_id)} == {left}
    assert len(member_center.consent_log(newsletter, left)) == 4


def test_a_revocation_is_kept_as_long_as_a_token_can_live_and_no_longer(
    member_center: MemberCenter, clock: SetClock
) -> None:
    client = member_center.make_client(member_center.make_tenant())
    member_center.admin.DisableClient(pb.DisableClientRequest(client_id=client.client_id))
    query = "SELECT 1 FROM revocations WHERE id = %s"
    for minutes, kept in ((10, 1), (12, 0)):
        clock(timedelta(minutes=minutes))
        wiring.maintain(member_center.owner_url)
        assert len(member_center.rows(query, client.client_id)) == kept


def test_the_first_credentials_are_made_once(member_center: MemberCenter) -> None:
    with pytest.raises(RuntimeError, match="first credentials already"):
        wiring.bootstrap(member_center.settings)
    assert set(wiring.bootstrap(member_center.settings, force=True)) == {"admin"}
