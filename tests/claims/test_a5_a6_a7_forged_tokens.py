"""Claims A5, A6 and A7: no forged access token is accepted, over REST or by either service itself."""

from __future__ import annotations

import socket
import threading
import time
import tracemalloc
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import grpc
import pytest

from messmail.member_center.v1 import member_center_pb2, member_center_pb2_grpc
from messmail.send_engine.v1 import send_engine_pb2, send_engine_pb2_grpc
from servicekit.errors import MessmailError, Reason, from_rpc_error
from servicekit.tokens import MAX_TOKEN_BYTES, TokenVerifier
from tests.claims_table import ClaimRow, hand_in_claim
from tests.forgeries import LEEWAY, Forger
from tests.issuer_key import forger_of_stack
from tests.stack import Newsletter, Stack

pytestmark = pytest.mark.timeout(300)

LEAST = 150
# What is refused by gRPC or the gateway before anybody looks at it.
TOO_LARGE = 4096


class Trap:
    """Listens at an address that forged tokens name, and counts who comes."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.visits = 0
        threading.Thread(target=self._count, daemon=True).start()

    def _count(self) -> None:
        while True:
            try:
                self._socket.accept()[0].close()
            except OSError:
                return
            self.visits += 1

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(scope="module")
def trap() -> Iterator[Trap]:
    made = Trap()
    yield made
    made.close()


@pytest.fixture(scope="module")
def newsletter(stack: Stack) -> Newsletter:
    return stack.make_newsletter()


@pytest.fixture(scope="module")
def forger(stack: Stack, newsletter: Newsletter, trap: Trap) -> Forger:
    return replace(forger_of_stack(stack, stack.access_token(newsletter.client)), trap=trap.url)


def status_over_rest(stack: Stack, path: str, token: str) -> int:
    request = urllib.request.Request(f"{stack.http}{path}", headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code


def test_a5_no_forged_token_is_accepted_over_rest(
    stack: Stack, newsletter: Newsletter, forger: Forger, trap: Trap, record_property: object
) -> None:
    corpus = forger.forgeries()
    member_center = f"/newsletter/preferences?list_id={newsletter.list_id}&email=nobody@example.com"
    statuses: Counter[int] = Counter()
    for path in ("/api/send-jobs", member_center):
        # What was forged could have been accepted: the forger's good token is.
        assert status_over_rest(stack, path, forger.good()) == 200
        wrong = {
            name: status for name, token in corpus.items() if (status := status_over_rest(stack, path, token)) != 401
        }
        statuses += Counter(wrong.values())
        assert {name: status for name, status in wrong.items() if status != 431} == {}
    assert trap.visits == 0
    hand_in_claim(
        record_property, ClaimRow("A5", "forged tokens over REST", LEAST, 2 * len(corpus), violations=statuses[200])
    )
    assert len(corpus) >= LEAST


def test_a7_no_forged_token_is_accepted_by_a_service_itself(
    stack: Stack, newsletter: Newsletter, forger: Forger, trap: Trap, record_property: object
) -> None:
    corpus, accepted, run = forger.forgeries(), list[str](), 0
    center = member_center_pb2_grpc.MemberCenterStub(grpc.insecure_channel(stack.ready["member_center"]))
    engine = send_engine_pb2_grpc.SendEngineStub(grpc.insecure_channel(stack.ready["send_engine"]))
    person = member_center_pb2.GetPreferencesRequest(list_id=newsletter.list_id, email="nobody@example.com")
    for name, call in (
        ("Member Center", lambda metadata: center.GetPreferences(person, metadata=metadata)),
        ("Send Engine", lambda metadata: engine.ListSendJobs(send_engine_pb2.ListSendJobsRequest(), metadata=metadata)),
    ):
        call((("authorization", f"Bearer {forger.good()}"),))
        for forgery, token in corpus.items():
            run += 1
            try:
                call((("authorization", f"Bearer {token}"),))
                accepted.append(f"{name}: {forgery}")
            except grpc.RpcError as error:
                if len(token) > TOO_LARGE and error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                    continue
                assert from_rpc_error(error).reason == Reason.ERROR_REASON_TOKEN_INVALID, (name, forgery, error)
    assert accepted == []
    assert trap.visits == 0
    hand_in_claim(record_property, ClaimRow("A7", "forged tokens at both services", 2 * LEAST, run, len(accepted)))


class _OneKey:
    def __init__(self, forger: Forger) -> None:
        self._forger = forger

    def key(self, kid: str) -> object:
        return self._forger.key.public_key() if kid == self._forger.header["kid"] else None


def test_a5_times_are_judged_at_the_leeway_and_not_beyond(forger: Forger) -> None:
    verifier = TokenVerifier(forger.claims["iss"], _OneKey(forger), lambda _: False)  # type: ignore[arg-type]
    now = int(time.time())
    verifier.verify(forger.good(exp=now + 60, iat=now - 60, nbf=now - 60))
    verifier.verify(forger.good(iat=now + LEEWAY - 1))
    for claims in ({"exp": now - LEEWAY - 2}, {"exp": 0}, {"exp": -1}):
        with pytest.raises(MessmailError) as refused:
            verifier.verify(forger.good(**claims))
        assert refused.value.reason == Reason.ERROR_REASON_TOKEN_EXPIRED
    for later in ({"iat": now + LEEWAY + 60}, {"nbf": now + LEEWAY + 60}):
        with pytest.raises(MessmailError) as refused:
            verifier.verify(forger.good(**later))
        assert refused.value.reason == Reason.ERROR_REASON_TOKEN_INVALID


@pytest.mark.claim("A6", "tokens over 8 KiB are refused before any of it is decoded", asked=3, run=3)
def test_a6_a_token_over_8_kib_costs_nothing(forger: Forger) -> None:
    verifier = TokenVerifier(forger.claims["iss"], _OneKey(forger), lambda _: False)  # type: ignore[arg-type]
    verifier.verify(forger.good(padding="x" * 5000))
    large = forger.good(padding="x" * MAX_TOKEN_BYTES)
    for token in (large, "A" * 50_000_000, f"{'A' * 50_000_000}.e30.x"):
        tracemalloc.start()
        with pytest.raises(MessmailError) as refused:
            verifier.verify(token)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert refused.value.reason == Reason.ERROR_REASON_TOKEN_INVALID
        assert peak < 100_000
