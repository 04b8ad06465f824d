"""What a browser is shown: pages that never act by themselves, and the documents for developers."""

from __future__ import annotations

import re
from html import unescape

import pytest

from messmail.member_center.v1 import member_center_pb2 as pb
from tests.rpc.gateway_under_test import (
    EXPIRED,
    JOB,
    LIST,
    SUPERSEDED,
    TENANT,
    GatewayUnderTest,
    HttpAnswer,
)

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"
POLICY = "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"


def form(answer: HttpAnswer) -> tuple[str, str, dict[str, str]]:
    """Returns method, action and hidden fields of the one form of a page."""
    page = answer.body.decode()
    assert page.count("<form") == page.count("<button") == 1
    opening = re.search(r'<form method="(\w+)" action="([^"]*)"', page)
    assert opening is not None
    fields = re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)"', page)
    return opening[1], unescape(opening[2]), {unescape(name): unescape(value) for name, value in fields}


def assert_is_page(answer: HttpAnswer, status: int, language: str) -> None:
    assert (answer.status, answer.headers["content-type"]) == (status, "text/html; charset=utf-8")
    assert f'<html lang="{language}">'.encode() in answer.body
    assert b"<script" not in answer.body and b" style=" not in answer.body and b"http" not in answer.body
    assert answer.headers["content-security-policy"] == POLICY
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    assert "accept" in answer.headers["vary"]


def test_a_browser_that_follows_a_confirmation_link_gets_one_button(gateway: GatewayUnderTest) -> None:
    answer = gateway.call("GET", '/newsletter/confirm?token="><b>sealed', Accept=BROWSER)
    assert_is_page(answer, 200, "zh-TW")
    assert form(answer) == ("post", "/newsletter/confirm", {"token": '"><b>sealed'})
    assert b"&lt;b&gt;Acme &amp; Co&lt;" in answer.body
    assert gateway.seen.rpcs[-1] == "FollowConfirmLink"


def test_the_button_confirms_and_shows_the_result(gateway: GatewayUnderTest) -> None:
    answer = gateway.post_form("/newsletter/confirm", b"token=sealed", Accept=BROWSER)
    assert_is_page(answer, 200, "en")
    assert b"You are subscribed" in answer.body and b"<form" not in answer.body
    assert gateway.seen.rpcs[-1] == "ConfirmSubscription"


def test_an_unsubscribe_link_shows_one_button_and_its_post_the_result(gateway: GatewayUnderTest) -> None:
    page = gateway.call("GET", "/newsletter/unsubscribe?token=sealed", Accept=BROWSER)
    assert_is_page(page, 200, "en")
    assert form(page) == ("post", "/newsletter/unsubscribe", {"token": "sealed"})
    result = gateway.post_form("/newsletter/unsubscribe", b"token=sealed", Accept=BROWSER)
    assert_is_page(result, 200, "en")
    assert b"You are unsubscribed" in result.body and b"<form" not in result.body


def test_the_preference_centre_shows_each_list_and_one_button_for_what_can_be_left(gateway: GatewayUnderTest) -> None:
    page = gateway.call("GET", '/newsletter/preference-center?token="><b>sealed', Accept=BROWSER)
    assert_is_page(page, 200, "zh-TW")
    html = unescape(page.body.decode())
    assert html.count('name="token" value=""><b>sealed"') == 2 and b"<b>" not in page.body
    assert re.findall(r'<button[^>]* name="(\w+)" value="([^"]*)"', html) == [
        ("leave_list_id", LIST),
        ("leave_list_id", TENANT),
        ("leave_all", "true"),
    ]
    assert '<option value="zh-TW" lang="zh-TW" selected>' in html
    assert "等待您確認" in html and "您已退訂這份電子報" in html
    assert gateway.seen.rpcs[-1] == "GetPreferenceCenter"


@pytest.mark.parametrize(
    ("body", "request_sent"),
    [
        (f"token=sealed&leave_list_id={LIST}", pb.UpdatePreferenceCenterRequest(token="sealed", leave_list_id=LIST)),
        ("token=sealed&leave_all=true", pb.UpdatePreferenceCenterRequest(token="sealed", leave_all=True)),
        ("token=sealed&language=en", pb.UpdatePreferenceCenterRequest(token="sealed", language="en")),
    ],
)
def test_a_button_of_the_preference_centre_says_what_it_changed(
    gateway: GatewayUnderTest, body: str, request_sent: pb.UpdatePreferenceCenterRequest
) -> None:
    page = gateway.post_form("/newsletter/preference-center", body.encode(), Accept=BROWSER)
    assert_is_page(page, 200, "en")
    assert b"Your changes are saved" in page.body and b"<button" not in page.body
    assert gateway.seen.requests[-1] == request_sent


