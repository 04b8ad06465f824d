"""Member Center as a process of its own: it says when it is ready, logs no secret, and stops when told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from messmail.member_center.v1 import member_center_pb2 as pb
from messmail.member_center.v1 import member_center_pb2_grpc
from servicekit.clients import AccessTokens, open_internal_channel
from tests.member_center_fixtures import MemberCenter, reason_of, unique_address

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Process:
    """A second Member Center beside the fixture's, on the same database."""

    process: subprocess.Popen[bytes]
    log: Path

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def address(self) -> str:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self.process.poll() is None:
            for event in self.events():
                if event["event"] == "ready":
                    return str(event["address"])
            time.sleep(0.05)
        raise AssertionError(f"it did not start: {self.log.read_text()}")


@pytest.fixture
def process(member_center: MemberCenter, tmp_path: Path) -> Iterator[Process]:
    settings = member_center.settings
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "generated")]),
        "MEMBER_CENTER_LISTEN": "127.0.0.1:0",
        "MEMBER_CENTER_DATABASE_URL": settings.member_center_database_url.get_secret_value(),
        "BROKER_URL": settings.broker_url.get_secret_value(),
        "PUBLIC_BASE_URL": settings.public_base_url,
        "MEMBER_CENTER_MASTER_KEYS": settings.member_center_master_keys.get_secret_value(),
    }
    log = tmp_path / "log"
    with log.open("wb") as stream:
        started = subprocess.Popen(
            [sys.executable, "-m", "messmail_cli", "serve", "member-center"], env=environment, stderr=stream
        )
    yield Process(started, log)
    started.kill()
    started.wait(30)


def test_it_serves_what_another_process_made_and_stops_when_told(member_center: MemberCenter, process: Process) -> None:
    newsletter, email = member_center.make_newsletter(), unique_address("findme")
    client = member_center.make_client(newsletter.tenant_id)
    token = member_center.subscribe(newsletter.list_id, email)
    address = process.address()
    tokens = AccessTokens(address, client.client_id, client.client_secret)
    channel = open_internal_channel(address, tokens)
    site = member_center_pb2_grpc.MemberCenterStub(channel)
    site.ConfirmSubscription(pb.ConfirmSubscriptionRequest(token=token))
    assert len(member_center.members(newsletter)) == 1
    spoilt = pb.SubscribeRequest(list_id=newsletter.list_id, email=f"{email}\r\nBcc: x@evil.example")
    assert reason_of(lambda: site.Subscribe(spoilt)) == "INVALID_FIELD"
    assert reason_of(lambda: site.Unsubscribe(pb.UnsubscribeRequest(token=token))) == "LINK_INVALID"
    channel.close()

    process.process.send_signal(signal.SIGTERM)
    assert process.process.wait(30) == 0
    events = [event["event"] for event in process.events()]
    assert events[0] == "ready"
    assert events[-1] == "stopped"
    assert "audit.token_issued" in events
    text = process.log.read_text()
    for secret in ("findme", "evil", token, client.client_secret):
        assert secret not in text


def test_a_call_with_a_bad_token_is_refused_even_where_none_is_needed(member_center: MemberCenter) -> None:
    newsletter = member_center.make_newsletter()
    request = pb.SubscribeRequest(list_id=newsletter.list_id, email=unique_address())
    metadata = (("authorization", "Bearer eyJhbGciOiJub25lIn0.e30."),)
    with pytest.raises(grpc.RpcError):
        member_center.public.Subscribe(request, metadata=metadata)
    assert member_center.rows("SELECT 1 FROM subscriptions WHERE list_id = %s", newsletter.list_id) == []
