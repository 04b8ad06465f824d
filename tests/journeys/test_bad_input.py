"""Bad input over REST, on the real stack: a clear refusal with a stable reason, and nothing half-written.

Each case also asserts what holds for every refusal: a request id, no trace, and no echo of what was sent.
"""

import base64
import email.policy
import http.client
import json
import uuid
from dataclasses import dataclass
from datetime import timedelta
from email.parser import BytesParser
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from tests.forged_tokens import forged_tokens
from tests.recount import Ledger
from tests.stack import Client, Newsletter, Stack, unique_address

pytestmark = pytest.mark.timeout(240)

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
LIST = "LIST_ID"  # stands for a list that exists
NOBODY = str(uuid.UUID(int=7, version=4))


@dataclass(frozen=True)
class Answer:
    """An answer as it came."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def parsed(self) -> Any:
        return json.loads(self.body)


def send(
    stack: Stack,
    method: str,
    path: str,
    body: bytes | None = None,
    content_type: str = JSON,
    token: str = "",
    **headers: str,
) -> Answer:
    """Sends one request exactly as given."""
    connection = http.client.HTTPConnection(urlsplit(stack.http).netloc, timeout=30)
    sent = {"Content-Type": content_type} if body is not None and content_type else {}
    sent |= {"Authorization": f"Bearer {token}"} if token else {}
    connection.request(method, path, body, sent | {name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    answer = Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    connection.close()
    return answer


def check_refusal(answer: Answer, status: int, reason: str, field: str | None = None) -> None:
    """Asserts a refusal of the contract's form."""
    assert answer.status == status, answer.body
    assert answer.headers["content-type"].startswith("application/problem+json")
    problem = answer.parsed
    assert problem["reason"] == reason, problem
    assert problem["status"] == status
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert "Traceback" not in answer.body.decode() and 'File "' not in answer.body.decode()
    if field is not None:
        assert field in {violation["field"] for violation in problem["violations"]}, problem


@pytest.fixture(scope="module")
def newsletter(stack: Stack) -> Newsletter:
    return stack.make_newsletter()


@pytest.fixture(scope="module")
def token(stack: Stack, newsletter: Newsletter) -> str:
    return stack.access_token(newsletter.client)


def subscribe_body(**changes: Any) -> bytes:
    body = {"list_id": LIST, "email": "ann@example.com"} | changes
    return json.dumps({key: value for key, value in body.items() if value is not ...}).encode()


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


