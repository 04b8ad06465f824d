"""Bodies that no route reads: too large, of another type, too deep, or JSON that two readers understand differently."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.forms import FORM, JSON
from gateway.routes import Route, read_routes
from gateway.transcode import accepted_types
from gateway.wiring import SERVICES
from tests.rpc.gateway_under_test import JOB, GatewayUnderTest, access_token, running_gateway

ROUTES = [route for service in SERVICES.values() for route in read_routes(service) if route.has_body]
OF_JSON = [route for route in ROUTES if JSON in accepted_types(route)]
I10 = pytest.mark.claim("I10", "bodies that no route reads (413, 415, depth, duplicates, NaN, surrogates): refused")
BAD_JSON = {
    "33 levels": b'{"a":' * 33 + b"1" + b"}" * 33,
    "100,000 levels": b"[" * 100_000 + b"]" * 100_000,
    "a member twice": b'{"email":"a@example.com","email":"b@example.com"}',
    "a member twice, once escaped": b'{"email":"a@example.com","\\u0065mail":"b@example.com"}',
    "a member twice, deep inside": b'{"preferences":{"a":[{"b":1,"b":2}]}}',
    "NaN": b'{"preferences":{"a":NaN}}',
    "Infinity": b'{"preferences":{"a":-Infinity}}',
    "a number beyond a double": b'{"preferences":{"a":1e999}}',
    "half a surrogate pair": b'{"preferences":{"a":"\\ud800"}}',
    "the other half": b'{"preferences":{"\\udc00":1}}',
    "a surrogate in UTF-8": b'{"preferences":{"a":"\xed\xa0\x80"}}',
    "UTF-16": '{"a":1}'.encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf{}",
    "a comment": b"{/* */}",
    "a comma too many": b'{"a":1,}',
    "two values": b"{}{}",
    "NUL after the end": b"{}\0",
    "an array": b"[]",
}


def name_of(route: Route) -> str:
    return f"{route.http_method} {route.template}"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayUnderTest]:
    log: Path = tmp_path_factory.mktemp("gateway") / "log"
    with running_gateway(log) as running:
        yield running


def answered(gateway: GatewayUnderTest, route: Route, body: bytes, content_type: str, **headers: str) -> int:
    """Posts a body with a token that opens every route, and returns the status; no RPC may have been called."""
    before = list(gateway.seen.rpcs)
    if not route.face.oauth:
        headers["Authorization"] = f"Bearer {access_token('newsletter:send.write newsletter:send.read')}"
    target = route.template.replace("{id}", JOB)
    answer = gateway.call(route.http_method, target, body, Content_Type=content_type, **headers)
    assert gateway.seen.rpcs == before
    assert answer.json["error" if route.face.oauth else "reason"]
    return answer.status


@I10
@pytest.mark.parametrize("route", ROUTES, ids=name_of)
def test_a_body_is_refused_by_its_announced_length(gateway: GatewayUnderTest, route: Route) -> None:
    connection = http.client.HTTPConnection(gateway.host, gateway.port, timeout=10)
    connection.putrequest(route.http_method, route.template.replace("{id}", JOB))
    connection.putheader("Content-Type", accepted_types(route)[0])
    connection.putheader("Content-Length", str(route.max_body_bytes + 1))
    if not route.face.oauth:
        connection.putheader("Authorization", f"Bearer {access_token('newsletter:send.write')}")
    connection.endheaders()
    # Not one byte of it was sent.
    assert connection.getresponse().status == 413
    connection.close()


@I10
@pytest.mark.parametrize("route", ROUTES, ids=name_of)
def test_a_body_of_another_type_is_refused(gateway: GatewayUnderTest, route: Route) -> None:
    accepted = accepted_types(route)
    others = ["text/plain", "application/xml", "application/json;charset=utf-16", "application/x-protobuf", "", "?"]
    others += [kind for kind in (JSON, FORM) if kind not in accepted]
    assert {kind: answered(gateway, route, b"{}", kind) for kind in others} == dict.fromkeys(others, 415)


@I10
@pytest.mark.parametrize("bad", BAD_JSON)
@pytest.mark.parametrize("route", OF_JSON, ids=name_of)
def test_json_that_two_readers_understand_differently_is_refused(
    gateway: GatewayUnderTest, route: Route, bad: str
) -> None:
    assert answered(gateway, route, BAD_JSON[bad], JSON) == 400


@pytest.mark.claim("I13", "JSON of 32 levels over REST: reaches its service", run=2)
def test_the_deepest_body_that_is_read_reaches_its_service(gateway: GatewayUnderTest) -> None:
    route = next(route for route in OF_JSON if route.rpc.name == "UpdatePreferences")
    for opening, closing in (('{"a":', "}"), ("[", "]")):
        preferences = json.loads('{"a":' + opening * 29 + "1" + closing * 29 + "}")
        body = {"list_id": JOB, "email": "ann@example.com", "preferences": preferences}
        answer = gateway.post_json(route.template, body)
        assert answer.status == 200, answer.body
        assert answer.json == preferences
