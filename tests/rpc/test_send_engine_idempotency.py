"""Idempotency keys: one job, however often, however parallel and by whomever of the client it is asked for."""

from __future__ import annotations

import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import psycopg
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from messmail.send_engine.v1 import send_engine_pb2 as pb
from send_engine import wiring
from servicekit.errors import MessmailError, Reason, from_rpc_error
from tests.send_engine_fixtures import Engines, Installation, Newsletter, send_engine, send_engine_engines, wait_until

__all__ = ["Engines", "send_engine", "send_engine_engines"]

DAY = 24 * 3600


def a_request(newsletter: Newsletter, **fields: Any) -> pb.CreateSendJobRequest:
    said = {"list_id": newsletter.list_id, "subject": "Hello", "body_text": "Hi", "idempotency_key": "key-1"}
    return pb.CreateSendJobRequest(**(said | fields))


def create(installation: Installation, request: pb.CreateSendJobRequest, client: Any) -> pb.SendJob:
    answer = installation.stub.CreateSendJob(request, metadata=client, timeout=20)
    assert isinstance(answer.send_job, pb.SendJob)
    return answer.send_job


def refusal(installation: Installation, request: pb.CreateSendJobRequest, client: Any) -> MessmailError:
    with pytest.raises(grpc.RpcError) as caught:
        create(installation, request, client)
    return from_rpc_error(caught.value)


def count_jobs(installation: Installation) -> int:
    return int(installation.database.rows("SELECT count(*) FROM send_jobs")[0][0])


@pytest.mark.claim("S5", "parallel requests with one Idempotency-Key", asked=50, run=50)
def test_fifty_parallel_requests_with_one_key_make_one_job(send_engine: Installation) -> None:
    newsletter = send_engine.member_center.newsletter(people=5)
    client, request = send_engine.credentials(newsletter.tenant_id), a_request(newsletter)

    def ask(_: int) -> bytes:
        try:
            return create(send_engine, request, client).SerializeToString(deterministic=True)
        except grpc.RpcError as error:
            refused = from_rpc_error(error)
            assert refused.reason == Reason.ERROR_REASON_IDEMPOTENCY_KEY_IN_USE
            assert refused.retry_after
            return b""

    with ThreadPoolExecutor(50) as pool:
        answers = Counter(pool.map(ask, range(50)))
    busy = answers.pop(b"", 0)
    assert list(answers.values()) == [50 - busy]
    assert count_jobs(send_engine) == 1


def test_the_answer_is_the_first_one_however_far_the_job_has_got(send_engine: Installation) -> None:
    newsletter = send_engine.member_center.newsletter(people=5)
    client, request = send_engine.credentials(newsletter.tenant_id), a_request(newsletter)
    first = create(send_engine, request, client)
    send_engine.sink.answer = lambda recipient, attempt: b"550 5.1.1 gone\r\n" if attempt == 1 else b""
    with send_engine.worker():
        send_engine.wait(first)
        again = pb.RetrySendJobRequest(id=first.id, states=[pb.RETRIED_STATE_FAILED])
        assert send_engine.stub.RetrySendJob(again, metadata=client).send_job.round == 2
        send_engine.wait(first)
    assert create(send_engine, request, client) == first
    # Not even Member Center is asked, nor the list needed any more.
    send_engine.member_center.silent = True
    assert create(send_engine, request, client) == first
    assert len(send_engine.sink.accepted) == 5


def test_another_request_with_the_same_key_is_refused(send_engine: Installation) -> None:
    newsletter = send_engine.member_center.newsletter()
    client = send_engine.credentials(newsletter.tenant_id)
    create(send_engine, a_request(newsletter), client)
    other = send_engine.member_center.newsletter(tenant_id=newsletter.tenant_id)
    changes: list[dict[str, Any]] = [
        {"subject": "Other"},
        {"name": "Other"},
        {"body_text": "Other"},
        {"body_html": "<p>Other</p>"},
        {"template": True},
        {"on_unknown": pb.UNKNOWN_POLICY_HOLD},
        {"scheduled_at": Timestamp(seconds=2_000_000_000)},
        {"give_up_after": Duration(seconds=1)},
        {"list_id": other.list_id},
    ]
    for change in changes:
        error = refusal(send_engine, a_request(newsletter, **change), client)
        assert error.reason == Reason.ERROR_REASON_IDEMPOTENCY_KEY_REUSED, change
        assert error.status.http == 422
    assert count_jobs(send_engine) == 1


def test_the_same_wish_in_other_words_is_the_same_request(send_engine: Installation) -> None:
    newsletter = send_engine.member_center.newsletter()
    client = send_engine.credentials(newsletter.tenant_id)
    first = create(send_engine, a_request(newsletter), client)
    for change in (
        {"tenant_id": newsletter.tenant_id.upper()},
        {"list_id": newsletter.list_id.upper()},
        {"on_unknown": pb.UNKNOWN_POLICY_RESEND},
    ):
        assert create(send_engine, a_request(newsletter, **change), client) == first


