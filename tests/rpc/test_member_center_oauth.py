"""Access tokens: who gets them, what they say, and the keys that sign them."""

from __future__ import annotations

import base64
import hashlib
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicNumbers

from member_center.signing_keys import choose
from messmail.member_center.v1 import member_center_admin_pb2 as admin_pb
from messmail.member_center.v1 import member_center_admin_pb2_grpc, member_center_pb2_grpc
from messmail.member_center.v1 import member_center_feed_pb2 as feed_pb
from messmail.member_center.v1 import member_center_pb2 as pb
from servicekit.clients import AccessTokens, open_channel, open_internal_channel
from servicekit.jwks import FetchedKeys
from servicekit.server import service_descriptor
from servicekit.tokens import TokenVerifier
from tests.member_center_fixtures import ISSUER, MemberCenter, reason_of, unique_address
from tests.rig.proxy import Weather, fault_proxy

WRITE, READ = "newsletter:send.write", "newsletter:send.read"
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def issue(center: MemberCenter, client_id: str, secret: str, **fields: str) -> pb.IssueTokenResponse:
    asked = {"grant_type": "client_credentials", "client_id": client_id, "client_secret": secret, **fields}
    return center.public.IssueToken(pb.IssueTokenRequest(**asked))


def number(text: str) -> int:
    return int.from_bytes(base64.urlsafe_b64decode(text + "=="), "big")


def claims_of(center: MemberCenter, token: str) -> dict[str, Any]:
    """Verifies a token as a stranger to our code would, from the published keys alone."""
    listed = {key.kid: key for key in center.public.GetJsonWebKeySet(pb.GetJsonWebKeySetRequest()).keys}
    key = listed[jwt.get_unverified_header(token)["kid"]]
    assert (key.kty, key.crv, key.use, key.alg) == ("EC", "P-256", "sig", "ES256")
    public_key = EllipticCurvePublicNumbers(number(key.x), number(key.y), SECP256R1()).public_key()
    claims: dict[str, Any] = jwt.decode(token, public_key, algorithms=["ES256"], audience="messmail", issuer=ISSUER)
    return claims


def test_a_tenants_token_says_who_may_do_what_for_ten_minutes(member_center: MemberCenter) -> None:
    tenant_id = member_center.make_tenant()
    client = member_center.make_client(tenant_id, WRITE, READ)
    issued = issue(member_center, client.client_id, client.client_secret, scope=WRITE)
    assert (issued.token_type, issued.expires_in, issued.scope) == ("Bearer", 600, WRITE)
    claims = claims_of(member_center, issued.access_token)
    assert claims["exp"] - claims["iat"] == 600
    assert UUID(claims["jti"])
    assert {name: claims[name] for name in ("sub", "client_id", "scope", "tenant_id", "usage")} == {
        "sub": client.client_id,
        "client_id": client.client_id,
        "scope": WRITE,
        "tenant_id": tenant_id,
        "usage": "tenant_api",
    }
    assert jwt.get_unverified_header(issued.access_token)["typ"] == "at+jwt"


def test_a_token_without_a_wish_has_all_scopes_of_the_client(member_center: MemberCenter) -> None:
    client = member_center.make_client(member_center.make_tenant(), WRITE, READ)
    assert issue(member_center, client.client_id, client.client_secret).scope == f"{WRITE} {READ}"


def test_an_internal_token_names_no_tenant(member_center: MemberCenter) -> None:
    client = member_center.make_internal_client("internal:send")
    claims = claims_of(member_center, issue(member_center, client.client_id, client.client_secret).access_token)
    assert claims["usage"] == "internal"
    assert "tenant_id" not in claims


