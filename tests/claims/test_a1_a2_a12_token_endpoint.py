"""Claims A1, A2 and A12: the token endpoint takes what RFC 6749 describes and nothing else; tokens go in headers."""

from __future__ import annotations

import base64
import http.client
import itertools
import json
import urllib.parse
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from messmail.member_center.v1 import member_center_admin_pb2 as admin_pb
from messmail.member_center.v1 import member_center_pb2 as pb
from tests.claims_table import ClaimRow, cases, hand_in_claim
from tests.member_center_fixtures import MemberCenter, reason_of
from tests.stack import Client, Newsletter, Stack

pytestmark = pytest.mark.timeout(300)

FORM = "application/x-www-form-urlencoded"
GRANT = "grant_type=client_credentials"
LEAST = 200


@dataclass(frozen=True)
class Answer:
    """An answer as it came."""

    status: int
    headers: dict[str, str]
    body: bytes


def send(stack: Stack, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(stack.http).netloc, timeout=30)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    answer = Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    connection.close()
    return answer


def basic(client_id: str, secret: str) -> str:
    return "Basic " + base64.b64encode(f"{client_id}:{secret}".encode()).decode()


@pytest.fixture(scope="module")
def newsletter(unlimited: Stack) -> Newsletter:
    return unlimited.make_newsletter()


def malformed(client: Client) -> Iterator[tuple[str, str, bytes, dict[str, str]]]:
    """Yields what is wrong with a request, its path, body and headers."""
    path, form = "/oauth/token", {"Content_Type": FORM}
    credentials = f"client_id={client.client_id}&client_secret={client.client_secret}"
    whole = f"{GRANT}&{credentials}"
    header = basic(client.client_id, client.client_secret)
    for kind in (
        "application/json", "text/plain", "multipart/form-data; boundary=x", "application/xml", "", "x", "form",
        "application/octet-stream", "application/x-www-form-urlencoded-not", "text/html", "application/jwt",
        "application/x-ndjson", "application/grpc",
    ):  # fmt: skip
        yield f"content type {kind}", path, whole.encode(), {"Content_Type": kind} if kind else {}
        yield f"JSON as {kind}", path, json.dumps(dict(urllib.parse.parse_qsl(whole))).encode(), {"Content_Type": kind}
    for grant in (
        "password", "authorization_code", "refresh_token", "implicit", "urn:ietf:params:oauth:grant-type:jwt-bearer",
        "urn:ietf:params:oauth:grant-type:device_code", "urn:ietf:params:oauth:grant-type:token-exchange",
        "urn:ietf:params:oauth:grant-type:saml2-bearer", "client_credentials ", " client_credentials",
        "Client_Credentials", "CLIENT_CREDENTIALS", "client_credentials,password", "client-credentials", "*", "null",
        "client_credentials\0", "client_credentials\n", "", "clientcredentials",
    ):  # fmt: skip
        body = urllib.parse.urlencode({"grant_type": grant}) + f"&{credentials}"
        yield f"grant {grant!r}", path, body.encode(), form
        only = urllib.parse.urlencode({"grant_type": grant}).encode()
        yield f"grant {grant!r} with Basic", path, only, form | {"Authorization": header}
    parameters = {"grant_type": "client_credentials", **dict(urllib.parse.parse_qsl(credentials))}
    for name, value in (parameters | {"scope": "newsletter:send.read"}).items():
        others = urllib.parse.urlencode({k: v for k, v in parameters.items() if k != name})
        for other in (value, "x", ""):
            again = urllib.parse.urlencode([(name, value), (name, other)])
            yield f"{name} twice, then {other[:5]!r}", path, f"{others}&{again}".encode(), form
            before = urllib.parse.urlencode([(name, other), (name, value)])
            yield f"{name} twice, first {other[:5]!r}", path, f"{before}&{others}".encode(), form
        if name != "scope":
            yield f"no {name}", path, others.encode(), form
            yield f"empty {name}", path, f"{others}&{name}=".encode(), form
    for name, wrong in itertools.product(
        ("client_id", "client_secret"),
        ("x", str(uuid.uuid4()), "%00", "%0d%0a", "é", "' OR '1'='1", "../../etc", "x" * 5000, "*", "null", "[]"),
    ):
        rest = urllib.parse.urlencode(parameters | {name: "HERE"})
        yield f"{name} {wrong[:12]!r}", path, rest.replace("HERE", urllib.parse.quote(wrong, "%")).encode(), form
    for scope in (
        "internal:admin", "*", "newsletter:send.read  newsletter:send.write", "newsletter:send.read,newsletter:send",
        " ", " newsletter:send.read", "newsletter:send.read ", "newsletter:*", "NEWSLETTER:SEND.READ", "openid", "\t",
        "newsletter:send.read\nnewsletter:send.write", "newsletter:send.read internal:send", '"', "\\", "é", "x" * 4000,
        "newsletter:send.reads", "newsletter:send.rea", "internal:feed", "internal:send", "internal:gateway",
    ):  # fmt: skip
        asked = urllib.parse.urlencode({"scope": scope})
        yield f"scope {scope[:30]!r}", path, f"{whole}&{asked}".encode(), form
        yield f"scope {scope[:30]!r} with Basic", path, f"{GRANT}&{asked}".encode(), form | {"Authorization": header}
    for kind, body in {
        "and both in the body": whole, "and the id in the body": f"{GRANT}&client_id={client.client_id}",
        "and the secret in the body": f"{GRANT}&client_secret={client.client_secret}",
        "and another client's in the body": f"{GRANT}&client_id={uuid.uuid4()}&client_secret=x",
    }.items():  # fmt: skip
        yield f"Basic {kind}", path, body.encode(), form | {"Authorization": header}
    raw = f"{client.client_id}:{client.client_secret}"
    for kind, value in {
        "no base64": f"Basic {raw}", "no colon": "Basic " + base64.b64encode(client.client_id.encode()).decode(),
        "nothing": "Basic ", "no value": "Basic", "base64 cut off": header[:-7], "a bearer": f"Bearer {raw}",
        "Digest": f'Digest username="{client.client_id}"', "the wrong secret": basic(client.client_id, "x"),
        "an unknown client": basic(str(uuid.uuid4()), client.client_secret), "empty parts": basic("", ""),
        "no secret": basic(client.client_id, ""), "no client": basic("", client.client_secret),
        "not UTF-8": "Basic " + base64.b64encode(b"\xff\xfe:\xff").decode(), "twice": f"{header}, {header}",
        "a NUL": basic(client.client_id, client.client_secret + "\0"), "Negotiate": "Negotiate YII=",
        "the secret first": basic(client.client_secret, client.client_id),
        "a colon more": basic(client.client_id, client.client_secret + ":"),
    }.items():  # fmt: skip
        yield f"Authorization of {kind}", path, GRANT.encode(), form | {"Authorization": value}
    for query in (
        credentials, whole, GRANT, f"client_secret={client.client_secret}", f"client_id={client.client_id}", "scope=x",
        "a=b", f"access_token={client.client_secret}",
    ):  # fmt: skip
        yield f"a query with {query[:12]}", f"{path}?{query}", whole.encode(), form
        yield f"only a query with {query[:12]}", f"{path}?{query}", b"", form
    for kind, raw_body in {
        "nothing": b"", "a letter": b"x", "ampersands": b"&&&", "equals": b"===", "NULs": b"\0" * 100,
        "not UTF-8": whole.encode() + b"&scope=\xff\xfe", "half an escape": whole.encode() + b"&scope=%f",
        "no escape": whole.encode() + b"&scope=%zz", "semicolons": whole.replace("&", ";").encode(),
        "line breaks": whole.replace("&", "\r\n").encode(), "brackets": whole.replace("=", "[]=").encode(),
        "a hundred fields": whole.encode() + b"".join(b"&f%d=x" % n for n in range(100)),
        "300 KB": whole.encode() + b"&scope=" + b"x" * 300_000, "JSON": b'{"grant_type":"client_credentials"}',
        "encoded names": whole.replace("client_id", "client%00id").encode(),
        "blanks": whole.replace("&", " & ").encode(),
        "names in capitals": whole.replace("client_secret", "CLIENT_SECRET").encode(), "escaped": whole.replace(
            "&", "%26").encode(), "an assertion": f"{GRANT}&client_assertion=x&client_assertion_type="
        "urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer".encode(),
    }.items():  # fmt: skip
        yield f"a body of {kind}", path, raw_body, form


