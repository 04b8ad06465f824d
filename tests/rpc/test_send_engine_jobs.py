"""Send jobs as callers see them: create, get, list, cancel, watch, over a real server."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from structlog.testing import capture_logs

from messmail.send_engine.v1 import send_engine_admin_pb2 as admin_pb
from messmail.send_engine.v1 import send_engine_admin_pb2_grpc as admin_grpc
from messmail.send_engine.v1 import send_engine_pb2 as pb
from servicekit.errors import MessmailError, Reason, from_rpc_error
from tests.send_engine_fixtures import Installation, send_engine, send_engine_engines, wait_until

__all__ = ["send_engine", "send_engine_engines"]


@contextmanager
def refused(reason: Reason.ValueType) -> Iterator[list[MessmailError]]:
    """Expects the calls in the block to be refused for that reason; the error is left in the list."""
    caught: list[MessmailError] = []
    with pytest.raises(grpc.RpcError) as failure:
        yield caught
    caught.append(from_rpc_error(failure.value))
    assert caught[0].status.name == Reason.Name(reason).removeprefix("ERROR_REASON_")


def in_seconds(seconds: float) -> Timestamp:
    moment = Timestamp()
    moment.GetCurrentTime()
    moment.FromNanoseconds(moment.ToNanoseconds() + int(seconds * 1e9))
    return moment


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"subject": "Hello\r\nBcc: all@acme.example"}, "subject"),
        ({"subject": "=?UTF-8?Q?=0ABcc:_x?="}, "subject"),
        ({"subject": ""}, "subject"),
        ({"name": "News\x00"}, "name"),
        ({"body_text": "a\x00b"}, "body_text"),
        ({"body_text": ""}, "body_html"),
        ({"list_id": "not a uuid"}, "list_id"),
    ],
)
def test_what_no_mail_can_be_made_of_is_refused_with_its_field(
    send_engine: Installation, fields: dict[str, str], field: str
) -> None:
    newsletter = send_engine.member_center.newsletter()
    with refused(Reason.ERROR_REASON_INVALID_FIELD) as caught:
        send_engine.create(newsletter, **fields)
    assert [violation.field for violation in caught[0].violations] == [field]
    assert send_engine.database.rows("SELECT 1 FROM send_jobs") == []


def test_a_template_with_an_unknown_name_is_refused_with_its_line(send_engine: Installation) -> None:
    newsletter = send_engine.member_center.newsletter()
    with refused(Reason.ERROR_REASON_TEMPLATE_INVALID) as caught:
        send_engine.create(newsletter, body_html="<p>Hi</p>\n{{ surname }}", template=True)
    assert caught[0].metadata == {"field": "body_html", "line": "2"}


def test_a_body_that_is_no_template_is_sent_as_typed(send_engine: Installation) -> None:
    newsletter = send_engine.member_center.newsletter(people=1)
    with send_engine.worker():
        send_engine.wait(send_engine.create(newsletter, body_text="{{ surname }"))
    assert b"{{ surname }" in send_engine.sink.accepted[0][1]


def test_another_tenants_list_is_not_found(send_engine: Installation) -> None:
    mine, other = (send_engine.member_center.newsletter(people=1) for _ in range(2))
    with refused(Reason.ERROR_REASON_LIST_NOT_FOUND):
        send_engine.create(mine, list_id=other.list_id)


def test_without_member_center_no_job_is_made_and_the_caller_may_try_again(send_engine: Installation) -> None:
    newsletter = send_engine.member_center.newsletter(people=1)
    send_engine.member_center.silent = True
    with refused(Reason.ERROR_REASON_UNAVAILABLE):
        send_engine.create(newsletter)
    assert send_engine.database.rows("SELECT 1 FROM send_jobs") == []


def test_another_tenants_job_looks_like_one_that_does_not_exist(send_engine: Installation) -> None:
    newsletter = send_engine.member_center.newsletter()
    job = send_engine.create(newsletter)
    stranger = send_engine.credentials(str(uuid.uuid4()))
    calls: list[Callable[[str], Any]] = [
        lambda id: send_engine.stub.GetSendJob(pb.GetSendJobRequest(id=id), metadata=stranger),
        lambda id: send_engine.stub.CancelSendJob(pb.CancelSendJobRequest(id=id), metadata=stranger),
        lambda id: list(send_engine.stub.WatchSendJob(pb.WatchSendJobRequest(id=id), metadata=stranger)),
    ]
    for call in calls:
        errors = []
        for job_id in (job.id, str(uuid.uuid4())):
            with refused(Reason.ERROR_REASON_SEND_JOB_NOT_FOUND) as caught:
                call(job_id)
            errors.append(caught[0].message)
        assert errors[0] == errors[1]
    assert send_engine.stub.ListSendJobs(pb.ListSendJobsRequest(), metadata=stranger).send_jobs == []
    assert send_engine.get(job).status != pb.SEND_JOB_STATUS_CANCELLED


def test_an_internal_caller_names_the_tenant(send_engine: Installation) -> None:
    newsletter = send_engine.member_center.newsletter()
    job = send_engine.create(newsletter)
    internal = (("authorization", f"Bearer {send_engine.member_center.token('internal:send', None)}"),)
    request = pb.GetSendJobRequest(id=job.id, tenant_id=newsletter.tenant_id)
    assert send_engine.stub.GetSendJob(request, metadata=internal).send_job.id == job.id
    with refused(Reason.ERROR_REASON_INVALID_FIELD):
        send_engine.stub.GetSendJob(pb.GetSendJobRequest(id=job.id), metadata=internal)


def test_a_reader_may_not_write(send_engine: Installation) -> None:
    job = send_engine.create(send_engine.member_center.newsletter())
    reader = send_engine.credentials(job.tenant_id, "newsletter:send.read")
    with refused(Reason.ERROR_REASON_SCOPE_MISSING):
        send_engine.stub.CancelSendJob(pb.CancelSendJobRequest(id=job.id), metadata=reader)


def test_pages_show_every_job_once_newest_first(send_engine: Installation) -> None:
    newsletter = send_engine.member_center.newsletter()
    made = [send_engine.create(newsletter).id for _ in range(5)]
    seen, token = [], ""
    credentials = send_engine.credentials(newsletter.tenant_id)
    while True:
        page = send_engine.stub.ListSendJobs(
            pb.ListSendJobsRequest(page_size=2, page_token=token), metadata=credentials
        )
        seen += [job.id for job in page.send_jobs]
        token = page.next_page_token
        if not token:
            break
    assert seen == made[::-1]
    with refused(Reason.ERROR_REASON_INVALID_FIELD):
        send_engine.stub.ListSendJobs(pb.ListSendJobsRequest(page_token="nonsense"), metadata=credentials)


def test_a_time_that_has_passed_means_now(send_engine: Installation) -> None:
    job = send_engine.create(send_engine.member_center.newsletter(), scheduled_at=Timestamp(seconds=1))
    assert job.scheduled_at == job.created_at


def test_a_scheduled_job_waits_for_the_databases_clock(send_engine: Installation) -> None:
    newsletter = send_engine.member_center.newsletter(people=3)
    with send_engine.worker():
        early = send_engine.create(newsletter)
        job = send_engine.create(newsletter, scheduled_at=in_seconds(3600))
        send_engine.wait(early)
        assert send_engine.get(job).status == pb.SEND_JOB_STATUS_SCHEDULED
        send_engine.database.move_clock(3601)
        assert send_engine.wait(job).counters.sent == 3


def test_a_cancelled_job_sends_nothing_and_repeating_the_call_answers_the_same(send_engine: Installation) -> None:
    newsletter = send_engine.member_center.newsletter(people=3)
    job = send_engine.create(newsletter, scheduled_at=in_seconds(3600))
    first = send_engine.cancel(job)
    assert (first.status, first.sent, first.sending) == (pb.SEND_JOB_STATUS_CANCELLED, 0, 0)
    assert send_engine.cancel(job) == first
    send_engine.database.move_clock(3601)
    with send_engine.worker():
        send_engine.wait(send_engine.create(newsletter))
    assert len(send_engine.sink.accepted) == 3
    assert send_engine.get(job).status == pb.SEND_JOB_STATUS_CANCELLED


def test_a_completed_job_cannot_be_cancelled(send_engine: Installation) -> None:
    job = send_engine.create(send_engine.member_center.newsletter(people=1))
    with send_engine.worker():
        send_engine.wait(job)
    with refused(Reason.ERROR_REASON_SEND_JOB_FINISHED) as caught:
        send_engine.cancel(job)
    assert caught[0].metadata == {"status": "completed"}


def test_a_watcher_sees_the_job_from_now_until_its_end(send_engine: Installation) -> None:
    job = send_engine.create(send_engine.member_center.newsletter(people=200))
    stream = send_engine.stub.WatchSendJob(
        pb.WatchSendJobRequest(id=job.id), metadata=send_engine.credentials(job.tenant_id), timeout=30
    )
    seen = [next(stream).send_job]
    assert seen[0].status == pb.SEND_JOB_STATUS_SCHEDULED
    with send_engine.worker():
        seen += [answer.send_job for answer in stream]
    assert seen[-1].status == pb.SEND_JOB_STATUS_COMPLETED
    assert seen[-1].counters.sent == 200
    assert all(before != after for before, after in pairwise(seen))


def test_too_many_watchers_are_refused_and_one_that_leaves_makes_room(send_engine: Installation) -> None:
    job = send_engine.create(send_engine.member_center.newsletter(), scheduled_at=in_seconds(3600))
    credentials = send_engine.credentials(job.tenant_id)

    def watch() -> Any:
        stream = send_engine.stub.WatchSendJob(pb.WatchSendJobRequest(id=job.id), metadata=credentials)
        next(stream)
        return stream

    watching = [watch() for _ in range(8)]
    with refused(Reason.ERROR_REASON_RATE_LIMITED):
        watch()
    # Unary calls are served all the while.
    assert send_engine.get(job).id == job.id
    watching.pop().cancel()

    def watched_again() -> bool:
        try:
            watching.append(watch())
        except grpc.RpcError:
            return False
        return True

    wait_until(watched_again, "room for a watcher")
    for stream in watching:
        stream.cancel()


def test_a_tenants_esp_account_is_used_for_its_mail_and_its_credentials_are_shown_to_nobody(
    send_engine: Installation,
) -> None:
    newsletter = send_engine.member_center.newsletter(people=2)
    admin = admin_grpc.SendEngineAdminStub(send_engine.channel)
    operator = (("authorization", f"Bearer {send_engine.member_center.token('internal:admin', None)}"),)
    named = admin_pb.GetEspAccountRequest(tenant_id=newsletter.tenant_id)
    with refused(Reason.ERROR_REASON_ESP_ACCOUNT_NOT_FOUND):
        admin.GetEspAccount(named, metadata=operator)
    with refused(Reason.ERROR_REASON_INVALID_FIELD):
        admin.SetEspAccount(
            admin_pb.SetEspAccountRequest(tenant_id=newsletter.tenant_id, smtp_url="http://x"), metadata=operator
        )
    url = f"smtp://user:sesame@{send_engine.sink.address}"
    admin.SetEspAccount(admin_pb.SetEspAccountRequest(tenant_id=newsletter.tenant_id, smtp_url=url), metadata=operator)
    account = admin.GetEspAccount(named, metadata=operator).account
    assert account.relay == f"smtp://{send_engine.sink.address}"
    stored = send_engine.database.rows("SELECT encrypted_url::text FROM esp_accounts")
    assert "sesame" not in str(stored)
    # The sink offers no AUTH, so an account with credentials gets no session: it rests, nothing is attempted, and
    # nothing leaves by the default account.
    with send_engine.worker(), capture_logs() as logs:
        job = send_engine.create(newsletter)
        wait_until(lambda: [entry for entry in logs if entry["event"] == "batch.no_session"], "the account to be tried")
        counters = send_engine.get(job).counters
        assert (counters.total, counters.pending + counters.claimed + counters.sending) == (2, 2)
    assert send_engine.sink.accepted == []
