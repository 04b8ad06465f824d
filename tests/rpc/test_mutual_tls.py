"""Mutual TLS: who has no certificate of the installation, or one with another name, calls nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.fernet import Fernet
from google.protobuf.descriptor import MethodDescriptor
from pydantic import ValidationError

from member_center import wiring as member_center_wiring
from messmail.audit.v1 import audit_pb2
from messmail.member_center.v1 import member_center_admin_pb2, member_center_feed_pb2, member_center_pb2
from messmail.send_engine.v1 import send_engine_admin_pb2, send_engine_pb2
from send_engine import wiring as send_engine_wiring
from servicekit.clients import open_channel
from servicekit.errors import Reason, from_rpc_error
from servicekit.mutual_tls import MutualTls, MutualTlsSettings
from servicekit.server import RunningServer
from tests.certificates import Authority
from tests.member_center_fixtures import Engines, MemberCenter, unique_address
from tests.rpc.gateway_under_test import ROOT, ready_address
from tests.send_engine_fixtures import Sink, wait_until

ALLOWED_NAMES = "gateway,send-engine,worker"
MEMBER_CENTER = (member_center_pb2, member_center_admin_pb2, member_center_feed_pb2, audit_pb2)
SEND_ENGINE = (send_engine_pb2, send_engine_admin_pb2, audit_pb2)


@dataclass
class Secured:
    """Both services, which admit the processes of the installation only, and what other processes of it need."""

    member_center: RunningServer
    send_engine: RunningServer
    authority: Authority
    settings: dict[str, str]
    credentials: dict[str, dict[str, str]]

    def methods(self) -> Iterator[tuple[str, MethodDescriptor]]:
        """Every RPC, with the address that serves it."""
        for server, contracts in ((self.member_center, MEMBER_CENTER), (self.send_engine, SEND_ENGINE)):
            for contract in contracts:
                for service in contract.DESCRIPTOR.services_by_name.values():
                    for method in service.methods:
                        yield server.address, method


@pytest.fixture
def secured(member_center: MemberCenter, engines: Engines, tmp_path: Path) -> Iterator[Secured]:
    authority = Authority(tmp_path / "installation")
    plain = member_center.settings
    first = member_center_wiring.start(
        plain.model_copy(
            update={
                **{name: Path(value) for name, value in authority.certify("member-center").items()},
                "messmail_tls_allowed_names": tuple(ALLOWED_NAMES.split(",")),
            }
        )
    )
    owner_url = engines.postgres.create_database(f"send_engine_{uuid.uuid4().hex[:8]}")
    settings = {
        "send_engine_database_url": send_engine_wiring.migrate(owner_url, "of@the/app:role"),
        "broker_url": engines.valkey.url,
        "send_engine_master_keys": Fernet.generate_key().decode(),
        "public_base_url": plain.public_base_url,
        "member_center_address": first.address,
        "send_engine_client_id": member_center.credentials["send_engine"]["client_id"],
        "send_engine_client_secret": member_center.credentials["send_engine"]["client_secret"],
        "messmail_tls_allowed_names": ALLOWED_NAMES,
    }
    second = send_engine_wiring.start(
        send_engine_wiring.ServiceSettings.model_validate(
            {**settings, **authority.certify("send-engine"), "send_engine_listen": "127.0.0.1:0"}
        )
    )
    yield Secured(first, second, authority, settings, member_center.credentials)
    second.stop(0)
    first.stop(0)


def tls(authority: Authority, name: str) -> MutualTls:
    """What a process of this name speaks TLS with."""
    found = MutualTlsSettings.model_validate(authority.certify(name)).mutual_tls
    assert found is not None
    return found


def refused(address: str, method: MethodDescriptor, own: MutualTls | None) -> grpc.RpcError:
    """Calls an RPC, and returns how it was refused."""
    with open_channel(address, own) as channel:
        path = f"/{method.containing_service.full_name}/{method.name}"
        kind = channel.unary_stream if method.server_streaming else channel.unary_unary
        call: Any = kind(path, request_serializer=bytes, response_deserializer=bytes)
        with pytest.raises(grpc.RpcError) as error:
            answer = call(b"", timeout=10)
            list(answer)
        return error.value


@pytest.mark.claim("I12", "methods refused without a certificate, with another authority's, with a wrong name")
def test_no_method_answers_a_caller_without_an_allowed_certificate(secured: Secured, tmp_path: Path) -> None:
    elsewhere = tls(Authority(tmp_path / "elsewhere", "another authority"), "gateway")
    stranger = tls(secured.authority, "newcomer")
    for address, method in secured.methods():
        for own in (None, elsewhere):
            assert refused(address, method, own).code() is grpc.StatusCode.UNAVAILABLE, method.full_name
        assert from_rpc_error(refused(address, method, stranger)).reason == Reason.ERROR_REASON_PEER_NOT_ALLOWED


def test_a_certificate_stands_in_for_no_access_token(secured: Secured) -> None:
    gateway = tls(secured.authority, "gateway")
    reasons = {
        from_rpc_error(refused(address, method, gateway)).reason
        for address, method in secured.methods()
        if "Admin" in method.containing_service.name or "Feed" in method.containing_service.name
    }
    assert reasons == {Reason.ERROR_REASON_TOKEN_MISSING}


@contextmanager
def gateway(secured: Secured, log: Path) -> Iterator[str]:
    """Runs a gateway of the installation, and returns its URL."""
    environment = {
        **os.environ,
        **{name.upper(): value for name, value in secured.authority.certify("gateway").items()},
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "generated")]),
        "GATEWAY_LISTEN": "127.0.0.1:0",
        "MEMBER_CENTER_ADDRESS": secured.member_center.address,
        "SEND_ENGINE_ADDRESS": secured.send_engine.address,
        "GATEWAY_CLIENT_ID": secured.credentials["gateway"]["client_id"],
        "GATEWAY_CLIENT_SECRET": secured.credentials["gateway"]["client_secret"],
        "PUBLIC_BASE_URL": secured.settings["public_base_url"],
    }
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-c", "from gateway.wiring import serve; serve()"], env=environment, stderr=stream
        )
    try:
        yield f"http://{ready_address(process, log)}"
    finally:
        process.terminate()
        process.wait(30)


def test_a_subscription_goes_through_an_installation_that_speaks_nothing_else(
    secured: Secured, member_center: MemberCenter, tmp_path: Path
) -> None:
    newsletter, reader, sink = member_center.make_newsletter(), unique_address(), Sink()
    worker = send_engine_wiring.RunningWorker(
        send_engine_wiring.WorkerSettings.model_validate(
            {
                **secured.settings,
                **secured.authority.certify("worker"),
                "send_engine_smtp_url": f"smtp://{sink.address}",
            }
        )
    )
    try:
        with gateway(secured, tmp_path / "gateway.log") as url:
            body = json.dumps({"list_id": newsletter.list_id, "email": reader}).encode()
            request = urllib.request.Request(
                f"{url}/newsletter/subscribe", body, {"Content-Type": "application/json"}, method="POST"
            )
            with urllib.request.urlopen(request, timeout=10) as answer:
                token = json.load(answer)["confirm_token"]
            wait_until(lambda: sink.recipients() == [reader], "the confirmation mail")
            with urllib.request.urlopen(f"{url}/newsletter/confirm?token={token}", timeout=10) as answer:
                assert json.load(answer)["status"] == "confirmed"
            with urllib.request.urlopen(f"{url}/readyz", timeout=10) as answer:
                assert set(json.load(answer)["backends"].values()) == {"serving"}
    finally:
        worker.stop()
        sink.stop()
    assert len(member_center.members(newsletter)) == 1


def test_a_renewed_certificate_is_used_without_a_restart(secured: Secured, tmp_path: Path) -> None:
    heir = Authority(tmp_path / "heir", "heir")
    address, method = next(iter(secured.methods()))
    mine = heir.certify("gateway")
    own = MutualTlsSettings.model_validate(mine).mutual_tls
    assert refused(address, method, own).code() is grpc.StatusCode.UNAVAILABLE
    renewed = heir.certify("member-center")
    installation = tmp_path / "installation"
    for old, new in (
        ("member-center.key", "messmail_tls_key"),
        ("member-center.pem", "messmail_tls_certificate"),
        ("authority.pem", "messmail_tls_authority"),
    ):
        (installation / old).write_bytes(Path(renewed[new]).read_bytes())
    assert refused(address, method, own).code() is not grpc.StatusCode.UNAVAILABLE


def test_a_part_of_the_settings_is_none() -> None:
    with pytest.raises(ValidationError, match="belong together"):
        MutualTlsSettings.model_validate({"messmail_tls_certificate": "own.pem"})


def test_a_server_that_would_admit_nobody_does_not_start(member_center: MemberCenter, tmp_path: Path) -> None:
    files = {name: Path(value) for name, value in Authority(tmp_path).certify("member-center").items()}
    with pytest.raises(RuntimeError, match="MESSMAIL_TLS_ALLOWED_NAMES"):
        member_center_wiring.start(member_center.settings.model_copy(update=files))
