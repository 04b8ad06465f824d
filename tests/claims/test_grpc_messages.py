"""Whatever message a unary RPC is sent, by whoever may call it: an answer or a refusal, never a fault."""

from __future__ import annotations

import os
import random
import uuid
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from messmail.audit.v1 import audit_pb2
from messmail.member_center.v1 import member_center_admin_pb2, member_center_feed_pb2, member_center_pb2
from messmail.send_engine.v1 import send_engine_admin_pb2, send_engine_pb2
from servicekit.errors import MessmailError, Reason, from_rpc_error
from tests.claims_table import ClaimRow, cases, hand_in_claim
from tests.member_center_fixtures import MemberCenter
from tests.rules.test_gateway_json import DURATIONS, STRUCTS, TEXT, TIMESTAMPS
from tests.send_engine_fixtures import Installation, send_engine, send_engine_engines

__all__ = ["send_engine", "send_engine_engines"]

FULL = 10_000
MEMBER_CENTER = [
    member_center_pb2.DESCRIPTOR.services_by_name["MemberCenter"],
    member_center_admin_pb2.DESCRIPTOR.services_by_name["MemberCenterAdmin"],
    member_center_feed_pb2.DESCRIPTOR.services_by_name["MemberCenterFeed"],
    audit_pb2.DESCRIPTOR.services_by_name["AuditLog"],
]
SEND_ENGINE = [
    send_engine_pb2.DESCRIPTOR.services_by_name["SendEngine"],
    send_engine_admin_pb2.DESCRIPTOR.services_by_name["SendEngineAdmin"],
    audit_pb2.DESCRIPTOR.services_by_name["AuditLog"],
]
ALL = [rpc for service in (*MEMBER_CENTER, *SEND_ENGINE) for rpc in service.methods if not rpc.server_streaming]
# Of a message without fields there is one only.
PER_RPC = max(2, -(-cases(FULL) // sum(1 for rpc in ALL if rpc.input_type.fields)))
WELL_KNOWN = {
    "google.protobuf.Struct": STRUCTS,
    "google.protobuf.Timestamp": TIMESTAMPS,
    "google.protobuf.Duration": DURATIONS,
}
NUMBERS = {
    FieldDescriptor.TYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.TYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.TYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_INT64: (-(2**63), 2**63 - 1),
}


def messages(descriptor: Descriptor, known: dict[str, list[str]]) -> st.SearchStrategy[Message]:
    """Messages of a type: each field left out, or given something of its type, or something that exists."""
    fields = {field.name: values(field, known) for field in descriptor.fields}
    return st.fixed_dictionaries({}, optional=fields).map(lambda given: GetMessageClass(descriptor)(**given))


def values(field: FieldDescriptor, known: dict[str, list[str]]) -> st.SearchStrategy[Any]:
    one: st.SearchStrategy[Any]
    if field.message_type is not None:
        name = field.message_type.full_name
        one = WELL_KNOWN[name] if name in WELL_KNOWN else messages(field.message_type, known)
    elif field.enum_type is not None:
        one = st.sampled_from([value.number for value in field.enum_type.values]) | st.integers(-3, 300)
    elif field.type == FieldDescriptor.TYPE_STRING:
        one = TEXT | st.uuids().map(str) | st.sampled_from(known.get(field.name, ["ann@example.com"]))
    elif field.type == FieldDescriptor.TYPE_BYTES:
        one = st.binary(max_size=40)
    elif field.type == FieldDescriptor.TYPE_BOOL:
        one = st.booleans()
    elif field.type in NUMBERS:
        one = st.integers(*NUMBERS[field.type]) | st.integers(0, 3)
    else:
        one = st.floats(width=32) | st.integers(0, 3).map(float)
    return st.lists(one, max_size=3) if field.is_repeated else one


def with_nul(descriptor: Descriptor, known: dict[str, list[str]]) -> Iterator[Message]:
    """For each text of a message, two with a NUL in it, which PostgreSQL does not store: one good else, one empty."""
    texts = [field.name for field in descriptor.fields if field.type == FieldDescriptor.TYPE_STRING]
    texts = [name for name in texts if not descriptor.fields_by_name[name].is_repeated]
    good = {name: known[name][0] for name in texts if name in known}
    for name in texts:
        for others in (good, {}):
            yield GetMessageClass(descriptor)(**others | {name: f"{good.get(name, '')}\0"})


class Trial:
    """Sends generated messages, and keeps what should not be answered."""

    def __init__(self, known: dict[str, list[str]]) -> None:
        self.known = known
        self.run = 0
        self.answers: Counter[str] = Counter()
        self.faults: list[str] = []

    def try_all(self, services: list[ServiceDescriptor], channel: grpc.Channel, metadata: Any = ()) -> None:
        for service in services:
            for rpc in service.methods:
                if not rpc.server_streaming:
                    self._try(rpc, channel, metadata)

    def _try(self, rpc: MethodDescriptor, channel: grpc.Channel, metadata: Any) -> None:
        call: Any = channel.unary_unary(
            f"/{rpc.containing_service.full_name}/{rpc.name}",
            request_serializer=GetMessageClass(rpc.input_type).SerializeToString,
            response_deserializer=GetMessageClass(rpc.output_type).FromString,
        )
        for message in with_nul(rpc.input_type, self.known):
            self._judge(rpc, call, message, metadata)
        number = int(os.environ.get("MESSMAIL_SEED", str(random.SystemRandom().randrange(2**32))))
        print(f"{rpc.full_name}: seed {number}")

        @seed(number)
        @settings(
            max_examples=PER_RPC,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(messages(rpc.input_type, self.known))
        def holds(message: Message) -> None:
            # Limits of the installation would keep the rest of the messages out.
            if rpc.name.startswith("Set") and not getattr(message, "tenant_id", ""):
                message.tenant_id = self.known["tenant_id"][0]  # type: ignore[attr-defined]
            self._judge(rpc, call, message, metadata)

        holds()

    def _judge(self, rpc: MethodDescriptor, call: Any, message: Message, metadata: Any) -> None:
        self.run += 1
        try:
            call(message, metadata=metadata, timeout=30)
            self.answers["OK"] += 1
        except (grpc.RpcError, MessmailError) as refused:
            error = refused if isinstance(refused, MessmailError) else from_rpc_error(refused)
            self.answers[error.status.name] += 1
            if error.reason == Reason.ERROR_REASON_INTERNAL or (
                isinstance(refused, grpc.RpcError) and refused.code() is grpc.StatusCode.UNKNOWN
            ):
                self.faults.append(f"{rpc.full_name}: {message}")


def in_a_day() -> Timestamp:
    moment = Timestamp()
    moment.FromDatetime(datetime.now(UTC) + timedelta(days=1))
    return moment


def judge(trial: Trial, record_property: object) -> None:
    """Hands in what was seen, and fails where there was a fault."""
    print(trial.answers)
    what = "generated messages to every unary RPC: an answer or a refusal of the contract"
    hand_in_claim(record_property, ClaimRow("I9", what, FULL, trial.run, len(trial.faults)))
    assert trial.faults == []
    # Not everything was stopped at the door.
    assert trial.answers["OK"] > 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_message_is_answered_with_a_fault_by_member_center(
    member_center: MemberCenter, record_property: object
) -> None:
    newsletter = member_center.make_newsletter()
    email = "ann@example.com"
    trial = Trial(
        {
            "tenant_id": [newsletter.tenant_id],
            "list_id": [newsletter.list_id],
            "email": [email],
            "client_id": [member_center.make_client(newsletter.tenant_id).client_id],
            "token": [
                member_center.subscribe(newsletter.list_id, email),
                member_center.unsubscribe_token(newsletter.list_id, email),
            ],
            "grant_type": ["client_credentials"],
            "from": ["Acme <news@acme.example>"],
        }
    )
    public, admin, feed, audit = MEMBER_CENTER
    trial.try_all([public], grpc.insecure_channel(member_center.server.address))
    trial.try_all([admin, audit], member_center.channel_of("admin"))
    trial.try_all([feed], member_center.channel_of("send_engine"))
    judge(trial, record_property)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_message_is_answered_with_a_fault_by_send_engine(send_engine: Installation, record_property: object) -> None:
    newsletter = send_engine.member_center.newsletter(people=3)
    job = send_engine.create(newsletter, scheduled_at=in_a_day())
    trial = Trial(
        {
            "tenant_id": [newsletter.tenant_id],
            "list_id": [newsletter.list_id],
            "id": [job.id],
            "delivery_ids": [str(uuid.uuid4())],
            "smtp_url": ["smtp://127.0.0.1:25", "smtps://user:secret@mail.example"],
        }
    )
    public, admin, audit = SEND_ENGINE
    trial.try_all([public], send_engine.channel, send_engine.credentials(newsletter.tenant_id))
    token = send_engine.member_center.token("internal:send internal:admin", None)
    trial.try_all([admin, audit], send_engine.channel, (("authorization", f"Bearer {token}"),))
    judge(trial, record_property)
