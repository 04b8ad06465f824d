"""A4: guessing secrets ends after ten failures, and nobody is refused for what somebody else got wrong."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import pytest
import redis
import sqlalchemy as sa

from local_stack.ports import free_address
from member_center.limits import DEFAULTS
from messmail.member_center.v1 import member_center_admin_pb2 as admin_pb
from messmail.member_center.v1 import member_center_pb2 as pb
from servicekit.access import FORWARDED_IP, GATEWAY_AUTHORIZATION
from tests.claims_table import ClaimRow, hand_in_claim
from tests.gateway_fixtures import gateway_before
from tests.member_center_fixtures import Engines, MemberCenter, reason_of, refusal, running_member_center
from tests.rpc.gateway_under_test import GatewayProcess, HttpAnswer

PATHS = ("/oauth/token", "/oauth/introspect", "/oauth/revoke")
OF_CLIENT, OF_IP = "failed_logins_per_client_and_ip_per_minute", "failed_logins_per_ip_per_minute"
WRONG, LIMITED = (401, "invalid_client"), (429, "invalid_request")
GUESS = "wrong"


@pytest.fixture(scope="module")
def gateways(member_center: MemberCenter, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[GatewayProcess]]:
    """Two gateways, which believe X-Forwarded-For: a test can be many callers."""
    logs = tmp_path_factory.mktemp("gateways")
    with (
        gateway_before(member_center, logs / "one", GATEWAY_TRUSTED_PROXIES="127.0.0.1") as one,
        gateway_before(member_center, logs / "two", GATEWAY_TRUSTED_PROXIES="127.0.0.1") as two,
    ):
        yield [one, two]


@pytest.fixture
def client(member_center: MemberCenter) -> admin_pb.CreateClientResponse:
    return member_center.make_client(member_center.make_tenant())


def some_ip() -> str:
    """An address that no other test uses."""
    return f"10.{random.randrange(256)}.{random.randrange(256)}.{random.randrange(1, 255)}"


def log_in(gateway: GatewayProcess, path: str, client_id: str, secret: str, ip: str) -> HttpAnswer:
    form = f"grant_type=client_credentials&token=x&client_id={client_id}&client_secret={secret}"
    return gateway.post_form(path, form.encode(), X_Forwarded_For=ip)


def shape(answer: HttpAnswer) -> tuple[int, str]:
    return answer.status, answer.json.get("error", "")


@pytest.mark.claim("A4", "the eleventh failure of a client from an IP in a minute: 429, Retry-After", run=3)
@pytest.mark.parametrize("path", PATHS)
def test_after_ten_failures_a_client_is_refused_from_that_address(
    gateways: list[GatewayProcess], client: admin_pb.CreateClientResponse, path: str
) -> None:
    ip, other_ip = some_ip(), some_ip()
    # Turn by turn, because all gateways share the counts; in other spellings, because it is one client all the same.
    spellings = [client.client_id, client.client_id.upper(), client.client_id.replace("-", "")]
    failed = [log_in(gateways[n % 2], path, spellings[n % 3], GUESS, ip) for n in range(10)]
    assert {shape(answer) for answer in failed} == {WRONG}
    for secret in (GUESS, client.client_secret):
        refused = log_in(gateways[0], path, client.client_id, secret, ip)
        assert shape(refused) == LIMITED
        assert 0 < int(refused.headers["retry-after"]) <= 60
    assert log_in(gateways[1], path, client.client_id, client.client_secret, other_ip).status == 200


@pytest.mark.claim("A4", "the 101st failure from an IP in a minute: 429; right secrets of other clients work", run=3)
def test_after_a_hundred_failures_an_address_is_refused_what_is_wrong_and_nothing_that_is_right(
    member_center: MemberCenter, gateways: list[GatewayProcess], client: admin_pb.CreateClientResponse
) -> None:
    ip = some_ip()
    guesses = [log_in(gateways[n % 2], PATHS[n % 3], str(uuid4()), GUESS, ip) for n in range(100)]
    assert {shape(answer) for answer in guesses} == {WRONG}
    known = member_center.make_client(member_center.make_tenant())
    for path in PATHS:
        for wrong in (str(uuid4()), known.client_id):
            refused = log_in(gateways[0], path, wrong, GUESS, ip)
            assert shape(refused) == LIMITED
            assert 0 < int(refused.headers["retry-after"]) <= 60
        assert log_in(gateways[1], path, client.client_id, client.client_secret, ip).status == 200
        # Some failures of its own do not make it another's victim either.
        assert log_in(gateways[1], path, known.client_id, known.client_secret, ip).status == 200


@dataclass
class Attempt:
    """A login of a random history, and whether its secret is right."""

    client: admin_pb.CreateClientResponse
    ip: str
    is_right: bool


def test_a_right_secret_is_never_refused_for_somebody_elses_failures(
    member_center: MemberCenter, gateways: list[GatewayProcess], record_property: object
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    tenant_id = member_center.make_tenant()
    clients = [member_center.make_client(tenant_id) for _ in range(4)]
    ips = [some_ip() for _ in range(3)]
    history = [Attempt(chance.choice(clients), chance.choice(ips), chance.random() < 0.35) for _ in range(300)]
    own_failures: dict[tuple[str, str], int] = {}
    violations = 0
    # A minute later the counts begin anew, and then something else holds.
    end = time.monotonic() + 45
    run = 0
    for attempt in history:
        if time.monotonic() > end:
            break
        run += 1
        pair = attempt.client.client_id, attempt.ip
        secret = attempt.client.client_secret if attempt.is_right else GUESS
        answer = log_in(chance.choice(gateways), "/oauth/token", attempt.client.client_id, secret, attempt.ip)
        if own_failures.get(pair, 0) >= 10:
            violations += answer.status != 429
        elif attempt.is_right:
            violations += answer.status != 200
        else:
            violations += answer.status not in (401, 429)
            own_failures[pair] = own_failures.get(pair, 0) + 1
    what = "random logins of clients and addresses: a right secret refused for others' failures"
    hand_in_claim(record_property, ClaimRow("A4", what, run=run, violations=violations))
    assert violations == 0


@pytest.mark.claim("A4", "guesses at once: at most ten are told that they were wrong", run=1)
def test_guesses_at_once_are_told_no_more_than_guesses_in_turn(
    gateways: list[GatewayProcess], client: admin_pb.CreateClientResponse
) -> None:
    ip = some_ip()
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda n: log_in(gateways[n % 2], PATHS[0], client.client_id, GUESS, ip), range(60)))
    assert [shape(answer) for answer in answers].count(WRONG) == 10
    assert {shape(answer) for answer in answers} == {WRONG, LIMITED}


@pytest.mark.claim("A4", "over gRPC as over REST, for each RPC that authenticates a client", run=3)
@pytest.mark.parametrize("rpc", ["IssueToken", "IntrospectToken", "RevokeToken"])
def test_over_grpc_the_same_holds(member_center: MemberCenter, client: admin_pb.CreateClientResponse, rpc: str) -> None:
    forwarded = as_the_gateway(member_center, some_ip())
    requests: dict[str, Any] = {
        "IssueToken": pb.IssueTokenRequest(grant_type="client_credentials"),
        "IntrospectToken": pb.IntrospectTokenRequest(token="x"),
        "RevokeToken": pb.RevokeTokenRequest(token="x"),
    }
    request = requests[rpc]
    request.client_id = client.client_id

    def call(secret: str, metadata: tuple[tuple[str, str], ...] = forwarded) -> object:
        request.client_secret = secret
        return getattr(member_center.public, rpc)(request, metadata=metadata)

    for _ in range(10):
        assert reason_of(lambda: call(GUESS)) == "CLIENT_AUTHENTICATION_FAILED"
    for secret in (GUESS, client.client_secret):
        refused = refusal(partial(call, secret))
        assert refused.metadata["limit"] == OF_CLIENT
        assert refused.retry_after is not None and 0 < refused.retry_after <= 60
    call(client.client_secret, as_the_gateway(member_center, some_ip()))


def as_the_gateway(center: MemberCenter, ip: str) -> tuple[tuple[str, str], ...]:
    """The metadata by which the gateway, and only it, tells whom it forwards."""
    credential = center.credentials["gateway"]
    token = center.public.IssueToken(pb.IssueTokenRequest(grant_type="client_credentials", **credential)).access_token
    return (GATEWAY_AUTHORIZATION, f"Bearer {token}"), (FORWARDED_IP, ip)


@pytest.mark.claim("A4", "unknown client, wrong secret, disabled client: same body", run=6)
def test_an_unknown_client_and_a_wrong_secret_get_the_same_bytes(
    member_center: MemberCenter, gateways: list[GatewayProcess], client: admin_pb.CreateClientResponse
) -> None:
    disabled = member_center.make_client(member_center.make_tenant())
    member_center.admin.DisableClient(admin_pb.DisableClientRequest(client_id=disabled.client_id))
    answers = set()
    for client_id, secret in (
        (client.client_id, GUESS),
        (client.client_id, "x" * 43),
        (disabled.client_id, disabled.client_secret),
        (str(uuid4()), client.client_secret),
        ("no-uuid-at-all", client.client_secret),
        (str(UUID(int=0)), client.client_secret),
    ):
        answer = log_in(gateways[0], PATHS[0], client_id, secret, some_ip())
        headers = {name: value for name, value in answer.headers.items() if name not in ("x-request-id", "date")}
        answers.add((answer.status, answer.body, tuple(sorted(headers.items()))))
    assert len(answers) == 1


@contextmanager
def database_work() -> Iterator[list[str]]:
    """Collects what the server, which runs in this process, asks of the database."""
    work: list[str] = []

    def take(*_: object) -> None:
        work.append("transaction")

    def run(connection: object, cursor: object, statement: str, *_: object) -> None:
        work.append(statement)

    sa.event.listen(sa.pool.Pool, "checkout", take)
    sa.event.listen(sa.Engine, "before_cursor_execute", run)
    try:
        yield work
    finally:
        sa.event.remove(sa.pool.Pool, "checkout", take)
        sa.event.remove(sa.Engine, "before_cursor_execute", run)


@pytest.mark.claim("A4", "unknown client, wrong secret: same statements in the database, same commands to count", run=2)
def test_an_unknown_client_and_a_wrong_secret_cost_the_same_work(
    engines: Engines, member_center: MemberCenter, client: admin_pb.CreateClientResponse
) -> None:
    costs = []
    with redis.Redis.from_url(engines.valkey.url) as store:
        for client_id in (client.client_id, str(uuid4())):
            request = pb.IssueTokenRequest(grant_type="client_credentials", client_id=client_id, client_secret=GUESS)
            tries = []
            # Limits and keys are read again now and then: the cheapest of a few tries is one without that.
            for _ in range(4):
                metadata = as_the_gateway(member_center, some_ip())
                commands = store.info("stats")["total_commands_processed"]
                with database_work() as work:
                    refused = reason_of(partial(member_center.public.IssueToken, request, metadata=metadata))
                assert refused == "CLIENT_AUTHENTICATION_FAILED"
                tries.append((len(work), work, store.info("stats")["total_commands_processed"] - commands))
            costs.append(min(tries))
    assert costs[0] == costs[1]
    assert costs[0][0] > 0


def test_the_limits_on_failures_can_be_set(member_center: MemberCenter, client: admin_pb.CreateClientResponse) -> None:
    metadata = as_the_gateway(member_center, some_ip())
    request = pb.IssueTokenRequest(grant_type="client_credentials", client_id=client.client_id, client_secret=GUESS)
    call = partial(member_center.public.IssueToken, request, metadata=metadata)
    member_center.set_limits(None, **{OF_CLIENT: 2})
    try:
        assert [reason_of(call) for _ in range(3)] == ["CLIENT_AUTHENTICATION_FAILED"] * 2 + ["RATE_LIMITED"]
        in_force = member_center.set_limits(None, **{OF_CLIENT: 1000, OF_IP: 2})
        assert (getattr(in_force, OF_CLIENT), getattr(in_force, OF_IP)) == (1000, 2)
        assert refusal(call).metadata["limit"] == OF_IP
    finally:
        member_center.set_limits(None, **{name: getattr(DEFAULTS, name) for name in (OF_CLIENT, OF_IP)})


@pytest.mark.claim("A4", "nobody counts: logins still work, right and wrong", run=12)
def test_while_nobody_counts_logins_still_work(engines: Engines) -> None:
    with running_member_center(engines, broker_url=f"redis://{free_address()}/0") as center:
        client = center.make_client(center.make_tenant())
        request = pb.IssueTokenRequest(grant_type="client_credentials", client_id=client.client_id)
        for _ in range(11):
            request.client_secret = GUESS
            assert reason_of(lambda: center.public.IssueToken(request)) == "CLIENT_AUTHENTICATION_FAILED"
        request.client_secret = client.client_secret
        assert center.public.IssueToken(request).access_token
