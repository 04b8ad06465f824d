"""How an RPC looks over HTTP: requests become calls, answers become JSON, as the contract says."""

from __future__ import annotations

import gzip
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from gateway.routes import Route, read_routes
from gateway.wiring import SERVICES
from messmail.member_center.v1 import member_center_pb2 as mc
from messmail.send_engine.v1 import send_engine_pb2 as se
from tests.rpc.gateway_under_test import (
    ISSUER,
    JOB,
    LIST,
    TENANT,
    GatewayUnderTest,
    access_token,
)

ROUTES = [route for service in SERVICES.values() for route in read_routes(service)]
READ, WRITE = "newsletter:send.read", "newsletter:send.write"


def bearer(scope: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {access_token(scope)}"}


def violations(answer: Any) -> dict[str, str]:
    return {violation["field"]: violation["description"] for violation in answer.json["violations"]}


def test_a_json_body_becomes_the_request(gateway: GatewayUnderTest) -> None:
    body = {"list_id": LIST, "email": "anna@example.com", "preferences": {"lang": "zh-TW", "topics": ["a", 2]}}
    answer = gateway.post_json("/newsletter/subscribe", body)
    assert (answer.status, answer.json) == (200, {"status": "pending", "confirm_token": "sealed"})
    assert answer.headers["cache-control"] == "no-store"
    request = gateway.seen.requests[-1]
    assert isinstance(request, mc.SubscribeRequest)
    assert (request.list_id, request.email) == (LIST, "anna@example.com")
    assert MessageToDict(request.preferences) == {"lang": "zh-TW", "topics": ["a", 2]}


def test_a_created_resource_is_answered_with_201_and_its_place(gateway: GatewayUnderTest) -> None:
    body = {"list_id": LIST, "subject": "Hi", "body_text": "x", "scheduled_at": "2026-02-11T10:00:00+08:00"}
    answer = gateway.post_json("/api/send-jobs", body, **bearer(WRITE))
    assert (answer.status, answer.headers["location"]) == (201, f"/api/send-jobs/{JOB}")
    job = answer.json
    assert (job["id"], job["status"], job["counters"]["total"], job["counters"]["sent"]) == (JOB, "scheduled", 3, 0)
    assert job["scheduled_at"] == "2026-02-11T02:00:00Z"
    assert job["started_at"] is None
    assert job["name"] == ""


def test_a_header_that_the_contract_names_becomes_a_field_of_the_request(gateway: GatewayUnderTest) -> None:
    body = {"list_id": LIST, "subject": "Hi", "body_text": "x"}
    for headers in ({}, {"Idempotency_Key": '"a-quoted-key"'}):
        assert gateway.post_json("/api/send-jobs", body, **bearer(WRITE), **headers).status == 201
        request = gateway.seen.requests[-1]
        assert isinstance(request, se.CreateSendJobRequest)
        assert request.idempotency_key == headers.get("Idempotency_Key", "")


@pytest.mark.parametrize("key", ["", "\xfc", "a\tb"], ids=["empty", "latin", "tab"])
def test_a_header_field_that_cannot_be_one_is_refused(gateway: GatewayUnderTest, key: str) -> None:
    body = {"list_id": LIST, "subject": "Hi", "body_text": "x"}
    answer = gateway.post_json("/api/send-jobs", body, **bearer(WRITE), Idempotency_Key=key)
    assert (answer.status, violations(answer)) == (400, {"Idempotency-Key": "must be printable ASCII, and not empty"})


def test_a_field_of_a_header_comes_from_nowhere_else(gateway: GatewayUnderTest) -> None:
    body = {"list_id": LIST, "subject": "Hi", "body_text": "x", "idempotency_key": "k"}
    for headers in ({}, {"Idempotency_Key": "k"}):
        answer = gateway.post_json("/api/send-jobs", body, **bearer(WRITE), **headers)
        assert (answer.status, violations(answer)) == (
            400,
            {"idempotency_key": "send it as the header Idempotency-Key"},
        )


def test_a_field_of_the_path_becomes_a_field_of_the_request(gateway: GatewayUnderTest) -> None:
    answer = gateway.call("GET", f"/api/send-jobs/{JOB}", **bearer(READ))
    assert (answer.status, answer.json["id"], answer.json["status"]) == (200, JOB, "sending")


def test_fields_of_the_query_are_read_by_their_type(gateway: GatewayUnderTest) -> None:
    answer = gateway.call("GET", f"/api/send-jobs?page_size=7&page_token=a%20b+c&tenant_id={TENANT}", **bearer(READ))
    assert (answer.status, [job["id"] for job in answer.json["send_jobs"]]) == (200, [JOB])
    request = gateway.seen.requests[-1]
    assert isinstance(request, se.ListSendJobsRequest)
    assert (request.page_size, request.page_token) == (7, "a b c")


def test_an_answer_that_is_one_object_is_that_object(gateway: GatewayUnderTest) -> None:
    known = gateway.call("GET", f"/newsletter/preferences?list_id={LIST}&email=known%40example.com")
    assert known.json == {"lang": "zh-TW", "n": 1, "deep": {"a": [True, None, 1.5]}}
    assert b'"n":1,' in known.body or b'"n":1}' in known.body
    unknown = gateway.call("GET", f"/newsletter/preferences?list_id={LIST}&email=nobody%40example.com")
    assert (unknown.status, unknown.body) == (200, b"{}")


def test_null_in_a_merge_patch_arrives_as_null(gateway: GatewayUnderTest) -> None:
    body = {"list_id": LIST, "email": "known@example.com", "preferences": {"gone": None}}
    assert gateway.post_json("/newsletter/preferences", body).json == {"gone": None}


@pytest.mark.parametrize(
    ("body", "field", "says"),
    [
        ({"listId": LIST}, "listId", "is not known here; known are list_id, email"),
        ({"list_id": 7}, "list_id", "must be a string"),
        ({"list_id": ["a"]}, "list_id", "must be a string"),
        ({"preferences": "x"}, "preferences", "must be a JSON object"),
        ({"preferences": [1]}, "preferences", "must be a JSON object"),
        ({"client": {"ip": 4}}, "client.ip", "must be a string"),
        ({"client": {"nose": ""}}, "client.nose", "is not known here; known are ip, user_agent, source_url"),
        ({"client": []}, "client", "must be a JSON object"),
    ],
)
def test_a_field_that_cannot_be_read_is_named_with_what_would_be_right(
    gateway: GatewayUnderTest, body: dict[str, Any], field: str, says: str
) -> None:
    calls = len(gateway.seen.rpcs)
    answer = gateway.post_json("/newsletter/subscribe", body)
    assert (answer.status, answer.json["reason"]) == (400, "INVALID_FIELD")
    assert violations(answer)[field].startswith(says)
    assert len(gateway.seen.rpcs) == calls


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("scheduled_at", "tomorrow", "must be a time with its offset"),
        ("scheduled_at", 5, "must be a time with its offset"),
        ("scheduled_at", "2026-02-11T02:00:00", "must be a time with its offset"),
        ("template", "yes", "must be true or false"),
        ("on_unknown", "RESEND", "must be one of resend, hold"),
        ("on_unknown", 1, "must be one of resend, hold"),
    ],
)
def test_types_are_explained_in_the_words_of_json(
    gateway: GatewayUnderTest, field: str, value: object, says: str
) -> None:
    answer = gateway.post_json("/api/send-jobs", {field: value}, **bearer(WRITE))
    assert answer.status == 400
    assert violations(answer)[field].startswith(says)