BODIES: dict[str, tuple[bytes, int, str, str | None]] = {
    "no list": (subscribe_body(list_id=...), 400, "INVALID_FIELD", "list_id"),
    "no address": (subscribe_body(email=...), 400, "INVALID_FIELD", "email"),
    "empty object": (b"{}", 400, "INVALID_FIELD", "email"),
    "a list id that is no UUID": (subscribe_body(list_id="7"), 400, "INVALID_FIELD", "list_id"),
    "a list id that is a number": (subscribe_body(list_id=7), 400, "INVALID_FIELD", "list_id"),
    "an address without a domain": (subscribe_body(email="ann"), 400, "INVALID_FIELD", "email"),
    "an address with two ats": (subscribe_body(email="a@b@example.com"), 400, "INVALID_FIELD", "email"),
    "an address with a line break": (subscribe_body(email="a@example.com\r\nBcc: b"), 400, "INVALID_FIELD", "email"),
    "an address with NUL": (subscribe_body(email="a\0@example.com"), 400, "INVALID_FIELD", "email"),
    "an address with a name": (subscribe_body(email="Ann <ann@example.com>"), 400, "INVALID_FIELD", "email"),
    "an address of 400 characters": (subscribe_body(email="a" * 390 + "@example.com"), 400, "INVALID_FIELD", "email"),
    "a local part of 65": (subscribe_body(email="a" * 65 + "@example.com"), 400, "INVALID_FIELD", "email"),
    "an IP address for a domain": (subscribe_body(email="ann@[127.0.0.1]"), 400, "INVALID_FIELD", "email"),
    "an address that is null": (subscribe_body(email=None), 400, "INVALID_FIELD", "email"),
    "an unknown field": (subscribe_body(colour="red"), 400, "INVALID_FIELD", "colour"),
    "a duplicate field": (
        b'{"list_id":"LIST_ID","email":"a@example.com","email":"b@example.com"}', 400, "MALFORMED_BODY", None,
    ),
    "preferences that are text": (subscribe_body(preferences="x"), 400, "INVALID_FIELD", "preferences"),
    "preferences of 5 KiB": (subscribe_body(preferences={"a": "x" * 5000}), 400, "INVALID_FIELD", "preferences"),
    "preferences of 5 levels": (subscribe_body(preferences=nested(5)), 400, "INVALID_FIELD", "preferences"),
    "preferences with NUL": (subscribe_body(preferences={"a": "\0"}), 400, "INVALID_FIELD", "preferences"),
    "a body of 100 levels": (subscribe_body(preferences=nested(100)), 400, "MALFORMED_BODY", None),
    "broken JSON": (b'{"list_id": ', 400, "MALFORMED_BODY", None),
    "a list instead of an object": (b"[]", 400, "MALFORMED_BODY", None),
    "a word": (b'"hello"', 400, "MALFORMED_BODY", None),
    "not UTF-8": (b'{"list_id":"LIST_ID","email":"\xff@example.com"}', 400, "MALFORMED_BODY", None),
    "NaN": (b'{"list_id":"LIST_ID","email":"a@example.com","preferences":{"a":NaN}}', 400, "MALFORMED_BODY", None),
    "a lone surrogate": (
        b'{"list_id":"LIST_ID","email":"a@example.com","preferences":{"a":"\\ud800"}}', 400, "MALFORMED_BODY", None,
    ),
    "evidence without a token": (subscribe_body(client={"ip": "203.0.113.9"}), 400, "INVALID_FIELD", "client"),
    "300 KiB": (subscribe_body(preferences={"a": "x" * 300_000}), 413, "BODY_TOO_LARGE", None),
    "an unknown list": (subscribe_body(list_id=NOBODY), 404, "LIST_NOT_FOUND", None),
}  # fmt: skip


@pytest.mark.parametrize("case", BODIES)
def test_a_bad_subscribe_is_refused_and_stores_nothing(stack: Stack, newsletter: Newsletter, case: str) -> None:
    body, status, reason, field = BODIES[case]
    answer = send(stack, "POST", "/newsletter/subscribe", body.replace(LIST.encode(), newsletter.list_id.encode()))
    check_refusal(answer, status, reason, field)
    # The refusal does not repeat the address, which may be somebody else's.
    assert b"example.com" not in answer.body
    query = "SELECT count(*) FROM subscriptions WHERE list_id = %s"
    assert Ledger(stack).rows(query, newsletter.list_id, database="member_center") == [(0,)]


@pytest.mark.parametrize(
    ("method", "path", "body", "content_type", "status", "reason"),
    [
        ("POST", "/newsletter/subscribe", b"{}", "text/plain", 415, "UNSUPPORTED_MEDIA_TYPE"),
        ("POST", "/newsletter/subscribe", b"email=a", FORM, 415, "UNSUPPORTED_MEDIA_TYPE"),
        ("POST", "/newsletter/subscribe", b"{}", "application/json; charset=utf-16", 415, "UNSUPPORTED_MEDIA_TYPE"),
        ("POST", "/newsletter/subscribe", b"{}", "", 415, "UNSUPPORTED_MEDIA_TYPE"),
        ("GET", "/newsletter/subscribe", None, "", 405, "METHOD_NOT_ALLOWED"),
        ("DELETE", "/api/send-jobs", None, "", 405, "METHOD_NOT_ALLOWED"),
        ("GET", "/newsletter/nothing", None, "", 404, "ROUTE_NOT_FOUND"),
        ("GET", "/messmail.member_center.v1.MemberCenterAdmin/CreateTenant", None, "", 404, "ROUTE_NOT_FOUND"),
        ("GET", "/newsletter/confirm", None, "", 400, "INVALID_FIELD"),
        ("GET", "/newsletter/confirm?token=x&token=y", None, "", 400, "INVALID_FIELD"),
        ("GET", f"/newsletter/preferences?list_id={NOBODY}&colour=red", None, "", 400, "INVALID_FIELD"),
        ("GET", f"/newsletter/preferences?list_id={NOBODY}&email=a%40example.com", None, "", 404, "LIST_NOT_FOUND"),
        ("GET", f"/newsletter/preferences?list_id={NOBODY}", None, "", 400, "INVALID_FIELD"),
    ],
)  # fmt: skip
def test_a_request_of_the_wrong_form_is_refused(
    stack: Stack, method: str, path: str, body: bytes | None, content_type: str, status: int, reason: str
) -> None:
    check_refusal(send(stack, method, path, body, content_type), status, reason)


