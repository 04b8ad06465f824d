"""Everything of another tenant, in every field that names something, of every RPC: it answers like nothing at all.

The matrix is read from the contract: a new RPC is in it, and a new field that names something has to be told of here.
"""

from __future__ import annotations

import json
import statistics
import time
import urllib.parse
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from email import message_from_bytes
from http.client import HTTPConnection
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.struct_pb2 import Struct

from gateway.forms import JSON
from gateway.json_writer import json_writer
from gateway.routes import Route, read_routes
from gateway.transcode import accepted_types
from gateway.wiring import SERVICES
from messmail.audit.v1 import audit_pb2
from messmail.member_center.v1 import member_center_admin_pb2, member_center_feed_pb2
from messmail.send_engine.v1 import send_engine_admin_pb2
from messmail.send_engine.v1 import send_engine_pb2 as se
from servicekit.errors import from_rpc_error
from tests.claims_table import cases
from tests.recount import Ledger
from tests.stack import Newsletter, Stack, link_token, unique_address, wait_until

pytestmark = pytest.mark.timeout(600)  # The stack has to start.
# Fields that name something of a tenant's, and the sorts of things of the other tenant that are put into them.
NAMES = {
    "list_id": ("list", "job", "client"),
    "id": ("job", "list", "delivery"),
    "tenant_id": ("tenant",),
    "token": ("confirm link", "mailed confirm link", "unsubscribe link", "one-click link", "preferences link"),
    "leave_list_id": ("list",),
    "client_id": ("client",),
    "delivery_ids": ("delivery",),
}
# These name nothing by themselves; what another tenant's do is asked for below.
OTHERS = {"page_token", "idempotency_key", "token_type_hint"}
# They say of a token that it is none, of a delivery nothing, whatever of these are not the caller's.
PASSES_OVER = ("IntrospectToken", "RevokeToken", "ResolveSendJob")
PUBLIC = [rpc for service in SERVICES.values() for rpc in service.methods]
INTERNAL = [
    rpc
    for service in (
        member_center_admin_pb2.DESCRIPTOR.services_by_name["MemberCenterAdmin"],
        member_center_feed_pb2.DESCRIPTOR.services_by_name["MemberCenterFeed"],
        send_engine_admin_pb2.DESCRIPTOR.services_by_name["SendEngineAdmin"],
        audit_pb2.DESCRIPTOR.services_by_name["AuditLog"],
    )
    for rpc in service.methods
]
ROUTES = {route.rpc.name: route for service in SERVICES.values() for route in read_routes(service)}
CELLS = [(rpc, name) for rpc in PUBLIC for name in NAMES if name in rpc.input_type.fields_by_name]
DATABASES = ("member_center", "send_engine")
# Each looks for one thing, and is called so often for theirs and for nothing.
LOOKS_FOR_ONE = ("GetSendJob", "ListDeliveries", "CancelSendJob", "CreateSendJob", "Subscribe")
TIMED = [rpc for rpc in PUBLIC if rpc.name in LOOKS_FOR_ONE]
TURNS = cases(5000, least=100)
T1 = pytest.mark.claim("T1", "another tenant's ids and tokens in fields of RPCs, over gRPC and REST: like unknown ones")


@dataclass(frozen=True)
class Tenant:
    """A tenant and one of everything it can have."""

    newsletter: Newsletter
    email: str
    token: str
    things: dict[str, str]


