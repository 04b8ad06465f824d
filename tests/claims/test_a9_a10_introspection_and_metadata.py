"""Claims A9 and A10: ending and asking about tokens as RFC 7009 and 7662 say, and metadata that say what is so."""

from __future__ import annotations

import base64
import itertools
import json
import urllib.error
import urllib.parse
import urllib.request
import uuid
from dataclasses import dataclass
from typing import Any

import pytest

from servicekit.errors import MessmailError, Reason
from tests.claims_table import ClaimRow, hand_in_claim
from tests.forgeries import Forger
from tests.issuer_key import forger_of_stack
from tests.stack import Client, Newsletter, Stack

pytestmark = pytest.mark.timeout(300)

GRANT = {"grant_type": "client_credentials"}
METADATA = "/.well-known/oauth-authorization-server"


@dataclass(frozen=True)
class Told:
    """An answer of an endpoint."""

    status: int
    answer: Any


def post(stack: Stack, url: str, form: dict[str, str], authorization: str = "") -> Told:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    if authorization:
        headers["Authorization"] = authorization
    body = urllib.parse.urlencode(form).encode()
    request = urllib.request.Request(urllib.parse.urljoin(stack.http, url), body, headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return Told(answer.status, json.load(answer))
    except urllib.error.HTTPError as refused:
        with refused:
            return Told(refused.code, json.load(refused))


def credentials(client: Client) -> dict[str, str]:
    return {"client_id": client.client_id, "client_secret": client.client_secret}


def basic(client: Client) -> str:
    return "Basic " + base64.b64encode(f"{client.client_id}:{client.client_secret}".encode()).decode()


@pytest.fixture(scope="module")
def newsletter(unlimited: Stack) -> Newsletter:
    return unlimited.make_newsletter()


@pytest.fixture(scope="module")
def forger(stack: Stack, newsletter: Newsletter) -> Forger:
    return forger_of_stack(stack, stack.access_token(newsletter.client))


def test_a9_ending_any_token_is_answered_200_and_forged_ones_are_not_active(
    stack: Stack, newsletter: Newsletter, forger: Forger, record_property: object
) -> None:
    mine, strangers = newsletter.client, stack.make_newsletter().client
    others_token = stack.access_token(strangers)
    tokens = [*forger.forgeries().values(), others_token, "x", "%00", "é", " ", "a" * 5000, str(uuid.uuid4())]
    for token in tokens:
        told = post(stack, "/oauth/revoke", credentials(mine) | {"token": token})
        # Only what is too long for a token at all is refused, as a field and not as a token.
        assert told.status == 200 or (len(token) > 8192 and told.status == 400), (token[:50], told)
        if told.status == 200:
            assert told.answer == {}
            asked = post(stack, "/oauth/introspect", credentials(mine) | {"token": token})
            assert (asked.status, asked.answer) == (200, {"active": False}), token[:50]
    # Nobody ends another's token by this.
    assert post(stack, "/oauth/introspect", credentials(strangers) | {"token": others_token}).answer["active"] is True
    what = "tokens that are nobody's: ended with 200, never active"
    hand_in_claim(record_property, ClaimRow("A9", what, 0, len(tokens), 0))


def test_a9_only_a_resource_server_with_its_secret_is_told_about_a_token(
    stack: Stack, newsletter: Newsletter, record_property: object
) -> None:
    client = newsletter.client
    token = stack.access_token(client)
    webhook = stack.make_client(newsletter.tenant_id, usage="WEBHOOK_OUTBOUND")
    disabled = stack.make_client(newsletter.tenant_id, "newsletter:send.read")
    stack.messmail("clients", "disable", disabled.client_id)
    refused = {
        "nobody": ({}, ""),
        "only an id": ({"client_id": client.client_id}, ""),
        "a wrong secret": ({"client_id": client.client_id, "client_secret": "x" * 43}, ""),
        "an unknown client": ({"client_id": str(uuid.uuid4()), "client_secret": client.client_secret}, ""),
        "the token itself": ({}, f"Bearer {token}"),
        "a disabled client": (credentials(disabled), ""),
        "a receiver of webhooks": (credentials(webhook), ""),
        "Basic with a wrong secret": ({}, basic(Client(client.client_id, "x" * 43))),
    }
    for name, (form, authorization) in refused.items():
        told = post(stack, "/oauth/introspect", {"token": token} | form, authorization)
        assert told.status in (400, 401), name
        assert "active" not in told.answer and "scope" not in told.answer, name
    assert post(stack, "/oauth/introspect", {"token": token}, basic(client)).answer["active"] is True
    assert post(stack, "/oauth/introspect", {"token": token} | credentials(client)).answer["active"] is True
    what = "callers without the right secret who ask about a token"
    hand_in_claim(record_property, ClaimRow("A9", what, 0, len(refused), 0))


def test_a10_what_the_metadata_name_works_and_what_they_do_not_name_does_not(
    stack: Stack, newsletter: Newsletter, record_property: object
) -> None:
    metadata = stack.site.get(METADATA).answer
    client, run = newsletter.client, 0
    assert metadata["issuer"] == stack.http
    keys = stack.site.get(urllib.parse.urlsplit(metadata["jwks_uri"]).path).answer["keys"]
    assert {key["alg"] for key in keys} == {"ES256"}

    ways = {"client_secret_post": (credentials(client), ""), "client_secret_basic": ({}, basic(client))}
    assert set(metadata["token_endpoint_auth_methods_supported"]) == set(ways)
    token = stack.access_token(client)
    for form, authorization in ways.values():
        assert post(stack, metadata["token_endpoint"], GRANT | form, authorization).status == 200
        asked = post(stack, metadata["introspection_endpoint"], {"token": token} | form, authorization)
        assert (asked.status, asked.answer["active"]) == (200, True)
        assert post(stack, metadata["revocation_endpoint"], {"token": "x"} | form, authorization).status == 200
        run += 3
    for name in ("introspection_endpoint_auth_methods_supported", "revocation_endpoint_auth_methods_supported"):
        assert set(metadata[name]) == set(ways)
    assertion = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    for unnamed in (
        {"client_id": client.client_id},
        {"client_id": client.client_id, "client_assertion": token, "client_assertion_type": assertion},
        {"client_assertion": token, "client_assertion_type": assertion},
    ):
        assert post(stack, metadata["token_endpoint"], GRANT | unnamed).status in (400, 401)
        run += 1

    assert metadata["grant_types_supported"] == ["client_credentials"]
    assert metadata["response_types_supported"] == []
    for grant in ("password", "authorization_code", "refresh_token", "implicit"):
        told = post(stack, metadata["token_endpoint"], credentials(client) | {"grant_type": grant})
        assert (told.status, told.answer["error"]) == (400, "unsupported_grant_type")
        run += 1

    scopes = metadata["scopes_supported"]
    every = stack.make_client(newsletter.tenant_id, *scopes)
    for count in range(1, len(scopes) + 1):
        for chosen in itertools.combinations(scopes, count):
            told = post(stack, metadata["token_endpoint"], GRANT | credentials(every) | {"scope": " ".join(chosen)})
            assert (told.status, told.answer["scope"].split()) == (200, list(chosen))
            run += 1
    for scope in ("internal:admin", "internal:send", "internal:feed", "internal:gateway", "openid", "newsletter:*"):
        with pytest.raises(MessmailError) as refused:
            stack.make_client(newsletter.tenant_id, scope)
        assert refused.value.reason == Reason.ERROR_REASON_SCOPE_INVALID
        told = post(stack, metadata["token_endpoint"], GRANT | credentials(every) | {"scope": scope})
        assert (told.status, told.answer["error"]) == (400, "invalid_scope")
        run += 2
    hand_in_claim(record_property, ClaimRow("A10", "methods, grants and scopes as the metadata name them", 0, run, 0))
