"""A3: a token opens what its scope is for, and nothing else: every RPC and every route with every scope."""

from __future__ import annotations

import http.client
import itertools
import json
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions

from gateway.routes import Route, read_routes
from gateway.wiring import SERVICES
from member_center.oauth import INTERNAL_SCOPES, TENANT_SCOPES
from messmail.audit.v1 import audit_pb2
from messmail.member_center.v1 import member_center_admin_pb2 as admin_pb
from messmail.member_center.v1 import member_center_feed_pb2, member_center_pb2
from messmail.options.v1 import options_pb2
from messmail.send_engine.v1 import send_engine_admin_pb2, send_engine_pb2
from servicekit.errors import MessmailError, from_rpc_error
from tests.claims_table import ClaimRow, hand_in_claim
from tests.stack import Stack, unique_address

pytestmark = pytest.mark.timeout(240)

FILES = {
    "member_center": (member_center_pb2, admin_pb, member_center_feed_pb2, audit_pb2),
    "send_engine": (send_engine_pb2, send_engine_admin_pb2, audit_pb2),
}
METHODS = [
    (part, method)
    for part, files in FILES.items()
    for file in files
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]
ROUTES = [route for service in SERVICES.values() for route in read_routes(service) if not route.face.oauth]
REFUSED = {"TOKEN_MISSING", "SCOPE_MISSING"}


@dataclass(frozen=True)
class Bearer:
    """A caller: what kind of token it has, and with which scopes."""

    kind: str
    scopes: frozenset[str] = frozenset()
    token: str = ""

    @property
    def authorization(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token}"} if self.token else {}

    def expected(self, access: options_pb2.Access) -> str:
        """What the contract says of this caller: a refusal, or nothing."""
        if self.kind == "none":
            return "" if access.public else "TOKEN_MISSING"
        if self.kind == "tenant":
            return "" if access.public or access.tenant_scope in self.scopes else "SCOPE_MISSING"
        return "" if access.internal_scope in self.scopes else "SCOPE_MISSING"


@pytest.fixture(scope="module")
def tenant_id(stack: Stack) -> str:
    return stack.make_tenant()


@pytest.fixture(scope="module")
def bearers(stack: Stack, tenant_id: str) -> list[Bearer]:
    """Nobody; and of each kind a token with no scope, with each one, and with all."""
    made = [Bearer("none")]
    for kind, known in (("tenant", TENANT_SCOPES), ("internal", INTERNAL_SCOPES)):
        owner, usage = (tenant_id, "TENANT_API") if kind == "tenant" else ("", "INTERNAL")
        for scopes in ((), *((scope,) for scope in known), known):
            client = stack.make_client(owner, *scopes, usage=usage)
            made.append(Bearer(kind, frozenset(scopes), stack.access_token(client)))
    return made


@pytest.fixture(scope="module")
def channels(stack: Stack) -> Iterator[dict[str, grpc.Channel]]:
    opened = {part: grpc.insecure_channel(stack.ready[part]) for part in FILES}
    yield opened
    for channel in opened.values():
        channel.close()


def access_of(method: MethodDescriptor) -> options_pb2.Access:
    return method.GetOptions().Extensions[options_pb2.access]