class House:
    """The stack with two tenants on it: mine calls, theirs is called for."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.ledger = Ledger(stack)
        self._tables = {database: self._tables_of(database) for database in DATABASES}
        self.mine, self.theirs = self._tenant(), self._tenant()
        addresses = {name: stack.ready[name] for name in DATABASES} | {"audit": stack.ready["member_center"]}
        self._channels = {name: grpc.insecure_channel(address) for name, address in addresses.items()}

    def _tenant(self) -> Tenant:
        stack, newsletter, email = self.stack, self.stack.make_newsletter(), unique_address()
        stack.import_members(newsletter, [email])
        token = stack.access_token(newsletter.client)
        body = {
            "list_id": newsletter.list_id,
            "subject": "Weekly",
            "body_text": "{{ preferences_url }}",
            "template": True,
        }
        job = stack.site.post_json("/api/send-jobs", body, token).answer["id"]
        stack.wait_for_job(job, token)
        mail = stack.mailbox.content(stack.mailbox.wait_for(email))["Text"]
        one_click = str(message_from_bytes(stack.mailbox.raw(stack.mailbox.wait_for(email)))["List-Unsubscribe"])
        member = {"list_id": newsletter.list_id, "email": unique_address()}
        confirm = stack.site.post_json("/newsletter/subscribe", member).answer
        leave = stack.site.post_json("/newsletter/unsubscribe-token", member).answer
        unsent = "SELECT 1 FROM confirmation_mails WHERE tenant_id = %s AND outcome IS NULL"
        # From here on nothing changes by itself.
        wait_until(
            lambda: not self.ledger.rows(unsent, newsletter.tenant_id, database="member_center"),
            "the confirmation mail",
        )
        (delivery,) = stack.site.get(f"/api/send-jobs/{job}/deliveries", token).answer["deliveries"]
        things = {
            "list": newsletter.list_id,
            "tenant": newsletter.tenant_id,
            "client": newsletter.client.client_id,
            "job": job,
            "delivery": delivery["delivery_id"],
            "confirm link": confirm["confirm_token"],
            "mailed confirm link": link_token(stack.mailbox.content(stack.mailbox.wait_for(member["email"]))["Text"]),
            "unsubscribe link": leave["unsubscribe_token"],
            "one-click link": link_token(one_click),
            "preferences link": link_token(mail),
        }
        return Tenant(newsletter, email, token, things)

    def request(self, rpc: MethodDescriptor, **changes: str) -> Message:
        """Makes a request of mine that would be carried out, with some fields changed."""
        client = self.mine.newsletter.client
        link = "preferences link" if rpc.name.endswith("PreferenceCenter") else "unsubscribe link"
        fields: dict[str, Any] = {
            **{"list_id": self.mine.newsletter.list_id, "email": self.mine.email, "id": self.mine.things["job"]},
            **{
                "token": self.mine.things[link],
                "preferences": Struct(),
                "grant_type": "client_credentials",
            },
            **{"client_id": client.client_id, "client_secret": client.client_secret, "subject": "s", "body_text": "t"},
            **{"states": [se.RETRIED_STATE_FAILED], "outcome": se.RESOLVED_OUTCOME_SENT},
            "delivery_ids": [self.mine.things["delivery"]],
        }
        known = rpc.input_type.fields_by_name
        for name, value in changes.items():
            fields[name] = [value] if known[name].is_repeated else value
        return GetMessageClass(rpc.input_type)(**{name: value for name, value in fields.items() if name in known})

    def grpc_answer(self, rpc: MethodDescriptor, request: Message) -> object:
        """Calls with my token, and returns all that the answer says but the request's id."""
        package = str(rpc.containing_service.full_name).split(".")[1]
        kind = self._channels[package].unary_stream if rpc.server_streaming else self._channels[package].unary_unary
        call: Any = kind(
            f"/{rpc.containing_service.full_name}/{rpc.name}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=GetMessageClass(rpc.output_type).FromString,
        )
        metadata = (("authorization", f"Bearer {self.mine.token}"),)
        try:
            answer = call(request, metadata=metadata, timeout=20)
            return str(next(answer) if rpc.server_streaming else answer)
        except grpc.RpcError as refused:
            error = from_rpc_error(refused)
            return error.status.name, error.message, error.violations, tuple(error.metadata.items()), error.retry_after

    def rest_answer(self, route: Route, request: Message) -> tuple[int, str]:
        """Does the same over REST."""
        value = json_writer(request.DESCRIPTOR)(request)
        said = {name: part for name, part in value.items() if part not in (None, "", [], "unspecified", False, 0)}
        headers = {header: said.pop(name) for name, header in route.header_fields.items() if name in said}
        path = route.template.format_map(said)
        said = {name: part for name, part in said.items() if name not in route.path_fields}
        if not route.face.oauth:
            headers["Authorization"] = f"Bearer {self.mine.token}"
        encoded = urllib.parse.urlencode(said)
        if not route.has_body:
            path, body = f"{path}?{encoded}", None
        else:
            kind = JSON if JSON in accepted_types(route) else accepted_types(route)[0]
            headers["Content-Type"], body = kind, json.dumps(said) if kind == JSON else encoded
        connection = HTTPConnection(urllib.parse.urlsplit(self.stack.http).netloc, timeout=30)
        connection.request(route.http_method, path, body, headers)
        response = connection.getresponse()
        answer = response.read().decode().replace(str(response.headers["x-request-id"]), "")
        connection.close()
        return response.status, answer

    def rows_of_theirs(self) -> list[tuple[Any, ...]]:
        """Returns every row of theirs in both databases."""
        found = []
        for database, tables in self._tables.items():
            queries = [f"SELECT '{table}', t::text FROM {table} t WHERE tenant_id = %s" for table in tables]
            tenant = [self.theirs.newsletter.tenant_id] * len(tables)
            found += self.ledger.rows(" UNION ALL ".join(queries) + " ORDER BY 1, 2", *tenant, database=database)
        return found

    def _tables_of(self, database: str) -> list[str]:
        query = (
            "SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' "
            "WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')"
        )
        return [table for (table,) in self.ledger.rows(query, database=database)]

    def close(self) -> None:
        for channel in self._channels.values():
            channel.close()

    @contextmanager
    def without_row_level_security(self) -> Iterator[None]:
        """Takes the fence of the databases away for a while: what is left is the statements' own."""
        fenced = "SELECT oid::regclass::text FROM pg_class WHERE relrowsecurity"
        tables = {name: [table for (table,) in self.ledger.rows(fenced, database=name)] for name in DATABASES}

        def switch(how: str) -> None:
            for database, names in tables.items():
                for table in names:
                    self.ledger.change(f"ALTER TABLE {table} {how} ROW LEVEL SECURITY", database)

        switch("DISABLE")
        try:
            yield
        finally:
            switch("ENABLE")