def test_a1_no_malformed_request_gets_a_token(stack: Stack, newsletter: Newsletter, record_property: object) -> None:
    good = f"{GRANT}&client_id={newsletter.client.client_id}&client_secret={newsletter.client.client_secret}"
    assert send(stack, "POST", "/oauth/token", good.encode(), Content_Type=FORM).status == 200
    names, tokens, crashed, uncached = list[str](), list[str](), list[str](), list[str]()
    for name, path, body, headers in malformed(newsletter.client):
        answer = send(stack, "POST", path, body, **headers)
        names.append(name)
        if b'"access_token"' in answer.body or answer.status < 400:
            tokens.append(f"{name}: {answer.status}")
        if answer.status >= 500:
            crashed.append(f"{name}: {answer.status}")
        if answer.headers.get("cache-control") != "no-store":
            uncached.append(name)
        assert newsletter.client.client_secret.encode() not in answer.body, name
    assert (tokens, crashed, uncached) == ([], [], [])
    # What is unknown is ignored, as RFC 6749 3.2 wants it.
    assert send(stack, "POST", "/oauth/token", f"{good}&colour=red".encode(), Content_Type=FORM).status == 200
    for method in ("GET", "PUT", "DELETE", "PATCH", "HEAD"):
        assert send(stack, method, f"/oauth/token?{good}").status in (400, 405)
    assert len(names) >= LEAST
    hand_in_claim(record_property, ClaimRow("A1", "malformed token requests", LEAST, len(names), 0))