@pytest.mark.parametrize("path", ["/newsletter/confirm", "/newsletter/unsubscribe"])
@pytest.mark.parametrize("wrong", ["x", "A" * 124, "A" * 600, "../../etc/passwd", "%00", "é" * 124])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_wrong_link_is_refused(stack: Stack, path: str, wrong: str, method: str) -> None:
    if method == "GET":
        answer = send(stack, "GET", f"{path}?token={quote(wrong)}")
    else:
        answer = send(stack, "POST", path, json.dumps({"token": wrong}).encode())
    check_refusal(answer, 400, "INVALID_FIELD" if len(wrong) > 512 else "LINK_INVALID")


def test_an_international_domain_is_normalised_and_the_local_part_is_kept_as_typed(
    stack: Stack, newsletter: Newsletter
) -> None:
    unique = uuid.uuid4().hex[:8]
    body = subscribe_body(list_id=newsletter.list_id, email=f"Ann.{unique}@Bücher.example")
    assert send(stack, "POST", "/newsletter/subscribe", body).status == 200
    assert stack.mailbox.wait_for(f"Ann.{unique}@xn--bcher-kva.example")


def test_line_breaks_in_preferences_are_kept_as_data_and_reach_no_header(stack: Stack, newsletter: Newsletter) -> None:
    reader = unique_address()
    preferences = {"a\r\nBcc: x@example.com": "b\r\nX-Smuggled: yes\r\n\r\nbody", "=?UTF-8?Q?=0AX-Smuggled:_y?=": "\n"}
    body = subscribe_body(list_id=newsletter.list_id, email=reader, preferences=preferences)
    assert send(stack, "POST", "/newsletter/subscribe", body).status == 200
    mails = BytesParser(policy=email.policy.default)
    with_them = mails.parsebytes(stack.mailbox.raw(stack.mailbox.wait_for(reader)))
    plain = unique_address()
    send(stack, "POST", "/newsletter/subscribe", subscribe_body(list_id=newsletter.list_id, email=plain))
    without_them = mails.parsebytes(stack.mailbox.raw(stack.mailbox.wait_for(plain)))
    assert with_them.keys() == without_them.keys()
    assert not with_them.defects
    assert b"Smuggled" not in with_them.as_bytes()
    query = "SELECT pending_preferences FROM subscriptions WHERE address = %s"
    assert Ledger(stack).rows(query, reader, database="member_center") == [(preferences,)]


def test_a_link_from_before_an_unsubscribe_is_superseded(stack: Stack, newsletter: Newsletter) -> None:
    reader = {"list_id": newsletter.list_id, "email": unique_address()}
    old = stack.site.post_json("/newsletter/subscribe", reader).answer["confirm_token"]
    unsubscribe = stack.site.post_json("/newsletter/unsubscribe-token", reader).answer["unsubscribe_token"]
    assert stack.site.post_json("/newsletter/unsubscribe", {"token": unsubscribe}).status == 200
    new = stack.site.post_json("/newsletter/subscribe", reader).answer["confirm_token"]
    check_refusal(send(stack, "GET", f"/newsletter/confirm?token={old}"), 409, "LINK_SUPERSEDED")
    check_refusal(
        send(stack, "POST", "/newsletter/confirm", json.dumps({"token": old}).encode()), 409, "LINK_SUPERSEDED"
    )
    # The newer link still applies, though whoever left is a member again only by the link of the mail.
    assert stack.site.post_json("/newsletter/confirm", {"token": new}).status == 200


