"""One job, though fifty sites ask at once, over REST and over gRPC, and whatever is asked again later."""

from __future__ import annotations

import http.client
import json
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import grpc
import pytest

from messmail.send_engine.v1 import send_engine_pb2 as pb2
from messmail.send_engine.v1 import send_engine_pb2_grpc
from tests.stack import Stack

pytestmark = pytest.mark.timeout(300)


def post(stack: Stack, token: str, key: str, body: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
    """Creates a send job with a key; returns status, headers and body."""
    connection = http.client.HTTPConnection(urlsplit(stack.http).netloc, timeout=30)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json", "Idempotency-Key": key}
    try:
        connection.request("POST", "/api/send-jobs", json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def test_one_key_makes_one_job_over_every_face(stack: Stack) -> None:
    newsletter = stack.make_newsletter()
    token = stack.access_token(newsletter.client)
    key = str(uuid.uuid4())
    body: dict[str, Any] = {"list_id": newsletter.list_id, "subject": "Once", "body_text": "Hello"}

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: post(stack, token, key, body), range(50)))
    assert Counter(status for status, _, _ in answers).keys() <= {201, 409}
    assert len({answer for status, _, answer in answers if status == 201}) == 1
    for _, headers, answer in (each for each in answers if each[0] == 409):
        assert json.loads(answer)["reason"] == "IDEMPOTENCY_KEY_IN_USE"
        assert headers["retry-after"] == "1"

    made = next(json.loads(answer) for status, _, answer in answers if status == 201)
    stack.wait_for_job(made["id"], token)
    status, headers, answer = post(stack, token, key, body)
    assert (status, headers["location"], json.loads(answer)) == (201, f"/api/send-jobs/{made['id']}", made)

    status, _, answer = post(stack, token, key, {**body, "subject": "Twice"})
    assert (status, json.loads(answer)["reason"]) == (422, "IDEMPOTENCY_KEY_REUSED")

    # The same client over gRPC asks for the same thing.
    with grpc.insecure_channel(stack.operator.send_engine) as channel:
        job = send_engine_pb2_grpc.SendEngineStub(channel).CreateSendJob(
            pb2.CreateSendJobRequest(**body, idempotency_key=key),
            metadata=(("authorization", f"Bearer {token}"),),
            timeout=20,
        )
    assert job.send_job.id == made["id"]
    assert len(stack.site.get("/api/send-jobs", token).answer["send_jobs"]) == 1