def test_a2_a_receiver_of_webhooks_never_gets_a_token(member_center: MemberCenter, record_property: object) -> None:
    member_center.set_limits(calls_per_client_per_minute=1_000_000, anonymous_calls_per_ip_per_minute=1_000_000)
    tenant_id = member_center.make_tenant()
    client = member_center.admin.CreateClient(
        admin_pb.CreateClientRequest(
            tenant_id=tenant_id,
            usage=admin_pb.CLIENT_USAGE_WEBHOOK_OUTBOUND,
            scopes=["newsletter:send.write", "newsletter:send.read"],
        )
    )
    scopes = ("", "newsletter:send.write", "newsletter:send.read", "internal:admin")
    run = cases(1_000, least=len(scopes) * 4)
    for turn in range(run):
        request = pb.IssueTokenRequest(
            grant_type="client_credentials",
            client_id=client.client_id,
            client_secret=client.client_secret,
            scope=scopes[turn % len(scopes)],
        )
        assert reason_of(lambda request=request: member_center.public.IssueToken(request)) == "CLIENT_UNAUTHORIZED"  # type: ignore[misc]
    hand_in_claim(record_property, ClaimRow("A2", "tokens for a receiver of webhooks", 1_000, run, 0))


def routes(stack: Stack) -> list[tuple[str, str, dict[str, Any]]]:
    """Returns method, path and description of every operation that is served."""
    paths: dict[str, dict[str, Any]] = stack.site.get("/openapi.json").answer["paths"]
    return [
        (method.upper(), path, operation)
        for path, operations in paths.items()
        for method, operation in operations.items()
        if method in ("get", "post", "put", "patch", "delete")
    ]


def test_a12_a_token_outside_the_header_is_none_on_every_route(
    stack: Stack, newsletter: Newsletter, record_property: object
) -> None:
    token = stack.access_token(newsletter.client)
    run, protected, open_routes = 0, 0, 0
    for method, template, operation in routes(stack):
        path = template.replace("{id}", str(uuid.uuid4()))
        in_query = send(stack, method, f"{path}?access_token={token}")
        in_form = send(stack, method, path, f"access_token={token}".encode(), Content_Type=FORM)
        bare = send(stack, method, path)
        run += 2
        # Where a token is needed it is missing; elsewhere it is a field that nobody knows, or counts for nothing.
        assert in_query.status == bare.status == 401 if bare.status == 401 else in_query.status in (bare.status, 400)
        assert in_form.status in (bare.status, 400, 401, 405, 415), (method, path, in_form.status)
        for answer in (in_query, in_form):
            assert b'"send_jobs"' not in answer.body
            assert token.encode() not in answer.body
        protected += bare.status == 401
        open_routes += bare.status != 401
        if bare.status == 401:
            challenge = bare.headers["www-authenticate"]
            assert challenge.startswith("Bearer"), challenge
            # RFC 6750 3.1: who sent no token is told no error.
            assert "error=" not in challenge
            wrong = send(stack, method, path, Authorization="Bearer x.y.z")
            assert (wrong.status, 'error="invalid_token"' in wrong.headers["www-authenticate"]) == (401, True)
            assert operation["security"]
    assert protected >= 8 and open_routes >= 5
    hand_in_claim(record_property, ClaimRow("A12", "tokens in query or form, on every route", 0, run, 0))


@pytest.mark.claim("A12", "every refusal for a scope names it in WWW-Authenticate")
def test_a12_a_token_without_the_scope_is_told_which_one_it_needs(stack: Stack, newsletter: Newsletter) -> None:
    reader = stack.access_token(newsletter.client, "newsletter:send.read")
    refused = send(
        stack, "POST", "/api/send-jobs", b"{}", Authorization=f"Bearer {reader}", Content_Type="application/json"
    )
    assert refused.status == 403
    assert 'error="insufficient_scope"' in refused.headers["www-authenticate"]
    assert 'scope="newsletter:send.write"' in refused.headers["www-authenticate"]


@pytest.mark.claim("A12", "no answer of the token endpoint is kept by a cache")
def test_a12_no_answer_with_a_token_is_kept_by_a_cache(stack: Stack, newsletter: Newsletter) -> None:
    client = newsletter.client
    header = basic(client.client_id, client.client_secret)
    issued = send(stack, "POST", "/oauth/token", GRANT.encode(), Content_Type=FORM, Authorization=header)
    assert issued.status == 200
    token = json.loads(issued.body)["access_token"]
    told = send(stack, "POST", "/oauth/introspect", f"token={token}".encode(), Content_Type=FORM, Authorization=header)
    ended = send(stack, "POST", "/oauth/revoke", f"token={token}".encode(), Content_Type=FORM, Authorization=header)
    for answer in (issued, told, ended):
        assert (answer.status, answer.headers["cache-control"]) == (200, "no-store")
