"""What the contract itself must keep, walked from its descriptors."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.api import annotations_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.rpc import code_pb2

from buf.validate import validate_pb2
from member_center.lists import MEMBERS_SCOPE
from member_center.oauth import INTERNAL_SCOPES, TENANT_SCOPES
from messmail.audit.v1 import audit_pb2
from messmail.errors.v1 import errors_pb2
from messmail.member_center.v1 import member_center_admin_pb2, member_center_feed_pb2, member_center_pb2
from messmail.options.v1 import options_pb2
from messmail.send_engine.v1 import send_engine_admin_pb2, send_engine_pb2
from servicekit.access import access_of
from servicekit.errors import reason_status

ROOT = Path(__file__).resolve().parents[2]
FILES = [
    member_center_pb2,
    member_center_admin_pb2,
    member_center_feed_pb2,
    send_engine_pb2,
    send_engine_admin_pb2,
    audit_pb2,
]
SERVICES = [service for file in FILES for service in file.DESCRIPTOR.services_by_name.values()]
METHODS = [method for service in SERVICES for method in service.methods]
REASONS = [value for value in errors_pb2.ErrorReason.DESCRIPTOR.values if value.number]


def test_the_services_have_the_names_that_callers_know() -> None:
    names = {service.full_name for service in SERVICES}
    assert {"messmail.member_center.v1.MemberCenter", "messmail.send_engine.v1.SendEngine"} <= names
    assert len(METHODS) > 20


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_rpc_says_who_may_call_it(method: MethodDescriptor) -> None:
    access = access_of(method)
    assert access is not None, f"add (messmail.options.v1.access) to {method.full_name}"
    if method.containing_service.name.endswith(("Admin", "Feed")):
        assert not access.public and not access.tenant_scope


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_rpc_has_a_route_or_is_internal(method: MethodDescriptor) -> None:
    face = method.GetOptions().Extensions[options_pb2.http_face]
    routed = bool(method.GetOptions().Extensions[annotations_pb2.http].WhichOneof("pattern"))
    assert routed != face.internal, f"give {method.full_name} a google.api.http route, or http_face {{internal: true}}"


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_what_an_internal_caller_may_do_for_a_tenant_names_the_tenant(method: MethodDescriptor) -> None:
    access = access_of(method)
    assert access is not None
    if access.tenant_scope and access.internal_scope:
        assert "tenant_id" in method.input_type.fields_by_name


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_scope_is_one_that_a_client_can_have(method: MethodDescriptor) -> None:
    access = access_of(method)
    assert access is not None
    assert {access.tenant_scope, access.list_scope} - {""} <= set(TENANT_SCOPES)
    assert {access.internal_scope} - {""} <= set(INTERNAL_SCOPES)
    if access.list_scope:
        assert access.list_scope == MEMBERS_SCOPE
        assert access.public and "list_id" in method.input_type.fields_by_name


def fields_of(message: Descriptor) -> list[FieldDescriptor]:
    """Returns the fields of a message of ours, and of those within it."""
    found = []
    for field in message.fields:
        found.append(field)
        if field.message_type is not None and field.message_type.file.package.startswith("messmail."):
            found += fields_of(field.message_type)
    return found


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_no_number_is_larger_than_the_database_can_compare(method: MethodDescriptor) -> None:
    for field in fields_of(method.input_type):
        if field.cpp_type == FieldDescriptor.CPPTYPE_UINT64:
            rules = field.GetOptions().Extensions[validate_pb2.field].uint64
            assert 0 < rules.lte <= 2**63 - 1, f"{field.full_name}: a bigint ends at {2**63 - 1}"


@pytest.mark.parametrize("value", REASONS, ids=lambda value: value.name)
def test_every_error_reason_has_its_statuses_and_is_documented(value: object) -> None:
    status = reason_status(value.number)  # type: ignore[attr-defined]
    assert status.grpc_code.value[0] != code_pb2.OK
    assert 400 <= status.http < 600
    assert status.title.endswith(".")
    documented = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    assert f"| `{status.name}` | {status.http} | {status.grpc_code.name} |" in documented, "run `make generate`"


def test_secrets_and_addresses_are_marked_for_redaction() -> None:
    secret_names = {"email", "address", "client_secret", "access_token", "confirm_token", "unsubscribe_token"}
    unmarked = [
        field.full_name
        for file in FILES
        for message in file.DESCRIPTOR.message_types_by_name.values()
        for field in message.fields
        if field.name in secret_names or field.name.endswith("_url") or field.name == "token"
        if field.name != "source_url" and not field.GetOptions().debug_redact
    ]
    assert unmarked == []
