"""D3: what was answered with 2xx is stored, and a repeat with its key makes one job, whichever service is killed."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
import urllib.request
import uuid
from dataclasses import dataclass, field
from http.client import HTTPException

import pytest

from messmail.member_center.v1 import member_center_admin_pb2 as admin_pb
from tests.faults.faults_table import FaultRow, hand_in, runs
from tests.rig.proving_ground import ProvingGround
from tests.stack import wait_until

PARTS = ("send-engine", "member-center", "gateway")
WRITERS = 3
AT_ONCE = urllib.request.build_opener(urllib.request.ProxyHandler({}))

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@dataclass
class Writers:
    """Callers that write all the while: jobs, each again with its key until it is there, and subscriptions."""

    ground: ProvingGround
    list_id: str
    token: str
    jobs: dict[str, set[str]] = field(default_factory=dict)
    subscribed: set[str] = field(default_factory=set)
    refused: int = 0
    over: threading.Event = field(default_factory=threading.Event)

    def make_jobs(self) -> None:
        """Makes one job after the other; asks twice for some that were answered, too."""
        while not self.over.is_set():
            key = uuid.uuid4().hex
            answers = self.jobs.setdefault(key, set())
            body = {
                "list_id": self.list_id,
                "subject": key,
                "body_text": "Hello",
                "scheduled_at": "2031-01-01T00:00:00Z",
            }
            for _ in range(2):
                while (answer := self.post("/api/send-jobs", body, key)) is None:
                    time.sleep(0.05)
                answers.add(answer["id"])

    def subscribe(self) -> None:
        """Subscribes one address after the other, whether that is answered or not."""
        while not self.over.is_set():
            address = f"{uuid.uuid4().hex}@mail.example"
            if self.post("/newsletter/subscribe", {"list_id": self.list_id, "email": address}) is not None:
                self.subscribed.add(address)
            else:
                time.sleep(0.05)

    def post(self, path: str, body: dict[str, str], key: str = "") -> dict[str, str] | None:
        """Returns the answer where it is 2xx."""
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.token}"}
        headers |= {"Idempotency-Key": key} if key else {}
        request = urllib.request.Request(self.ground.stack.http + path, json.dumps(body).encode(), headers)
        try:
            with AT_ONCE.open(request, timeout=20) as response:
                answer: dict[str, str] = json.loads(response.read())
                return answer
        # HTTPException: the gateway died in the middle of its answer.
        except (OSError, ValueError, HTTPException) as refusal:
            self.refused += 1
            status = getattr(refusal, "code", 0)
            assert status in (0, 409, 429, 500, 502, 503, 504), status
            return None


def test_services_that_die_under_writes_lose_nothing_they_answered_for(
    ground: ProvingGround, chance: random.Random, record_property: object
) -> None:
    asked = 50
    kills = runs(asked, 3)
    newsletter = ground.stack.make_newsletter()
    many = admin_pb.Limits(calls_per_client_per_minute=1_000_000, subscribes_per_list_per_minute=1_000_000)
    ground.stack.operator.member_center_admin.SetLimits(admin_pb.SetLimitsRequest(limits=many))
    writers = Writers(ground, newsletter.list_id, ground.stack.access_token(newsletter.client))
    threads = [threading.Thread(target=writers.make_jobs) for _ in range(WRITERS)]
    threads += [threading.Thread(target=writers.subscribe) for _ in range(WRITERS)]
    for thread in threads:
        thread.start()
    slowest = 0.0
    try:
        for kill in range(kills):
            part = PARTS[kill % len(PARTS)]
            wait_for_writes(writers, chance.randint(1, 20))
            (pid,) = ground.stack.pids(part)
            os.kill(pid, signal.SIGKILL)
            began = time.monotonic()
            wait_until(lambda part=part, pid=pid: ground.stack.pids(part) != [pid], f"{part} again", 60)  # type: ignore[misc]
            wait_for_writes(writers, 2)
            slowest = max(slowest, time.monotonic() - began)
    finally:
        writers.over.set()
        for thread in threads:
            thread.join()
    assert writers.refused > 0, "no writer noticed a kill"
    stored = dict(ground.ledger.rows("SELECT id::text, subject FROM send_jobs WHERE list_id = %s", newsletter.list_id))
    planned = {row[0] for row in ground.ledger.rows("SELECT job_id::text FROM batches WHERE lane = 'plan'")}
    people = set(ground.ledger.address_of(newsletter.list_id))
    lost = [key for key, answers in writers.jobs.items() if not answers <= stored.keys()]
    unwritten = writers.subscribed - people
    hand_in(
        record_property,
        FaultRow(
            *("D3", "Send Engine, Member Center, gateway killed", asked, kills, len(lost) + len(unwritten)),
            *(len(stored) - len(writers.jobs), 0, 0, slowest),
        ),
    )
    print(f"{len(stored)} jobs, {len(writers.subscribed)} subscriptions, {writers.refused} calls refused or cut")
    assert lost == []
    assert unwritten == set()
    assert all(len(answers) == 1 for answers in writers.jobs.values()), "one key, one job"
    assert sorted(stored.values()) == sorted(writers.jobs), "no job twice, and none that nobody asked for"
    assert stored.keys() <= planned, "no job is half created"


def wait_for_writes(writers: Writers, count: int) -> None:
    """Waits until so many more jobs and as many subscriptions were answered."""
    jobs, subscribed = len(writers.jobs) + count, len(writers.subscribed) + count
    wait_until(
        lambda: len(writers.jobs) >= jobs and len(writers.subscribed) >= subscribed, f"{count} writes answered", 90
    )
