"""The gateway as a process: readiness, its own token, its log, and how it ends."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from gateway.wiring import GatewaySettings, serve
from tests.rpc.gateway_under_test import (
    JOB,
    KEYS,
    LIST,
    GatewayUnderTest,
    access_token,
    logged,
    running_gateway,
)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def gateway(log: Path) -> Iterator[GatewayUnderTest]:
    with running_gateway(log) as running:
        yield running


def subscribe(gateway: GatewayUnderTest) -> int:
    return gateway.post_json("/newsletter/subscribe", {"list_id": LIST, "email": "anna@example.com"}).status


def test_one_token_of_the_gateway_serves_many_calls(gateway: GatewayUnderTest) -> None:
    assert [subscribe(gateway) for _ in range(5)] == [200] * 5
    assert gateway.seen.tokens_issued == 1


def test_a_refused_token_of_the_gateway_is_fetched_anew(
    gateway: GatewayUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert subscribe(gateway) == 200
    monkeypatch.setattr(KEYS, "kid", "second")
    # Right after it was fetched a token is kept, so that callers with bad tokens cannot make the gateway fetch.
    assert subscribe(gateway) == 503
    wait_until(lambda: subscribe(gateway) == 200, seconds=10)
    assert gateway.seen.tokens_issued == 2


def test_bad_tokens_of_callers_do_not_make_the_gateway_fetch(gateway: GatewayUnderTest) -> None:
    for _ in range(5):
        assert gateway.call("GET", f"/api/send-jobs/{JOB}", Authorization="Bearer nonsense").status == 401
    assert gateway.seen.tokens_issued == 1


def test_readiness_names_the_service_that_does_not_answer(gateway: GatewayUnderTest) -> None:
    assert gateway.call("GET", "/healthz").json == {"status": "ok"}
    ready = gateway.call("GET", "/readyz")
    assert (ready.status, ready.json["backends"]) == (200, {"member-center": "serving", "send-engine": "serving"})
    gateway.services[1].stop(0)
    unready = gateway.call("GET", "/readyz")
    assert (unready.status, unready.json["backends"]) == (
        503,
        {"member-center": "serving", "send-engine": "unavailable"},
    )
    assert gateway.call("GET", "/healthz").status == 200


def test_a_service_that_is_down_is_a_503_with_the_time_to_wait(gateway: GatewayUnderTest) -> None:
    token = access_token("newsletter:send.read")
    gateway.services[1].stop(0)
    answer = gateway.call("GET", f"/api/send-jobs/{JOB}", Authorization=f"Bearer {token}")
    assert (answer.status, answer.json["reason"], answer.headers["retry-after"]) == (503, "UNAVAILABLE", "1")


def test_without_its_own_token_the_gateway_serves_only_who_is_known_by_another(gateway: GatewayUnderTest) -> None:
    gateway.services[0].stop(0)
    token = access_token("newsletter:send.read")
    known = gateway.call("GET", f"/api/send-jobs/{JOB}", Authorization=f"Bearer {token}")
    assert (known.status, gateway.seen.callers[-1].ip) == (200, "127.0.0.1")
    assert subscribe(gateway) == 503


def test_one_gateway_may_serve_one_service(log: Path) -> None:
    with running_gateway(log, GATEWAY_SERVICES="send-engine") as gateway:
        assert gateway.call("GET", "/newsletter/preferences").status == 404
        assert gateway.call("GET", "/api/send-jobs").status == 401
        assert gateway.call("GET", "/readyz").json["backends"] == {"send-engine": "serving"}
        assert "/newsletter/subscribe" not in gateway.call("GET", "/openapi.json").json["paths"]


def test_a_trusted_proxy_tells_whom_it_forwards(log: Path) -> None:
    with running_gateway(log, GATEWAY_TRUSTED_PROXIES="127.0.0.0/8") as gateway:
        body = {"list_id": LIST, "email": "anna@example.com"}
        gateway.post_json("/newsletter/subscribe", body, X_Forwarded_For="198.51.100.1, 203.0.113.9")
        assert gateway.seen.callers[-1].ip == "203.0.113.9"


def test_requests_are_logged_by_their_template_and_nothing_of_them_is(gateway: GatewayUnderTest, log: Path) -> None:
    gateway.call("GET", f"/newsletter/confirm?token=very-secret&email={LIST}", X_Request_Id="request-one")
    gateway.call("GET", f"/api/send-jobs/{JOB}", Authorization="Bearer very-secret", X_Request_Id="request-two")
    gateway.call("GET", "/nothing/very-secret", X_Request_Id="request-three")
    wait_until(lambda: len(requests(log)) == 3)
    assert [(line["method"], line["route"], line["status"], line["request_id"]) for line in requests(log)] == [
        ("GET", "/newsletter/confirm", 200, "request-one"),
        ("GET", "/api/send-jobs/{id}", 401, "request-two"),
        ("GET", "-", 404, "request-three"),
    ]
    assert "very-secret" not in log.read_text() and JOB not in log.read_text()


def test_a_gateway_stops_cleanly_on_sigterm(gateway: GatewayUnderTest, log: Path) -> None:
    assert subscribe(gateway) == 200
    gateway.process.terminate()
    assert gateway.process.wait(20) == 0
    assert logged(log)[-1]["event"] == "stopped"


SECRET = "a-secret-as-long-as-those-that-are-made-here"


def test_an_address_that_others_can_reach_needs_a_proxy_or_a_word() -> None:
    settings = GatewaySettings(
        gateway_listen="0.0.0.0:0",
        member_center_address="127.0.0.1:1",
        send_engine_address="127.0.0.1:1",
        gateway_client_id="id",
        gateway_client_secret=SECRET,
        public_base_url="http://127.0.0.1",
    )
    with pytest.raises(RuntimeError, match="GATEWAY_TRUSTED_PROXIES"):
        serve(settings)


@pytest.mark.parametrize("missing", ["member_center_address", "send_engine_address"])
def test_a_gateway_without_the_address_of_a_service_is_not_started(missing: str) -> None:
    addresses = {"member_center_address": "127.0.0.1:1", "send_engine_address": "127.0.0.1:1", missing: ""}
    others = {"gateway_client_id": "id", "gateway_client_secret": "secret", "public_base_url": "http://127.0.0.1"}
    with pytest.raises(ValidationError) as refused:
        GatewaySettings.model_validate(addresses | others)
    assert [error["loc"] for error in refused.value.errors()] == [(missing,)]
    assert GatewaySettings.model_validate(addresses | others | {
        "member_center_address": "127.0.0.1:1", "gateway_services": "member-center"
    })  # fmt: skip


def test_a_taken_port_ends_the_process(gateway: GatewayUnderTest) -> None:
    settings = f"""
from gateway.wiring import GatewaySettings, serve
serve(GatewaySettings(gateway_listen="{gateway.host}:{gateway.port}", member_center_address="127.0.0.1:1",
      send_engine_address="127.0.0.1:1", gateway_client_id="id", gateway_client_secret="{SECRET}", public_base_url="http://127.0.0.1"))
"""
    root = Path(__file__).resolve().parents[2]
    finished = subprocess.run(
        [sys.executable, "-c", settings],
        env={"PYTHONPATH": f"{root}:{root / 'generated'}"},
        capture_output=True,
        timeout=30,
    )
    assert finished.returncode != 0
    assert b"Traceback" not in finished.stderr


def requests(log: Path) -> list[dict[str, object]]:
    return [event for event in logged(log) if event["event"] == "request"]


def wait_until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
