"""The token endpoint over HTTP, as RFC 6749 has it: credentials in the body or in HTTP Basic, and its own errors."""

from __future__ import annotations

import base64
from urllib.parse import quote, quote_plus

import pytest

from tests.rpc.gateway_under_test import SITE_CLIENT, SITE_SECRET, GatewayUnderTest


def basic(client_id: str, secret: str) -> dict[str, str]:
    pair = f"{quote(client_id)}:{quote_plus(secret)}"
    return {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}


def credentials(secret: str = SITE_SECRET) -> bytes:
    return f"client_id={SITE_CLIENT}&client_secret={quote_plus(secret)}".encode()


GRANT = b"grant_type=client_credentials"


def test_a_token_is_issued_for_credentials_in_the_body(gateway: GatewayUnderTest) -> None:
    answer = gateway.post_form("/oauth/token", GRANT + b"&scope=a%20b&audience=ignored&resource=&" + credentials())
    assert (answer.status, answer.json["token_type"], answer.json["scope"]) == (200, "Bearer", "a b")
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["pragma"] == "no-cache"


def test_a_token_is_issued_for_credentials_in_http_basic(gateway: GatewayUnderTest) -> None:
    answer = gateway.post_form("/oauth/token", GRANT, **basic(SITE_CLIENT, SITE_SECRET))
    assert answer.status == 200


@pytest.mark.parametrize(
    "beside", [f"&client_id={SITE_CLIENT}".encode(), b"&client_secret=" + quote_plus(SITE_SECRET).encode()]
)
def test_two_ways_to_authenticate_are_refused(gateway: GatewayUnderTest, beside: bytes) -> None:
    answer = gateway.post_form("/oauth/token", GRANT + beside, **basic(SITE_CLIENT, SITE_SECRET))
    assert (answer.status, answer.json["error"]) == (400, "invalid_request")


@pytest.mark.parametrize("authorization", ["Basic", "Basic !!", "Basic " + "YQ==", "Bearer abc", "Basic /////w=="])
def test_broken_basic_credentials_are_refused_as_invalid_client(gateway: GatewayUnderTest, authorization: str) -> None:
    answer = gateway.post_form("/oauth/token", GRANT, Authorization=authorization)
    assert (answer.status, answer.json["error"]) == (401, "invalid_client")
    assert answer.headers["www-authenticate"].startswith("Basic ")
    assert set(answer.json) == {"error", "error_description"}


def test_a_wrong_secret_is_refused_as_rfc_6749_says(gateway: GatewayUnderTest) -> None:
    answer = gateway.post_form("/oauth/token", GRANT + b"&" + credentials("wrong"))
    assert (answer.status, answer.json["error"]) == (401, "invalid_client")
    assert '"' not in answer.json["error_description"]
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("query", "body", "content_type", "with_basic", "status"),
    [
        ("", GRANT + b"&" + credentials(), "application/json", False, 415),
        ("", b"{}", "application/json", False, 415),
        ("", GRANT + b"&" + credentials(), "multipart/form-data; boundary=x", False, 415),
        ("", GRANT + b"&" + credentials(), "application/x-www-form-urlencoded", True, 400),
        ("?client_id=a&client_secret=b", GRANT, "application/x-www-form-urlencoded", False, 400),
        ("?" + GRANT.decode(), credentials(), "application/x-www-form-urlencoded", False, 400),
        ("", GRANT + b"&scope=a&scope=b&" + credentials(), "application/x-www-form-urlencoded", False, 400),
        ("", GRANT + b"&access_token=a&" + credentials(), "application/x-www-form-urlencoded", False, 400),
        ("", b"grant_type=&" + credentials(), "application/x-www-form-urlencoded", False, 400),
        ("", b"", "application/x-www-form-urlencoded", False, 400),
        ("", b"%", "application/x-www-form-urlencoded", False, 400),
    ],
)
def test_a_malformed_token_request_is_an_invalid_request(
    gateway: GatewayUnderTest, query: str, body: bytes, content_type: str, with_basic: bool, status: int
) -> None:
    issued = gateway.seen.rpcs.count("IssueToken")
    headers = basic(SITE_CLIENT, SITE_SECRET) if with_basic else {}
    answer = gateway.call("POST", f"/oauth/token{query}", body, Content_Type=content_type, **headers)
    assert (answer.status, answer.json["error"]) == (status, "invalid_request")
    assert gateway.seen.rpcs.count("IssueToken") == issued