def test_a_wrong_secret_and_an_unknown_client_get_the_same_answer(member_center: MemberCenter) -> None:
    client = member_center.make_client(member_center.make_tenant())
    answers = set()
    for client_id, secret in (
        (client.client_id, "wrong"),
        (client.client_id, client.client_secret + "x"),
        (str(uuid4()), client.client_secret),
        ("no uuid at all", client.client_secret),
        (str(UUID(int=0)), client.client_secret),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            issue(member_center, client_id, secret)
        answers.add((refused.value.code(), refused.value.details()))
    assert len(answers) == 1
    assert answers.pop()[0] is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize(
    "fields, reason",
    [
        ({"grant_type": "password"}, "GRANT_TYPE_UNSUPPORTED"),
        ({"grant_type": "Client_Credentials"}, "GRANT_TYPE_UNSUPPORTED"),
        ({"grant_type": ""}, "INVALID_FIELD"),
        ({"client_secret": ""}, "INVALID_FIELD"),
        ({"scope": READ}, "SCOPE_INVALID"),
        ({"scope": f"{WRITE}  {WRITE}"}, "SCOPE_INVALID"),
        ({"scope": f"{WRITE} internal:admin"}, "SCOPE_INVALID"),
        ({"scope": " "}, "SCOPE_INVALID"),
        ({"scope": "everything"}, "SCOPE_INVALID"),
    ],
)
def test_a_request_that_asks_wrongly_gets_no_token(
    member_center: MemberCenter, fields: dict[str, str], reason: str
) -> None:
    client = member_center.make_client(member_center.make_tenant(), WRITE)
    asked = {"client_id": client.client_id, "client_secret": client.client_secret, **fields}
    asked.setdefault("grant_type", "client_credentials")
    assert reason_of(lambda: member_center.public.IssueToken(pb.IssueTokenRequest(**asked))) == reason


def test_a_receiver_of_webhooks_gets_no_token(member_center: MemberCenter) -> None:
    client = member_center.admin.CreateClient(
        admin_pb.CreateClientRequest(
            tenant_id=member_center.make_tenant(), usage=admin_pb.CLIENT_USAGE_WEBHOOK_OUTBOUND, scopes=[WRITE]
        )
    )
    assert reason_of(lambda: issue(member_center, client.client_id, client.client_secret)) == "CLIENT_UNAUTHORIZED"
    assert reason_of(lambda: issue(member_center, client.client_id, "wrong")) == "CLIENT_AUTHENTICATION_FAILED"


def test_two_secrets_live_while_one_rotates(member_center: MemberCenter) -> None:
    client = member_center.make_client(member_center.make_tenant())
    rotate = admin_pb.RotateClientSecretRequest(client_id=client.client_id)
    second = member_center.admin.RotateClientSecret(rotate).client_secret
    for secret in (client.client_secret, second):
        assert issue(member_center, client.client_id, secret).access_token
    third = member_center.admin.RotateClientSecret(rotate).client_secret
    for secret in (second, third):
        assert issue(member_center, client.client_id, secret).access_token
    first_again = partial(issue, member_center, client.client_id, client.client_secret)
    assert reason_of(first_again) == "CLIENT_AUTHENTICATION_FAILED"


def test_a_disabled_client_gets_no_token(member_center: MemberCenter) -> None:
    client = member_center.make_client(member_center.make_tenant())
    disable = admin_pb.DisableClientRequest(client_id=client.client_id)
    ended = member_center.admin.DisableClient(disable).disabled_at
    assert member_center.admin.DisableClient(disable).disabled_at == ended
    refused = partial(issue, member_center, client.client_id, client.client_secret)
    assert reason_of(refused) == "CLIENT_AUTHENTICATION_FAILED"


def test_secrets_are_long_and_only_their_hash_is_stored(member_center: MemberCenter) -> None:
    client = member_center.make_client(member_center.make_tenant())
    assert len(base64.urlsafe_b64decode(client.client_secret + "=")) == 32
    (stored,) = member_center.rows("SELECT secret_hash FROM clients WHERE id = %s", client.client_id)
    assert stored == (hashlib.sha256(client.client_secret.encode()).digest(),)


def test_metadata_say_what_there_is(member_center: MemberCenter) -> None:
    metadata = member_center.public.GetAuthorizationServerMetadata(pb.GetAuthorizationServerMetadataRequest())
    assert (metadata.issuer, metadata.token_endpoint) == (ISSUER, f"{ISSUER}/oauth/token")
    assert metadata.jwks_uri == f"{ISSUER}/.well-known/jwks.json"
    assert metadata.revocation_endpoint == f"{ISSUER}/oauth/revoke"
    assert metadata.introspection_endpoint == f"{ISSUER}/oauth/introspect"
    assert list(metadata.grant_types_supported) == ["client_credentials"]
    client = member_center.make_client(member_center.make_tenant(), *metadata.scopes_supported)
    for scope in metadata.scopes_supported:
        assert issue(member_center, client.client_id, client.client_secret, scope=scope).scope == scope


# ---- ending tokens


def ask(center: MemberCenter, client: Any, token: str) -> pb.IntrospectTokenResponse:
    return center.public.IntrospectToken(
        pb.IntrospectTokenRequest(token=token, client_id=client.client_id, client_secret=client.client_secret)
    )


def revoke(center: MemberCenter, client: Any, token: str) -> pb.RevokeTokenResponse:
    return center.public.RevokeToken(
        pb.RevokeTokenRequest(token=token, client_id=client.client_id, client_secret=client.client_secret)
    )


def wait_refused(center: MemberCenter, client: Any, token: str) -> None:
    """Waits until a token is refused, at most the five seconds of the claim."""
    deadline = time.monotonic() + 5
    while ask(center, client, token).active:
        assert time.monotonic() < deadline, "it is still good after five seconds"
        time.sleep(0.05)


def test_a_client_ends_a_token_of_its_own_and_no_other(member_center: MemberCenter) -> None:
    tenant_id = member_center.make_tenant()
    client, sibling = (member_center.make_client(tenant_id, WRITE) for _ in range(2))
    token, other = (issue(member_center, client.client_id, client.client_secret).access_token for _ in range(2))
    before = set(member_center.feed.ListRevocations(feed_pb.ListRevocationsRequest()).token_ids)
    for nothing in ("x", token[:-2], "a.b.c", "x" * 20_000):
        assert revoke(member_center, client, nothing) == pb.RevokeTokenResponse()
    revoke(member_center, sibling, token)
    assert set(member_center.feed.ListRevocations(feed_pb.ListRevocationsRequest()).token_ids) == before
    assert revoke(member_center, client, token) == revoke(member_center, client, token)
    wait_refused(member_center, client, token)
    assert ask(member_center, client, token) == pb.IntrospectTokenResponse(active=False)
    assert ask(member_center, client, other).active
    jti = claims_of(member_center, token)["jti"]
    assert set(member_center.feed.ListRevocations(feed_pb.ListRevocationsRequest()).token_ids) == {*before, jti}


def test_every_token_of_a_disabled_client_is_refused_soon(member_center: MemberCenter) -> None:
    tenant_id = member_center.make_tenant()
    client, sibling = (member_center.make_client(tenant_id, WRITE) for _ in range(2))
    tokens = [issue(member_center, client.client_id, client.client_secret).access_token for _ in range(3)]
    kept = issue(member_center, sibling.client_id, sibling.client_secret).access_token
    assert all(ask(member_center, sibling, token).active for token in tokens)
    for _ in range(2):
        member_center.admin.DisableClient(admin_pb.DisableClientRequest(client_id=client.client_id))
    for token in tokens:
        wait_refused(member_center, sibling, token)
    assert ask(member_center, sibling, kept).active
    found = member_center.feed.ListRevocations(feed_pb.ListRevocationsRequest()).client_ids
    assert list(found).count(client.client_id) == 1


def test_introspection_tells_what_a_token_says_to_whom_it_may(member_center: MemberCenter) -> None:
    tenant_id = member_center.make_tenant()
    client, stranger = (
        member_center.make_client(tenant, WRITE, READ) for tenant in (tenant_id, member_center.make_tenant())
    )
    internal = member_center.make_internal_client("internal:feed")
    token = issue(member_center, client.client_id, client.client_secret, scope=READ).access_token
    said = claims_of(member_center, token)
    for asking in (client, internal):
        told = ask(member_center, asking, token)
        assert told.active and told.token_type == "Bearer"
        for name in ("scope", "client_id", "sub", "aud", "iss", "jti", "exp", "iat", "tenant_id", "usage"):
            assert getattr(told, name) == said[name], name
    internal_token = issue(member_center, internal.client_id, internal.client_secret).access_token
    nothing = pb.IntrospectTokenResponse(active=False)
    assert ask(member_center, stranger, token) == ask(member_center, client, internal_token) == nothing
    assert ask(member_center, client, "x") == ask(member_center, client, "x" * 20_000) == nothing
    assert not ask(member_center, internal, internal_token).HasField("tenant_id")


def test_only_a_client_with_its_secret_may_ask_or_end(member_center: MemberCenter) -> None:
    tenant_id = member_center.make_tenant()
    client = member_center.make_client(tenant_id, WRITE)
    token = issue(member_center, client.client_id, client.client_secret).access_token
    wrong = admin_pb.CreateClientResponse(client_id=client.client_id, client_secret="wrong")
    unknown = admin_pb.CreateClientResponse(client_id=str(uuid4()), client_secret=client.client_secret)
    for asking in (wrong, unknown):
        for call in (ask, revoke):
            assert reason_of(partial(call, member_center, asking, token)) == "CLIENT_AUTHENTICATION_FAILED"
    webhook = member_center.admin.CreateClient(
        admin_pb.CreateClientRequest(tenant_id=tenant_id, usage=admin_pb.CLIENT_USAGE_WEBHOOK_OUTBOUND)
    )
    assert reason_of(partial(ask, member_center, webhook, token)) == "CLIENT_UNAUTHORIZED"
    assert ask(member_center, client, token).active


# ---- keys


def test_a_rotation_refuses_no_token_and_the_new_key_signs_soon(member_center: MemberCenter) -> None:
    newsletter = member_center.make_newsletter()
    client = member_center.make_client(newsletter.tenant_id)
    elsewhere = TokenVerifier(ISSUER, FetchedKeys(member_center.server.address), lambda _: False)

    def kid_of_a_good_token() -> str:
        token = issue(member_center, client.client_id, client.client_secret).access_token
        assert elsewhere.verify(token).client_id == UUID(client.client_id)
        return str(jwt.get_unverified_header(token)["kid"])

    before = kid_of_a_good_token()
    old = member_center.channel_as(client.client_id, client.client_secret)
    (made,) = member_center.admin.RotateKeys(admin_pb.RotateKeysRequest(ring=admin_pb.KEY_RING_SIGNING)).key_ids
    deadline, last = time.monotonic() + 20, before
    while last == before and time.monotonic() < deadline:
        last = kid_of_a_good_token()
        time.sleep(0.05)
    assert last == made
    listed = [key.kid for key in member_center.public.GetJsonWebKeySet(pb.GetJsonWebKeySetRequest()).keys]
    assert set(listed) == {before, made}
    subscribe = pb.SubscribeRequest(list_id=newsletter.list_id, email=unique_address())
    assert member_center.public_as(client).Subscribe(subscribe).confirm_token
    old.close()


def test_a_new_key_is_listed_before_it_signs() -> None:
    stored = [("new", NOW), ("old", NOW - timedelta(days=1))]
    assert choose(stored, NOW) == ("old", ["new", "old"])
    assert choose(stored, NOW + timedelta(seconds=5)) == ("new", ["new", "old"])
    assert choose([("only", NOW)], NOW) == ("only", ["only"])


def test_an_old_key_is_listed_until_its_last_token_has_ended() -> None:
    stored = [("new", NOW), ("old", NOW - timedelta(days=1)), ("older", NOW - timedelta(days=2))]
    assert choose(stored, NOW + timedelta(minutes=10))[1] == ["new", "old"]
    assert choose(stored, NOW + timedelta(minutes=11))[1] == ["new"]


def test_keys_of_links_rotate_and_older_links_still_work(member_center: MemberCenter) -> None:
    newsletter, email = member_center.make_newsletter(), unique_address()
    token = member_center.subscribe(newsletter.list_id, email)
    made = member_center.admin.RotateKeys(admin_pb.RotateKeysRequest(ring=admin_pb.KEY_RING_LINKS)).key_ids
    assert len(made) == 5
    deadline, key_id = time.monotonic() + 20, ""
    while key_id not in made and time.monotonic() < deadline:
        fresh = member_center.unsubscribe_token(newsletter.list_id, email)
        key_id = base64.urlsafe_b64decode(fresh)[:4].hex()
        time.sleep(0.05)
    assert key_id in made
    member_center.confirm(token)
    assert len(member_center.members(newsletter)) == 1


def test_keys_are_stored_encrypted(member_center: MemberCenter) -> None:
    member_center.public.GetJsonWebKeySet(pb.GetJsonWebKeySetRequest())
    for table in ("signing_keys", "link_keys"):
        stored = [bytes(row[0]) for row in member_center.rows(f"SELECT encrypted_key FROM {table}")]
        assert stored
        # A Fernet token: the version byte, in base64.
        assert all(key.startswith(b"gAAAA") and len(key) > 100 for key in stored)


# ---- who may call what


@pytest.mark.parametrize("service", ["MemberCenterAdmin", "MemberCenterFeed"])
def test_every_internal_call_needs_its_scope(member_center: MemberCenter, service: str) -> None:
    anonymous = grpc.insecure_channel(member_center.server.address)
    for channel, reason in ((member_center.channel_of("gateway"), "SCOPE_MISSING"), (anonymous, "TOKEN_MISSING")):
        for method in service_descriptor(f"messmail.member_center.v1.{service}").methods:
            call: grpc.UnaryUnaryMultiCallable[None, bytes] = channel.unary_unary(
                f"/messmail.member_center.v1.{service}/{method.name}", request_serializer=lambda _: b""
            )
            assert reason_of(partial(call, None, timeout=10)) == reason, method.name
        channel.close()


def test_a_tenants_client_cannot_act_as_an_operator(member_center: MemberCenter) -> None:
    client = member_center.make_client(member_center.make_tenant(), WRITE, READ)
    tokens = AccessTokens(member_center.server.address, client.client_id, client.client_secret)
    channel = open_internal_channel(member_center.server.address, tokens)
    admin = member_center_admin_pb2_grpc.MemberCenterAdminStub(channel)
    assert reason_of(lambda: admin.ListTenants(admin_pb.ListTenantsRequest())) == "SCOPE_MISSING"
    channel.close()


def test_a_member_center_that_is_slow_to_greet_is_waited_for(member_center: MemberCenter) -> None:
    with (
        fault_proxy(member_center.server.address, Weather(round_trip=0.6)) as proxy,
        open_channel(proxy.address) as channel,
    ):
        stub = member_center_pb2_grpc.MemberCenterStub(channel)
        assert stub.GetJsonWebKeySet(pb.GetJsonWebKeySetRequest(), timeout=10).keys