def test_a_key_belongs_to_one_client_of_one_tenant(send_engine: Installation) -> None:
    newsletter, foreign = (send_engine.member_center.newsletter() for _ in range(2))
    # Each token of the stand-in is of a client of its own.
    clients = [send_engine.credentials(newsletter.tenant_id) for _ in range(2)]
    internal = (("authorization", f"Bearer {send_engine.member_center.token('internal:send', None)}"),)
    jobs = [create(send_engine, a_request(newsletter), client).id for client in clients]
    for one in (newsletter, foreign):
        jobs.append(create(send_engine, a_request(one, tenant_id=one.tenant_id), internal).id)
    jobs.append(create(send_engine, a_request(foreign), send_engine.credentials(foreign.tenant_id)).id)
    assert len(set(jobs)) == count_jobs(send_engine) == 5


def test_a_refused_request_is_not_remembered(send_engine: Installation) -> None:
    newsletter = send_engine.member_center.newsletter()
    client = send_engine.credentials(newsletter.tenant_id)
    wrong = a_request(newsletter, list_id=str(uuid.uuid4()))
    assert refusal(send_engine, wrong, client).reason == Reason.ERROR_REASON_LIST_NOT_FOUND
    send_engine.member_center.silent = True
    assert refusal(send_engine, a_request(newsletter), client).reason == Reason.ERROR_REASON_UNAVAILABLE
    send_engine.member_center.silent = False
    create(send_engine, a_request(newsletter), client)
    assert count_jobs(send_engine) == 1


def test_without_a_key_each_request_makes_a_job(send_engine: Installation) -> None:
    newsletter = send_engine.member_center.newsletter()
    client = send_engine.credentials(newsletter.tenant_id)
    made = {create(send_engine, a_request(newsletter, idempotency_key=""), client).id for _ in range(3)}
    assert len(made) == 3


def test_who_comes_while_the_first_is_under_way_is_told_when_to_try_again(send_engine: Installation) -> None:
    newsletter = send_engine.member_center.newsletter()
    client, request = send_engine.credentials(newsletter.tenant_id), a_request(newsletter)
    with psycopg.connect(send_engine.database.superuser_url) as hindrance, ThreadPoolExecutor(1) as pool:
        # The first request waits in its transaction, with the key taken, for somebody who holds the jobs.
        hindrance.execute("LOCK TABLE send_jobs IN SHARE MODE")
        first = pool.submit(create, send_engine, request, client)
        locks = (
            "SELECT 1 FROM pg_locks l JOIN pg_database d ON d.oid = l.database "
            "WHERE locktype = 'advisory' AND datname = current_database()"
        )
        wait_until(lambda: send_engine.database.rows(locks), "the first request's lock")
        error = refusal(send_engine, request, client)
        assert (error.reason, error.retry_after) == (Reason.ERROR_REASON_IDEMPOTENCY_KEY_IN_USE, 1.0)
        assert error.status.http == 409
        hindrance.rollback()
        made = first.result(20)
    assert create(send_engine, request, client) == made


@pytest.mark.parametrize("key", ["a b", "ü", "x" * 256, "a\nb"], ids=["space", "umlaut", "long", "newline"])
def test_a_key_that_is_none_is_refused(send_engine: Installation, key: str) -> None:
    newsletter = send_engine.member_center.newsletter()
    error = refusal(
        send_engine, a_request(newsletter, idempotency_key=key), send_engine.credentials(newsletter.tenant_id)
    )
    assert error.reason == Reason.ERROR_REASON_INVALID_FIELD
    assert [violation.field for violation in error.violations] == ["idempotency_key"]


def test_a_key_is_kept_for_a_day_and_then_dropped_by_the_upkeep(send_engine: Installation) -> None:
    newsletter = send_engine.member_center.newsletter()
    client, request = send_engine.credentials(newsletter.tenant_id), a_request(newsletter)
    first = create(send_engine, request, client)
    send_engine.database.move_clock(DAY - 60)
    wiring.maintain(send_engine.database.owner_url)
    assert create(send_engine, request, client) == first
    send_engine.database.move_clock(DAY + 60)
    wiring.maintain(send_engine.database.owner_url)
    assert create(send_engine, request, client).id != first.id


def test_neither_the_key_nor_the_request_is_stored_in_clear(send_engine: Installation) -> None:
    newsletter = send_engine.member_center.newsletter()
    request = a_request(newsletter, idempotency_key="customer-4711")
    create(send_engine, request, send_engine.credentials(newsletter.tenant_id))
    assert "customer-4711" not in str(send_engine.database.rows("SELECT k::text FROM idempotency_keys k"))