def test_an_expired_link_is_gone(stack: Stack, newsletter: Newsletter) -> None:
    reader = {"list_id": newsletter.list_id, "email": unique_address()}
    confirm = stack.site.post_json("/newsletter/subscribe", reader).answer["confirm_token"]
    unsubscribe = stack.site.post_json("/newsletter/unsubscribe-token", reader).answer["unsubscribe_token"]
    set_clock = "UPDATE messmail_clock SET ahead = %s RETURNING ahead"
    try:
        Ledger(stack).rows(set_clock, timedelta(days=7, seconds=1), database="member_center")
        for path, token in (("/newsletter/confirm", confirm), ("/newsletter/unsubscribe", unsubscribe)):
            check_refusal(send(stack, "GET", f"{path}?token={token}"), 410, "LINK_EXPIRED")
            body = json.dumps({"token": token}).encode()
            check_refusal(send(stack, "POST", path, body), 410, "LINK_EXPIRED")
    finally:
        Ledger(stack).rows(set_clock, timedelta(0), database="member_center")
    assert stack.site.post_json("/newsletter/confirm", {"token": confirm}).answer["status"] == "confirmed"


JOBS: dict[str, tuple[dict[str, Any], int, str, str | None]] = {
    "no subject": ({"subject": ...}, 400, "INVALID_FIELD", "subject"),
    "no body": ({"body_text": ...}, 400, "INVALID_FIELD", "body_html"),
    "a subject with CR LF": ({"subject": "Hi\r\nBcc: x@example.com"}, 400, "INVALID_FIELD", "subject"),
    "a subject with LF": ({"subject": "Hi\nthere"}, 400, "INVALID_FIELD", "subject"),
    "a subject with NUL": ({"subject": "Hi\0"}, 400, "INVALID_FIELD", "subject"),
    "a subject with NEL": ({"subject": "Hi\u0085there"}, 400, "INVALID_FIELD", "subject"),
    "a subject of 501": ({"subject": "x" * 501}, 400, "INVALID_FIELD", "subject"),
    "a name with LF": ({"name": "a\nb"}, 400, "INVALID_FIELD", "name"),
    "a name with an encoded word": ({"name": "=?UTF-8?Q?Hi=0ABcc:_x?="}, 400, "INVALID_FIELD", "name"),
    "a name of 201": ({"name": "x" * 201}, 400, "INVALID_FIELD", "name"),
    "a time that is none": ({"scheduled_at": "tomorrow"}, 400, "INVALID_FIELD", "scheduled_at"),
    "a time without zone": ({"scheduled_at": "2026-02-11T02:00:00"}, 400, "INVALID_FIELD", "scheduled_at"),
    "a time beyond 2100": ({"scheduled_at": "2200-01-01T00:00:00Z"}, 400, "INVALID_FIELD", "scheduled_at"),
    "an unknown field": ({"colour": "red"}, 400, "INVALID_FIELD", "colour"),
    "a broken template": ({"template": True, "body_text": "{% if %}"}, 422, "TEMPLATE_INVALID", None),
    "a template with an unknown name": (
        {"template": True, "body_text": "{{ secrets }}"},
        422,
        "TEMPLATE_INVALID",
        None,
    ),
    "another tenant's id": ({"tenant_id": NOBODY}, 403, "TENANT_MISMATCH", None),
    "an unknown list": ({"list_id": NOBODY}, 404, "LIST_NOT_FOUND", None),
    "a text of 3 MiB": ({"body_text": "x" * 3_000_000}, 413, "BODY_TOO_LARGE", None),
}


@pytest.mark.parametrize("case", JOBS)
def test_a_bad_send_job_is_refused_and_stores_nothing(
    stack: Stack, newsletter: Newsletter, token: str, case: str
) -> None:
    changes, status, reason, field = JOBS[case]
    body = {"list_id": newsletter.list_id, "subject": "News", "body_text": "Hello"} | changes
    text = json.dumps({key: value for key, value in body.items() if value is not ...}).encode()
    check_refusal(send(stack, "POST", "/api/send-jobs", text, token=token), status, reason, field)
    query = "SELECT count(*) FROM send_jobs WHERE tenant_id = %s"
    assert Ledger(stack).rows(query, newsletter.tenant_id) == [(0,)]


