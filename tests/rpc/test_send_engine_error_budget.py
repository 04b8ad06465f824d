"""The error budget: a job of which too much is refused is paused, says why, and can be resumed."""

from __future__ import annotations

from typing import Any

import pytest
from structlog.testing import capture_logs

from messmail.send_engine.v1 import send_engine_pb2 as pb
from send_engine.error_budget import ErrorBudget
from servicekit.errors import MessmailError, Reason
from tests.send_engine_fixtures import Installation, send_engine, send_engine_engines, wait_until

__all__ = ["send_engine", "send_engine_engines"]


@pytest.mark.parametrize(
    "reply", [b"550 5.1.1 No such mailbox\r\n", b"550 5.7.1 Rejected\r\n", b"450 4.7.1 Not now\r\n"]
)
def test_a_job_of_which_too_much_is_refused_is_paused_and_says_why(send_engine: Installation, reply: bytes) -> None:
    newsletter = send_engine.member_center.newsletter(people=3000)
    send_engine.sink.answer = lambda recipient, attempt: reply if int(recipient[:2], 16) < 128 else b""
    with send_engine.worker():
        paused = send_engine.wait(send_engine.create(newsletter), pb.SEND_JOB_STATUS_PAUSED)
        assert paused.status_reason.startswith("error budget: ")
        assert "25%" in paused.status_reason
        # Nothing is begun any more; what was under way ended before.
        begun = len(send_engine.sink.attempts)
        assert begun < 3000
        # Resumed with a new window, it goes on; what is refused now is not so much.
        send_engine.sink.answer = lambda recipient, attempt: b"" if int(recipient[:2], 16) % 8 else reply
        request = pb.ResumeSendJobRequest(id=paused.id)
        send_engine.stub.ResumeSendJob(request, metadata=send_engine.credentials(paused.tenant_id))
        send_engine.database.move_clock(3600)
        done = send_engine.wait(paused, seconds=40) if reply.startswith(b"5") else send_engine.get(paused)
    assert done.status != pb.SEND_JOB_STATUS_PAUSED
    send_engine.database.move_clock(0)


def test_a_pause_that_the_database_does_not_take_at_first_is_made_all_the_same(
    send_engine: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, failed = ErrorBudget.pause, list[int]()

    def pause(*arguments: Any) -> None:
        if len(failed) < 2:
            failed.append(1)
            raise MessmailError(Reason.ERROR_REASON_UNAVAILABLE, "the database does not answer")
        whole(*arguments)

    monkeypatch.setattr(ErrorBudget, "pause", pause)
    newsletter = send_engine.member_center.newsletter(people=3000)
    send_engine.sink.answer = lambda recipient, attempt: b"550 5.1.1 No such mailbox\r\n"
    with send_engine.worker(), capture_logs() as logs:
        send_engine.wait(send_engine.create(newsletter), pb.SEND_JOB_STATUS_PAUSED)
    assert len(failed) == 2
    assert not [entry for entry in logs if entry["event"] == "lane.crashed"]


def test_neither_a_few_refusals_nor_throttles_pause_a_job(send_engine: Installation) -> None:
    newsletter = send_engine.member_center.newsletter(people=900)
    replies = {0: b"550 5.1.1 No such mailbox\r\n", 1: b"421 4.7.0 Too fast\r\n", 2: b"421 4.7.0 Too fast\r\n"}

    def answer(recipient: str, attempt: int) -> bytes:
        return b"" if attempt > 1 else replies.get(int(recipient[:2], 16) % 6, b"")

    send_engine.sink.answer = answer
    with send_engine.worker():
        job = send_engine.create(newsletter)
        wait_until(lambda: send_engine.get(job).counters.sent >= 300, "enough results to tell")
        assert send_engine.get(job).status == pb.SEND_JOB_STATUS_SENDING