def test_every_wrong_field_is_named_at_once(gateway: GatewayUnderTest) -> None:
    answer = gateway.call("GET", "/api/send-jobs?page_size=many&color=red&access_token=abc", **bearer(READ))
    assert violations(answer).keys() == {"page_size", "color", "access_token"}


def test_a_small_request_cannot_ask_for_a_large_answer(gateway: GatewayUnderTest) -> None:
    answer = gateway.post_json("/newsletter/subscribe", {f"x{n}": 1 for n in range(10_000)})
    assert (answer.status, len(answer.json["violations"])) == (400, 20)


def test_rules_of_the_contract_are_answered_by_the_service(gateway: GatewayUnderTest) -> None:
    answer = gateway.post_json("/newsletter/subscribe", {"list_id": "7", "email": ""})
    assert (answer.status, answer.json["reason"]) == (400, "INVALID_FIELD")
    assert violations(answer).keys() == {"list_id", "email"}


@pytest.mark.parametrize(
    "body",
    [
        b'{"email": "a", "email": "b"}',
        b'{"preferences": {"a": 1, "a": 2}}',
        b'{"preferences": {"a": NaN}}',
        b'{"preferences": {"a": Infinity}}',
        b'{"preferences": {"a": 1e999}}',
        b'{"email": "\\ud800"}',
        b'{"email": "\xff"}',
        b'{"email": "a",}',
        b"\xef\xbb\xbf{}",
        '{"email": "a"}'.encode("utf-16"),
        b"[]",
        b"7",
        b"null",
        b"{",
        b'{"preferences": ' + b'{"a":' * 32 + b"1" + b"}" * 32 + b"}",
        b"[" * 200_000,
    ],
)
def test_a_body_that_two_readers_could_read_differently_is_refused(gateway: GatewayUnderTest, body: bytes) -> None:
    calls = len(gateway.seen.rpcs)
    answer = gateway.post_json("/newsletter/subscribe", body)
    assert (answer.status, answer.json["reason"]) == (400, "MALFORMED_BODY")
    assert len(gateway.seen.rpcs) == calls


