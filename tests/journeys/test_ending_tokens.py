"""A tenant site ends a token, and an operator a client: over REST, at both services, within seconds."""

from __future__ import annotations

import base64
import json
import urllib.request
from typing import Any

import pytest

from tests.stack import Client, Stack, wait_until

SOON_SECONDS = 5.0


def status_at(stack: Stack, path: str, token: str) -> int:
    return stack.site.get(path, token).status


def post(stack: Stack, path: str, client: Client, form: dict[str, str]) -> Any:
    credentials = {"client_id": client.client_id, "client_secret": client.client_secret}
    exchange = stack.site.post_form(path, form | credentials)
    assert exchange.status == 200, exchange.answer
    return exchange.answer


@pytest.mark.claim("A9", "a token that its client ends is refused by both services within 5 s", asked=2, run=2)
def test_a_revoked_token_is_refused_everywhere_and_is_not_active_any_more(stack: Stack) -> None:
    newsletter = stack.make_newsletter()
    client = newsletter.client
    token, other = stack.access_token(client), stack.access_token(client)
    send_engine = "/api/send-jobs"
    member_center = f"/newsletter/preferences?list_id={newsletter.list_id}&email=nobody@example.com"
    assert [status_at(stack, path, token) for path in (send_engine, member_center)] == [200, 200]
    told = post(stack, "/oauth/introspect", client, {"token": token})
    assert told["active"] is True
    assert (told["client_id"], told["tenant_id"]) == (client.client_id, newsletter.tenant_id)

    assert post(stack, "/oauth/revoke", client, {"token": token, "token_type_hint": "access_token"}) == {}
    for path in (send_engine, member_center):
        wait_until(lambda path=path: status_at(stack, path, token) == 401, f"the refusal of {path}", SOON_SECONDS)  # type: ignore[misc]
        assert status_at(stack, path, other) == 200
    assert post(stack, "/oauth/introspect", client, {"token": token}) == {"active": False}
    # Nobody learns whether a token was one.
    assert post(stack, "/oauth/revoke", client, {"token": token}) == {}
    assert post(stack, "/oauth/revoke", client, {"token": "nonsense"}) == {}


def test_a_client_may_send_its_secret_in_http_basic(stack: Stack) -> None:
    client = stack.make_newsletter().client
    basic = base64.b64encode(f"{client.client_id}:{client.client_secret}".encode()).decode()
    request = urllib.request.Request(
        f"{stack.http}/oauth/introspect",
        f"token={stack.access_token(client)}".encode(),
        {"Authorization": f"Basic {basic}", "Content-Type": "application/x-www-form-urlencoded"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert json.load(answer)["active"] is True
        assert answer.headers["Cache-Control"] == "no-store"


def test_without_the_secret_nothing_is_told_and_nothing_ended(stack: Stack) -> None:
    client = stack.make_newsletter().client
    token = stack.access_token(client)
    for path in ("/oauth/introspect", "/oauth/revoke"):
        wrong = stack.site.post_form(path, {"token": token, "client_id": client.client_id, "client_secret": "wrong"})
        assert (wrong.status, wrong.answer["error"]) == (401, "invalid_client")
        missing = stack.site.post_form(path, {"client_id": client.client_id, "client_secret": client.client_secret})
        assert (missing.status, missing.answer["error"]) == (400, "invalid_request")
    assert status_at(stack, "/api/send-jobs", token) == 200


@pytest.mark.claim("A2", "tokens of a disabled client are refused within 5 s")
def test_a_disabled_clients_tokens_are_refused_within_seconds(stack: Stack) -> None:
    client = stack.make_newsletter().client
    token = stack.access_token(client)
    assert status_at(stack, "/api/send-jobs", token) == 200
    stack.messmail("clients", "disable", client.client_id)
    wait_until(lambda: status_at(stack, "/api/send-jobs", token) == 401, "the refusal", SOON_SECONDS)