@pytest.fixture(scope="module", params=["all fences", "no row level security"])
def house(stack: Stack, request: pytest.FixtureRequest) -> Iterator[House]:
    made = House(stack)
    with made.without_row_level_security() if request.param == "no row level security" else nullcontext():
        yield made
    made.close()


def unknown(name: str) -> str:
    return "A" * 124 if name == "token" else str(uuid.uuid4())


def test_every_field_that_names_something_is_in_the_matrix() -> None:
    named = {
        field.name
        for rpc in PUBLIC
        for field in rpc.input_type.fields
        if field.name == "id" or field.name.endswith(("_id", "_ids", "token", "_key"))
    }
    assert named <= NAMES.keys() | OTHERS


@T1
@pytest.mark.parametrize(("rpc", "name"), CELLS, ids=[f"{rpc.name}.{name}" for rpc, name in CELLS])
def test_what_is_another_tenants_answers_like_what_is_not_there(house: House, rpc: MethodDescriptor, name: str) -> None:
    before = house.rows_of_theirs()
    foreign = [house.theirs.things[sort] for sort in NAMES[name]]
    values = [*foreign, unknown(name)]
    answers = [house.grpc_answer(rpc, house.request(rpc, **{name: value})) for value in values]
    assert len(set(answers)) == 1, answers
    assert isinstance(answers[0], tuple) or rpc.name in PASSES_OVER
    if route := ROUTES.get(rpc.name):
        over_rest = [house.rest_answer(route, house.request(rpc, **{name: value})) for value in values]
        assert len(set(over_rest)) == 1, over_rest
        assert over_rest[0][0] >= 400 or rpc.name in PASSES_OVER
    assert house.rows_of_theirs() == before