def test_a_body_of_32_levels_is_read(gateway: GatewayUnderTest) -> None:
    body = b'{"list_id": "7", "preferences": ' + b'{"a":' * 31 + b"1" + b"}" * 31 + b"}"
    assert gateway.post_json("/newsletter/subscribe", body).json["reason"] == "INVALID_FIELD"


@pytest.mark.parametrize(
    "content_type",
    ["", "text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1", "application/json5"],
)
def test_another_content_type_is_refused(gateway: GatewayUnderTest, content_type: str) -> None:
    answer = gateway.call("POST", "/newsletter/subscribe", b"{}", Content_Type=content_type)
    assert (answer.status, answer.json["reason"]) == (415, "UNSUPPORTED_MEDIA_TYPE")
    assert answer.json["metadata"] == {"accepted": "application/json"}


def test_a_compressed_body_is_refused(gateway: GatewayUnderTest) -> None:
    headers = {"Content_Type": "application/json", "Content_Encoding": "gzip"}
    answer = gateway.call("POST", "/newsletter/subscribe", gzip.compress(b"{}"), **headers)
    assert (answer.status, answer.json["reason"]) == (415, "UNSUPPORTED_MEDIA_TYPE")
    assert "Content-Encoding" in answer.json["detail"]


def test_the_charset_utf8_may_be_named(gateway: GatewayUnderTest) -> None:
    body = b'{"list_id": "%s", "email": "a@example.com"}' % LIST.encode()
    answer = gateway.call("POST", "/newsletter/subscribe", body, Content_Type='Application/JSON; charset="UTF-8"')
    assert answer.status == 200


def test_a_field_that_stands_in_path_and_body_is_refused(gateway: GatewayUnderTest) -> None:
    answer = gateway.post_json(f"/api/send-jobs/{JOB}/cancel", {"id": JOB}, **bearer(WRITE))
    assert violations(answer) == {"id": "is given in two places; give it in one"}


def test_a_query_beside_a_body_is_refused(gateway: GatewayUnderTest) -> None:
    body = {"list_id": LIST, "email": "a@example.com"}
    answer = gateway.post_json("/newsletter/subscribe?list_id=" + LIST, body)
    assert violations(answer)["list_id"] == "is not accepted in the query"


@pytest.mark.parametrize("query", ["token=a&token=b", "token=%zz", "token=%ff", "token=a&%74oken=b"])
def test_a_query_that_can_be_read_in_two_ways_is_refused(gateway: GatewayUnderTest, query: str) -> None:
    assert gateway.call("GET", f"/newsletter/confirm?{query}").status == 400


@pytest.mark.parametrize("beside", ["colour=red", "x=b&x=1", "email=b%40example.com", ";x=b"])
def test_a_query_that_is_no_mailed_links_has_known_fields_only(gateway: GatewayUnderTest, beside: str) -> None:
    good = f"/newsletter/preferences?list_id={LIST}&email=a%40example.com"
    assert gateway.call("GET", good).status == 200
    assert gateway.call("GET", f"{good}&{beside}").status == 400


# ---- links


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"List-Unsubscribe=One-Click", "application/x-www-form-urlencoded"),
        (
            b'--x\r\nContent-Disposition: form-data; name="List-Unsubscribe"\r\n\r\nOne-Click\r\n--x--\r\n',
            "multipart/form-data; boundary=x",
        ),
        (b"", ""),
        (b"", "application/x-www-form-urlencoded"),
    ],
)
def test_one_click_unsubscribe_takes_its_token_from_the_query(
    gateway: GatewayUnderTest, body: bytes, content_type: str
) -> None:
    answer = gateway.call("POST", "/newsletter/unsubscribe?token=sealed", body, Content_Type=content_type)
    assert (answer.status, answer.json["status"]) == (200, "unsubscribed")
    assert gateway.seen.requests[-1] == mc.UnsubscribeRequest(token="sealed")