def test_an_encoded_word_in_a_subject_reaches_nobody_as_a_header(stack: Stack) -> None:
    newsletter = stack.make_newsletter()
    reader = unique_address()
    stack.import_members(newsletter, [reader])
    token = stack.access_token(newsletter.client)
    subject = "=?UTF-8?Q?Hi=0ABcc:_x=40example.com?="
    body = {"list_id": newsletter.list_id, "subject": subject, "body_text": "Hello"}
    check_refusal(
        send(stack, "POST", "/api/send-jobs", json.dumps(body).encode(), token=token), 400, "INVALID_FIELD", "subject"
    )


def test_a_call_without_or_with_a_forged_token_is_refused_alike_everywhere(stack: Stack, token: str) -> None:
    head, payload, signature = token.split(".")
    unsigned = base64.urlsafe_b64encode(b'{"alg":"none","typ":"at+jwt"}').rstrip(b"=").decode()
    forged = [f"{unsigned}.{payload}.", f"{head}.{payload}.{signature[::-1]}", f"{head}.{payload}", "x", "A" * 9000]
    forged += forged_tokens(stack, token).values()
    for method, path in [
        ("GET", "/api/send-jobs"),
        ("GET", f"/api/send-jobs/{NOBODY}"),
        ("POST", "/api/send-jobs"),
        ("POST", f"/api/send-jobs/{NOBODY}/cancel"),
    ]:
        body = b"{}" if method == "POST" else None
        missing = send(stack, method, path, body)
        check_refusal(missing, 401, "TOKEN_MISSING")
        assert missing.headers["www-authenticate"].startswith("Bearer")
        for one in forged:
            check_refusal(send(stack, method, path, body, token=one), 401, "TOKEN_INVALID")
        check_refusal(send(stack, method, path, body, Authorization="Basic eA=="), 401, "TOKEN_INVALID")
        # A token anywhere but in the header is no token.
        check_refusal(send(stack, "GET", f"/api/send-jobs?access_token={token}"), 401, "TOKEN_MISSING")


def test_a_token_without_the_scope_is_refused(stack: Stack, newsletter: Newsletter) -> None:
    reader = stack.access_token(newsletter.client, "newsletter:send.read")
    writer = stack.access_token(newsletter.client, "newsletter:send.write")
    refused = send(stack, "POST", "/api/send-jobs", b"{}", token=reader)
    check_refusal(refused, 403, "SCOPE_MISSING")
    assert 'error="insufficient_scope"' in refused.headers["www-authenticate"]
    check_refusal(send(stack, "GET", "/api/send-jobs", token=writer), 403, "SCOPE_MISSING")


def test_what_belongs_to_another_tenant_answers_as_if_it_did_not_exist(stack: Stack, token: str) -> None:
    other = stack.make_newsletter()
    others_token = stack.access_token(other.client)
    body = {"list_id": other.list_id, "subject": "Mine", "body_text": "Hello", "scheduled_at": "2099-01-01T00:00:00Z"}
    job = send(stack, "POST", "/api/send-jobs", json.dumps(body).encode(), token=others_token).parsed["id"]

    def without_request_id(answer: Answer) -> tuple[int, dict[str, Any]]:
        return answer.status, {key: value for key, value in answer.parsed.items() if key != "request_id"}

    for method, path, sent in [
        ("GET", "/api/send-jobs/{}", None),
        ("GET", "/api/send-jobs/{}/deliveries", None),
        ("POST", "/api/send-jobs/{}/cancel", b"{}"),
        ("POST", "/api/send-jobs/{}/pause", b"{}"),
        ("POST", "/api/send-jobs/{}/resume", b"{}"),
        ("POST", "/api/send-jobs/{}/retry", b'{"states": ["failed"]}'),
        ("POST", "/api/send-jobs/{}/resolve", b'{"outcome": "sent", "all": true}'),
    ]:
        foreign = send(stack, method, path.format(job), sent, token=token)
        random_id = send(stack, method, path.format(uuid.uuid4()), sent, token=token)
        check_refusal(foreign, 404, "SEND_JOB_NOT_FOUND")
        assert without_request_id(foreign) == without_request_id(random_id)
    for list_id in (other.list_id, NOBODY):
        text = json.dumps(body | {"list_id": list_id}).encode()
        check_refusal(send(stack, "POST", "/api/send-jobs", text, token=token), 404, "LIST_NOT_FOUND")
    assert send(stack, "GET", f"/api/send-jobs/{job}", token=others_token).parsed["status"] == "scheduled"


