"""Reads what several requests have in common, and writes what several answers have."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any
from uuid import UUID

from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from member_center.records.consent import Evidence, Status
from member_center.texts import one_line
from messmail.member_center.v1 import member_center_pb2 as pb
from servicekit.access import Caller, CallerKind
from servicekit.addresses import AddressError, EmailAddress, parse_address
from servicekit.errors import invalid_field
from servicekit.json_bounds import BoundsError, check_struct

_USER_AGENT_CHARACTERS = 500


def read_tenant(caller: Caller, named: str) -> UUID | None:
    """Returns the tenant that a caller is held to; None for an anonymous one who names none."""
    if caller.kind is CallerKind.ANONYMOUS:
        return UUID(named) if named else None
    return caller.acting_tenant(named)


def read_address(text: str) -> EmailAddress:
    """Reads an e-mail address; raises INVALID_FIELD."""
    try:
        return parse_address(text)
    except AddressError as error:
        raise invalid_field("email", error.problem) from None


def read_object(field: str, struct: Struct) -> Mapping[str, Any]:
    """Reads a JSON object; raises INVALID_FIELD beyond 4,096 bytes or 4 levels."""
    try:
        return check_struct(struct)
    except BoundsError as error:
        raise invalid_field(field, error.problem) from None


def read_evidence(caller: Caller, client: pb.CallerEvidence | None) -> Evidence:
    """Reads who acted: of an anonymous call the caller itself, else whoever the site says stands behind it."""
    if caller.kind is CallerKind.ANONYMOUS:
        if client is not None:
            raise invalid_field("client", "send it together with an access token, or leave it out")
        return Evidence(ip=caller.ip[:45], user_agent=one_line(caller.user_agent, _USER_AGENT_CHARACTERS))
    if client is None:
        return Evidence(caller.client_id)
    if client.ip:
        try:
            ip_address(client.ip)
        except ValueError:
            raise invalid_field("client.ip", "write the person's IPv4 or IPv6 address") from None
    return Evidence(
        caller.client_id,
        client.ip,
        one_line(client.user_agent, _USER_AGENT_CHARACTERS),
        one_line(client.source_url, len(client.source_url)),
    )


def read_text(field: str, text: str) -> str:
    """Reads a text that is stored; raises INVALID_FIELD for what PostgreSQL keeps no text with."""
    if "\0" in text:
        raise invalid_field(field, "leave out the NUL character")
    return text


def read_proof(text: str) -> str:
    """Reads how a consent was proven, empty where it was not; raises INVALID_FIELD for mere white space, too."""
    if text and not text.strip():
        raise invalid_field("evidence", "say how the consent was proven, or leave it out")
    return read_text("evidence", text)


def status_number(status: Status) -> pb.SubscriptionStatus.ValueType:
    """Returns the contract's value of a state."""
    return pb.SubscriptionStatus.Value(f"SUBSCRIPTION_STATUS_{status.name}")


def timestamp(moment: datetime) -> Timestamp:
    """Writes a time."""
    written = Timestamp()
    written.FromDatetime(moment)
    return written


def moment(written: Timestamp) -> datetime:
    """Reads a time; raises INVALID_FIELD beyond the years 1 to 9999."""
    try:
        return written.ToDatetime(UTC)
    except ValueError:
        raise invalid_field("as_of", "write a time between the years 1 and 9999") from None


def struct(value: Mapping[str, Any]) -> Struct:
    """Writes a JSON object."""
    written = Struct()
    written.update(value)
    return written