@pytest.mark.parametrize(
    ("path", "request_message"),
    [
        ("confirm", mc.FollowConfirmLinkRequest(token="sealed")),
        ("unsubscribe", mc.FollowUnsubscribeLinkRequest(token="sealed")),
        ("preference-center", mc.GetPreferenceCenterRequest(token="sealed")),
    ],
)
def test_a_mailed_link_works_with_what_others_hung_onto_it(
    gateway: GatewayUnderTest, path: str, request_message: Message
) -> None:
    answer = gateway.call("GET", f"/newsletter/{path}?utm_source=mail&token=sealed&fbclid=%22", Accept="text/html")
    assert (answer.status, gateway.seen.requests[-1]) == (200, request_message)


def test_one_click_unsubscribe_works_with_what_others_hung_onto_the_link(gateway: GatewayUnderTest) -> None:
    body = b"List-Unsubscribe=One-Click"
    answer = gateway.post_form("/newsletter/unsubscribe?token=sealed&utm_source=mail", body)
    assert (answer.status, gateway.seen.requests[-1]) == (200, mc.UnsubscribeRequest(token="sealed"))


def test_a_token_in_query_and_body_is_refused(gateway: GatewayUnderTest) -> None:
    answer = gateway.post_json("/newsletter/unsubscribe?token=a", {"token": "b"})
    assert violations(answer) == {"token": "is given in two places; give it in one"}


def test_a_missing_token_is_named_by_the_service(gateway: GatewayUnderTest) -> None:
    assert violations(gateway.call("POST", "/newsletter/unsubscribe")).keys() == {"token"}


@pytest.mark.parametrize(
    "body",
    [
        b'--x\r\nContent-Disposition: form-data; name="token"; filename="t"\r\n\r\na\r\n--x--\r\n',
        b"--x\r\n\r\na\r\n--x--\r\n",
        b"nothing of the kind",
        b'--x\r\nContent-Disposition: form-data; name="token"\r\n\r\n\xff\r\n--x--\r\n',
        b'--x\r\nContent-Disposition: form-data; name="token"\r\n\r\na\r\n' * 2 + b"--x--\r\n",
    ],
)
def test_a_multipart_body_that_is_not_plain_fields_is_refused(gateway: GatewayUnderTest, body: bytes) -> None:
    answer = gateway.call("POST", "/newsletter/unsubscribe", body, Content_Type="multipart/form-data; boundary=x")
    assert answer.status == 400


# ---- errors


def test_an_error_is_a_problem_of_rfc_9457(gateway: GatewayUnderTest) -> None:
    answer = gateway.call("GET", f"/api/send-jobs/{LIST}", X_Request_Id="my-own-id-1", **bearer(READ))
    assert answer.status == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-request-id"] == "my-own-id-1"
    assert answer.json == {
        "type": f"{ISSUER}/docs#SEND_JOB_NOT_FOUND",
        "title": "There is no such send job.",
        "status": 404,
        "detail": "there is no such send job",
        "reason": "SEND_JOB_NOT_FOUND",
        "request_id": "my-own-id-1",
    }


def test_a_limit_says_when_to_try_again(gateway: GatewayUnderTest) -> None:
    answer = gateway.call("GET", "/api/send-jobs?page_token=too+often", **bearer(READ))
    assert (answer.status, answer.headers["retry-after"]) == (429, "2")
    assert answer.json["metadata"] == {"limit": "calls"}


def test_a_crash_behind_the_gateway_tells_nothing(gateway: GatewayUnderTest) -> None:
    answer = gateway.post_json(f"/api/send-jobs/{JOB}/cancel", {}, **bearer(WRITE))
    assert (answer.status, answer.json["reason"]) == (500, "INTERNAL")
    assert b"4711" not in answer.body


@pytest.mark.parametrize(
    ("authorization", "status", "challenge"),
    [
        (None, 401, 'Bearer realm="messmail"'),
        ("Bearer nonsense", 401, 'Bearer realm="messmail", error="invalid_token"'),
        ("Basic abc", 401, 'Bearer realm="messmail", error="invalid_token"'),
        ("Bearer " + "x" * 6000, 401, 'Bearer realm="messmail", error="invalid_token"'),
        ("Bearer caf\xe9", 401, 'Bearer realm="messmail", error="invalid_token"'),
    ],
)
def test_a_token_that_does_not_do_is_challenged_as_rfc_6750_says(
    gateway: GatewayUnderTest, authorization: str | None, status: int, challenge: str
) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    answer = gateway.call("GET", f"/api/send-jobs/{JOB}", **headers)
    assert answer.status == status
    assert answer.headers["www-authenticate"].startswith(challenge)
    assert ("error=" in answer.headers["www-authenticate"]) == (authorization is not None)


