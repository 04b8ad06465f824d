"""A template that fails for one person of a thousand costs that one mail; one that cannot work never becomes a job."""

from __future__ import annotations

import json

import pytest

from messmail.send_engine.v1 import send_engine_pb2 as pb
from tests.claims_table import cases
from tests.member_center_fixtures import refusal
from tests.send_engine_fixtures import Installation, send_engine, send_engine_engines

__all__ = ["send_engine", "send_engine_engines"]

PEOPLE = cases(1000, least=100)


@pytest.mark.slow
@pytest.mark.claim("I4", "recipients of a job, one of whom the template fails for: the rest is sent to", 1000, PEOPLE)
def test_one_recipient_that_cannot_be_rendered_fails_alone(send_engine: Installation) -> None:
    newsletter = send_engine.member_center.newsletter()
    newsletter.add(PEOPLE - 1, json.dumps({"n": 41}))
    (broken,) = newsletter.add(1, json.dumps({"n": "a word"}))
    body = "{% if preferences.n %}{{ preferences.n + 1 }}{% endif %}"
    job = send_engine.create(newsletter, body_text=body, template=True)
    with send_engine.worker():
        counters = send_engine.wait(job, seconds=90).counters
    assert (counters.sent, counters.failed, counters.total) == (PEOPLE - 1, 1, PEOPLE)
    assert broken.address not in send_engine.sink.recipients()
    answer = send_engine.stub.ListDeliveries(
        pb.ListDeliveriesRequest(id=job.id, state=pb.DELIVERY_STATE_FAILED),
        metadata=send_engine.credentials(newsletter.tenant_id),
    )
    (failed,) = answer.deliveries
    assert "body_text" in failed.last_reply, failed
    assert "a word" not in str(failed)


@pytest.mark.claim("I4", "a syntax error: refused when the job is created, with field and line")
def test_a_template_with_a_syntax_error_is_no_job(send_engine: Installation) -> None:
    newsletter = send_engine.member_center.newsletter()
    error = refusal(lambda: send_engine.create(newsletter, body_text="a\n{% if %}", template=True))
    assert error.status.http == 422
    assert [violation.field for violation in error.violations] == ["body_text"]
    assert "line 2" in error.message