def refusal_of(channel: grpc.Channel, method: MethodDescriptor, request: bytes, bearer: Bearer) -> MessmailError | None:
    """Calls an RPC, and returns with what it was refused."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    make = channel.unary_stream if method.server_streaming else channel.unary_unary
    call = make(path, request_serializer=lambda data: data, response_deserializer=lambda data: data)
    try:
        answer = call(request, metadata=tuple(bearer.authorization.items()), timeout=15)
        if method.server_streaming:
            next(iter(answer), None)
    except grpc.RpcError as error:
        return from_rpc_error(error)
    return None


def reason_of(error: MessmailError | None) -> str:
    return error.status.name if error is not None and error.status.name in REFUSED else ""


def over_rest(
    stack: Stack, method: str, target: str, body: object | None, bearer: Bearer
) -> tuple[int, str, dict[str, str]]:
    """Makes a call, and returns its status, its reason and its headers."""
    connection = http.client.HTTPConnection(urlsplit(stack.http).netloc, timeout=30)
    try:
        sent = None if body is None else json.dumps(body)
        connection.request(method, target, sent, {"Content-Type": "application/json", **bearer.authorization})
        response = connection.getresponse()
        text = response.read()
        reason = str(json.loads(text).get("reason", "")) if text.startswith(b"{") else ""
        return response.status, reason, {name.lower(): value for name, value in response.getheaders()}
    finally:
        connection.close()


def hand_in(record_property: object, what: str, run: int, wrong: Sequence[object]) -> None:
    hand_in_claim(record_property, ClaimRow("A3", what, asked=run, run=run, violations=len(wrong)))
    assert wrong == []


def test_over_grpc_every_rpc_admits_exactly_the_scopes_of_its_contract(
    channels: dict[str, grpc.Channel], bearers: list[Bearer], record_property: object
) -> None:
    wrong = []
    for (part, method), bearer in itertools.product(METHODS, bearers):
        # Empty requests: whoever is admitted gets no further than the rules on the fields, where there are any.
        error = refusal_of(channels[part], method, b"", bearer)
        expected = bearer.expected(access_of(method))
        right_code = error is None or not expected or error.status.http == (401 if bearer.kind == "none" else 403)
        if reason_of(error) != expected or not right_code:
            wrong.append((method.full_name, bearer.kind, sorted(bearer.scopes), reason_of(error), expected))
    hand_in(record_property, "every RPC with every scope, over gRPC", len(METHODS) * len(bearers), wrong)


def test_over_rest_every_route_admits_exactly_the_scopes_of_its_contract(
    stack: Stack, bearers: list[Bearer], record_property: object
) -> None:
    wrong = []
    for route, bearer in itertools.product(ROUTES, bearers):
        target = route.template
        for field in route.path_fields:
            target = target.replace("{" + field + "}", str(uuid.uuid4()))
        status, reason, headers = over_rest(stack, route.http_method, target, {} if route.has_body else None, bearer)
        expected = bearer.expected(route.access)
        found = reason if reason in REFUSED else ""
        if found != expected or not challenge_is_right(route, bearer, expected, status, headers):
            wrong.append((route.template, bearer.kind, sorted(bearer.scopes), status, reason, expected))
    hand_in(record_property, "every route with every scope, over REST", len(ROUTES) * len(bearers), wrong)


def challenge_is_right(route: Route, bearer: Bearer, expected: str, status: int, headers: dict[str, str]) -> bool:
    """RFC 6750 section 3.1: nothing about the error without a token, insufficient_scope with too little of one."""
    challenge = headers.get("www-authenticate", "")
    if expected == "TOKEN_MISSING":
        return status == 401 and challenge == 'Bearer realm="messmail"'
    if expected == "SCOPE_MISSING":
        needed = route.access.tenant_scope if bearer.kind == "tenant" else route.access.internal_scope
        scope = f', scope="{needed}"' if needed else ""
        return status == 403 and challenge == f'Bearer realm="messmail", error="insufficient_scope"{scope}'
    return status not in (401, 403)


def test_a_list_that_requires_a_token_admits_exactly_the_scopes_of_the_contract(
    stack: Stack, channels: dict[str, grpc.Channel], bearers: list[Bearer], tenant_id: str, record_property: object
) -> None:
    list_id = stack.make_list(tenant_id)
    stack.operator.member_center_admin.UpdateList(
        admin_pb.UpdateListRequest(
            tenant_id=tenant_id, list_id=list_id, settings=admin_pb.ListSettings(require_token=True)
        )
    )
    guarded = [method for _, method in METHODS if access_of(method).list_scope]
    assert {method.name for method in guarded} == {
        "Subscribe", "RequestUnsubscribeToken", "GetPreferences", "UpdatePreferences",
    }  # fmt: skip
    by_name = {route.rpc.name: route for route in ROUTES}
    wrong = []
    for method, bearer in itertools.product(guarded, bearers):
        access = access_of(method)
        expected = bearer.expected(access)
        if bearer.kind == "none":
            expected = "TOKEN_MISSING"
        elif bearer.kind == "tenant" and access.list_scope not in bearer.scopes:
            expected = "SCOPE_MISSING"
        request = {"list_id": list_id, "email": unique_address(), "tenant_id": tenant_id}
        if "preferences" in method.input_type.fields_by_name:
            request |= {"preferences": {"a": 1}}  # type: ignore[dict-item]
        message = getattr(member_center_pb2, method.input_type.name)(**request)
        found = reason_of(refusal_of(channels["member_center"], method, message.SerializeToString(), bearer))
        route = by_name[method.name]
        query = "" if route.has_body else "?" + "&".join(f"{name}={value}" for name, value in request.items())
        body = request if route.has_body else None
        _, reason, _ = over_rest(stack, route.http_method, route.template + query, body, bearer)
        for face, seen in (("gRPC", found), ("REST", reason if reason in REFUSED else "")):
            if seen != expected:
                wrong.append((face, method.name, bearer.kind, sorted(bearer.scopes), seen, expected))
    what = "every RPC with every scope for a list that requires a token"
    hand_in(record_property, what, 2 * len(guarded) * len(bearers), wrong)


def test_a_scope_to_read_opens_nothing_that_changes_anything() -> None:
    for _, method in METHODS:
        scopes = {access_of(method).tenant_scope, access_of(method).list_scope}
        if any(scope.endswith(".read") for scope in scopes):
            assert method.GetOptions().idempotency_level == MethodOptions.NO_SIDE_EFFECTS, method.full_name


def test_a_token_has_the_scopes_asked_for_or_there_is_none(
    stack: Stack, tenant_id: str, record_property: object
) -> None:
    subsets = [
        subset for size in range(len(TENANT_SCOPES) + 1) for subset in itertools.combinations(TENANT_SCOPES, size)
    ]
    wrong: list[object] = []
    strange = ["internal:admin", "newsletter:*", "newsletter:send.write.x", "NEWSLETTER:SEND.WRITE", "everything"]
    run = 0
    for has in subsets:
        client = stack.make_client(tenant_id, *has)
        for asked in [*subsets[1:], *((*has, other) for other in strange)]:
            run += 1
            form = {
                "grant_type": "client_credentials",
                "client_id": client.client_id,
                "client_secret": client.client_secret,
                "scope": " ".join(asked),
            }
            exchange = stack.site.post_form("/oauth/token", form)
            if set(asked) <= set(has):
                is_right = exchange.status == 200 and exchange.answer["scope"] == " ".join(asked)
            else:
                is_right = (exchange.status, exchange.answer.get("error")) == (400, "invalid_scope")
            if not is_right:
                wrong.append((has, asked, exchange.status))
    hand_in(record_property, "what a client has and what it asks for: never more, never something else", run, wrong)