TOKENS: dict[str, tuple[bytes, str, int, str]] = {
    "JSON": (b'{"grant_type":"client_credentials"}', JSON, 415, "invalid_request"),
    "nothing": (b"", FORM, 400, "invalid_request"),
    "no grant type": (b"client_id=ID&client_secret=SECRET", FORM, 400, "invalid_request"),
    "another grant": (b"grant_type=password&client_id=ID&client_secret=SECRET", FORM, 400, "unsupported_grant_type"),
    "a wrong secret": (b"grant_type=client_credentials&client_id=ID&client_secret=x", FORM, 401, "invalid_client"),
    "an unknown client": (
        f"grant_type=client_credentials&client_id={NOBODY}&client_secret=SECRET".encode(), FORM, 401, "invalid_client",
    ),
    "a client id that is none": (
        b"grant_type=client_credentials&client_id=x&client_secret=SECRET", FORM, 401, "invalid_client",
    ),
    "a scope that does not exist": (
        b"grant_type=client_credentials&client_id=ID&client_secret=SECRET&scope=root", FORM, 400, "invalid_scope",
    ),
    "a scope that is not the client's": (
        b"grant_type=client_credentials&client_id=ID&client_secret=SECRET&scope=internal:admin", FORM, 400,
        "invalid_scope",
    ),
    "a duplicate parameter": (
        b"grant_type=client_credentials&grant_type=client_credentials&client_id=ID&client_secret=SECRET", FORM, 400,
        "invalid_request",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TOKENS)
def test_a_bad_token_request_is_refused_as_rfc_6749_says(stack: Stack, newsletter: Newsletter, case: str) -> None:
    body, content_type, status, error = TOKENS[case]
    client = newsletter.client
    body = body.replace(b"=ID", f"={client.client_id}".encode()).replace(b"SECRET", client.client_secret.encode())
    answer = send(stack, "POST", "/oauth/token", body, content_type)
    assert (answer.status, answer.parsed["error"]) == (status, error), answer.body
    assert "access_token" not in answer.parsed
    assert answer.headers["cache-control"] == "no-store"


def test_credentials_come_in_the_body_or_by_basic_but_not_both_and_never_in_the_url(
    stack: Stack, newsletter: Newsletter
) -> None:
    client = newsletter.client
    basic = "Basic " + base64.b64encode(f"{client.client_id}:{client.client_secret}".encode()).decode()
    grant = b"grant_type=client_credentials"
    assert send(stack, "POST", "/oauth/token", grant, FORM, Authorization=basic).status == 200
    both = f"grant_type=client_credentials&client_id={client.client_id}&client_secret={client.client_secret}".encode()
    assert send(stack, "POST", "/oauth/token", both, FORM).status == 200
    assert send(stack, "POST", "/oauth/token", both, FORM, Authorization=basic).parsed["error"] == "invalid_request"
    url = f"/oauth/token?client_id={client.client_id}&client_secret={client.client_secret}"
    assert send(stack, "POST", url, grant, FORM).status == 400


def test_a_client_for_webhooks_gets_no_token(stack: Stack, newsletter: Newsletter) -> None:
    webhook: Client = stack.make_client(newsletter.tenant_id, usage="WEBHOOK_OUTBOUND")
    form = f"grant_type=client_credentials&client_id={webhook.client_id}&client_secret={webhook.client_secret}"
    answer = send(stack, "POST", "/oauth/token", form.encode(), FORM)
    assert (answer.status, answer.parsed["error"]) == (400, "unauthorized_client")


def test_nothing_of_all_this_left_a_trace_or_a_secret_in_a_log(
    stack: Stack, newsletter: Newsletter, token: str
) -> None:
    send(stack, "GET", f"/newsletter/confirm?token={'B' * 124}")
    send(stack, "POST", "/newsletter/subscribe", subscribe_body(email="very.private@example.com", list_id=NOBODY))
    logs = b"".join(file.read_bytes() for file in (stack.data_dir / "logs").glob("*.log"))
    assert b"very.private" not in logs
    assert b"B" * 124 not in logs
    assert newsletter.client.client_secret.encode() not in logs
    assert token.encode() not in logs
    assert b"Traceback" not in logs