def test_the_preference_centre_is_json_for_programs(gateway: GatewayUnderTest) -> None:
    shown = gateway.call("GET", "/newsletter/preference-center?token=sealed").json
    assert (shown["language"], [each["status"] for each in shown["lists"]]) == (
        "zh-TW",
        ["confirmed", "pending", "unsubscribed"],
    )
    changed = gateway.post_json("/newsletter/preference-center", {"token": "sealed", "leave_all": True})
    assert (changed.status, changed.headers["cache-control"]) == (200, "no-store")
    assert changed.json["lists"] == [{"list_id": JOB, "list_name": "Events", "status": "unsubscribed"}]


@pytest.mark.parametrize("accept", [None, "*/*", "application/json", "application/json, text/html", "text/html;q=0"])
def test_whoever_is_no_browser_gets_json(gateway: GatewayUnderTest, accept: str | None) -> None:
    headers = {} if accept is None else {"Accept": accept}
    answer = gateway.call("GET", "/newsletter/confirm?token=sealed", **headers)
    assert (answer.headers["content-type"], answer.json["status"]) == ("application/json", "pending")


@pytest.mark.parametrize(
    ("token", "language", "status", "words"),
    [
        (EXPIRED, "zh-Hant-TW,zh;q=0.9,en;q=0.8", 410, "連結已過期"),
        (EXPIRED, "en-GB,en;q=0.9", 410, "This link has expired"),
        (EXPIRED, "fr", 410, "This link has expired"),
        (SUPERSEDED, "fr,zh-TW;q=0.5,en;q=0.4", 409, "連結已失效"),
        ("", "en", 400, "This did not work"),
        ("x" * 600, "en", 400, "This did not work"),
    ],
)
def test_a_link_that_no_longer_works_says_what_to_do_next(
    gateway: GatewayUnderTest, token: str, language: str, status: int, words: str
) -> None:
    answer = gateway.call("GET", f"/newsletter/confirm?token={token}", Accept=BROWSER, Accept_Language=language)
    assert_is_page(answer, status, "zh-TW" if "連" in words else "en")
    assert words in answer.body.decode()
    assert answer.headers["x-request-id"].encode() in answer.body
    assert not token or token.encode() not in answer.body


def test_the_stylesheets_of_the_pages_are_served(gateway: GatewayUnderTest) -> None:
    for page in (gateway.call("GET", "/newsletter/confirm?token=x", Accept=BROWSER), gateway.call("GET", "/docs")):
        link = re.search(r'<link rel="stylesheet" href="([^"]*)"', page.body.decode())
        assert link is not None
        stylesheet = gateway.call("GET", unescape(link[1]))
        assert (stylesheet.status, stylesheet.headers["content-type"]) == (200, "text/css; charset=utf-8")


def test_the_reference_explains_every_reason_that_a_problem_points_to(gateway: GatewayUnderTest) -> None:
    reference = gateway.call("GET", "/docs").body.decode()
    problem = gateway.call("GET", "/nothing").json
    assert problem["type"].endswith("/docs#ROUTE_NOT_FOUND")
    assert '<dt id="ROUTE_NOT_FOUND">' in reference
    assert 'id="Subscribe"' in reference and "<script" not in reference


def test_the_reference_shows_code_as_code(gateway: GatewayUnderTest) -> None:
    reference = gateway.call("GET", "/docs").body.decode()
    assert "<code>INVALID_FIELD</code>" in reference
    assert "<code>" not in unescape(re.sub(r"<[^>]*>", "", reference))


def test_openapi_is_served_to_programs(gateway: GatewayUnderTest) -> None:
    document = gateway.call("GET", "/openapi.json").json
    assert document["openapi"].startswith("3.1")
    assert "/newsletter/subscribe" in document["paths"] and "/api/send-jobs/{id}/cancel" in document["paths"]