@T1
@pytest.mark.parametrize("rpc", INTERNAL, ids=lambda rpc: rpc.name)
def test_what_is_internal_is_closed_to_tenants(house: House, rpc: MethodDescriptor) -> None:
    changes = {name: house.theirs.things[NAMES[name][0]] for name in NAMES if name in rpc.input_type.fields_by_name}
    before = house.rows_of_theirs()
    answer = house.grpc_answer(rpc, house.request(rpc, **changes))
    assert isinstance(answer, tuple) and answer[0] == "SCOPE_MISSING", answer
    assert house.rows_of_theirs() == before


@pytest.mark.claim("T1", "another tenant's ids and unknown ones take the same time")
@pytest.mark.usefixtures("unlimited")
@pytest.mark.parametrize("rpc", TIMED, ids=lambda rpc: rpc.name)
def test_what_is_another_tenants_takes_as_long_as_what_is_not_there(house: House, rpc: MethodDescriptor) -> None:
    name = "id" if "id" in rpc.input_type.fields_by_name else "list_id"
    sort = NAMES[name][0]
    ratios: list[float] = []

    def is_alike() -> bool:
        # In turns, so that what else the machine does slows both. What is slower by itself is so in every round.
        taken: dict[str, list[float]] = {"theirs": [], "unknown": []}
        for _ in range(TURNS):
            for whose, value in (("theirs", house.theirs.things[sort]), ("unknown", unknown(name))):
                request = house.request(rpc, **{name: value})
                began = time.perf_counter()
                house.grpc_answer(rpc, request)
                taken[whose].append(time.perf_counter() - began)
        ratios.append(statistics.median(taken["theirs"]) / statistics.median(taken["unknown"]))
        return 0.8 <= ratios[-1] <= 1.25

    assert any(is_alike() for _ in range(4)), ratios


@T1
def test_another_tenants_page_token_shows_nothing_of_theirs(house: House) -> None:
    theirs = house.theirs
    site = house.stack.site
    body = {"list_id": theirs.newsletter.list_id, "subject": "Weekly", "body_text": "Hello"}
    site.post_json("/api/send-jobs", body, theirs.token)
    page = site.get("/api/send-jobs?page_size=1", theirs.token).answer
    assert page["next_page_token"]
    encoded = urllib.parse.quote(page["next_page_token"])
    answer = site.get(f"/api/send-jobs?page_size=200&page_token={encoded}", house.mine.token)
    assert {job["tenant_id"] for job in answer.answer.get("send_jobs", [])} <= {house.mine.newsletter.tenant_id}
    for thing in theirs.things.values():
        assert thing not in json.dumps(answer.answer)


@T1
def test_an_idempotency_key_of_another_tenants_is_not_known(house: House) -> None:
    rpc = next(rpc for rpc in PUBLIC if rpc.name == "CreateSendJob")
    key, made = str(uuid.uuid4()), []
    for tenant in (house.theirs, house.mine):
        request = house.request(rpc, idempotency_key=key, list_id=tenant.newsletter.list_id)
        call = se.CreateSendJobRequest.FromString(request.SerializeToString())
        connection = HTTPConnection(urllib.parse.urlsplit(house.stack.http).netloc, timeout=30)
        body = {"list_id": call.list_id, "subject": call.subject, "body_text": call.body_text}
        headers = {"Content-Type": JSON, "Authorization": f"Bearer {tenant.token}", "Idempotency-Key": key}
        connection.request("POST", "/api/send-jobs", json.dumps(body), headers)
        response = connection.getresponse()
        assert response.status == 201
        made.append(json.loads(response.read()))
        connection.close()
    assert made[0]["id"] != made[1]["id"]
    assert [job["tenant_id"] for job in made] == [each.newsletter.tenant_id for each in (house.theirs, house.mine)]