def test_a_missing_scope_is_named(gateway: GatewayUnderTest) -> None:
    answer = gateway.call("GET", f"/api/send-jobs/{JOB}", **bearer(WRITE))
    assert (answer.status, answer.json["metadata"]) == (403, {"scope": READ})
    assert answer.headers["www-authenticate"] == f'Bearer realm="messmail", error="insufficient_scope", scope="{READ}"'


def test_the_answers_for_two_unknown_ids_differ_in_nothing_but_the_request_id(gateway: GatewayUnderTest) -> None:
    ids = [LIST, TENANT]
    first, second = (
        gateway.call("GET", f"/api/send-jobs/{id_}", X_Request_Id="the-same-id", **bearer(READ)) for id_ in ids
    )
    assert (first.status, first.body) == (second.status, second.body)
    assert {**first.headers, "date": ""} == {**second.headers, "date": ""}


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.http_method} {route.template}")
def test_an_access_token_is_taken_from_its_header_and_nowhere_else(gateway: GatewayUnderTest, route: Route) -> None:
    calls = len(gateway.seen.rpcs)
    token = access_token(READ)
    path = route.template.replace("{id}", JOB)
    in_query = gateway.call(route.http_method, f"{path}?access_token={token}")
    in_form = gateway.post_form(path, f"access_token={token}".encode())
    assert in_query.status == (400 if route.access.public else 401)
    assert in_form.status in (400, 401, 405, 415)
    assert len(gateway.seen.rpcs) == calls


# ---- methods and paths


def test_an_unknown_path_is_404_and_a_wrong_method_405_with_those_it_has(gateway: GatewayUnderTest) -> None:
    unknown = gateway.call("GET", "/newsletter/nothing")
    assert (unknown.status, unknown.json["reason"]) == (404, "ROUTE_NOT_FOUND")
    wrong = gateway.call("DELETE", f"/api/send-jobs/{JOB}")
    assert (wrong.status, wrong.headers["allow"]) == (405, "GET, HEAD, OPTIONS")
    assert wrong.json["reason"] == "METHOD_NOT_ALLOWED"
    assert "metadata" not in wrong.json


def test_options_names_the_methods_of_a_path(gateway: GatewayUnderTest) -> None:
    answer = gateway.call("OPTIONS", "/newsletter/unsubscribe")
    assert (answer.status, answer.headers["allow"], answer.body) == (204, "GET, HEAD, OPTIONS, POST", b"")


def test_head_is_a_get_without_a_body_where_get_has_no_effects(gateway: GatewayUnderTest) -> None:
    get, head = (gateway.call(method, f"/api/send-jobs/{JOB}", **bearer(READ)) for method in ("GET", "HEAD"))
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == str(len(get.body))


def test_head_never_calls_what_may_act(gateway: GatewayUnderTest) -> None:
    calls = len(gateway.seen.rpcs)
    answer = gateway.call("HEAD", "/newsletter/confirm?token=sealed")
    assert (answer.status, answer.headers["allow"]) == (405, "GET, OPTIONS, POST")
    assert len(gateway.seen.rpcs) == calls


# ---- who is calling


def test_the_caller_behind_the_gateway_is_told_to_the_service(gateway: GatewayUnderTest) -> None:
    answer = gateway.post_json(
        "/newsletter/subscribe",
        {"list_id": LIST, "email": "a@example.com"},
        User_Agent="Tést/1.0",
        X_Request_Id="from-the-site",
        X_Forwarded_For="203.0.113.9",
        x_messmail_client_ip="203.0.113.9",
    )
    caller = gateway.seen.callers[-1]
    assert (caller.ip, caller.request_id) == ("127.0.0.1", "from-the-site")
    assert caller.user_agent.startswith("T") and caller.user_agent.endswith("st/1.0")
    assert answer.headers["x-request-id"] == "from-the-site"


@pytest.mark.parametrize("offered", ["short", "x" * 65, "no spaces here", "semi;colon-id"])
def test_a_request_id_of_another_shape_is_replaced(gateway: GatewayUnderTest, offered: str) -> None:
    answer = gateway.call("GET", "/healthz", X_Request_Id=offered)
    assert answer.headers["x-request-id"] != offered
    assert len(answer.headers["x-request-id"]) == 32
