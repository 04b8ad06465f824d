"""An installation to be hurt: `messmail up` without workers; a Valkey, a sink and workers that a test owns.

One is started for many faults. A send job on it is watched all its life: whenever its counters can be read they must
add up. At the end everybody is counted at the sink and in the ledger. Which faults there are is not known here.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.error import URLError

import redis

from local_stack.children import RunningChild, end
from local_stack.data_directory import DataDirectory
from local_stack.engines.valkey import Valkey
from tests.recount import Ledger, Sink, add_up, recording_sink
from tests.rig.workers import Crew, WorkerProcess
from tests.stack import Newsletter, Stack, new_data_dir, wait_until

LEASE_SECONDS = 3.0
_WATCH_SECONDS = 0.2


class Broker:
    """A Valkey that can be taken away, and comes back at the same address."""

    def __init__(self, folder: Path) -> None:
        data = DataDirectory(folder / "broker")
        self._log = folder / "valkey.log"
        self._engine = Valkey.prepare(data)
        self.url = self._engine.url
        self._child: RunningChild | None = None
        self.start()

    def start(self) -> None:
        """Starts Valkey and waits until it answers."""
        self._child = RunningChild(self._engine.child, self._log)
        wait_until(self._engine.is_ready, "Valkey")

    @property
    def pid(self) -> int:
        """The server's process."""
        assert self._child is not None
        return self._child.pid

    def stop(self) -> None:
        """Stops Valkey."""
        if self._child is not None:
            end([self._child])
        self._child = None

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Lets Valkey answer nothing, though it is there, for the length of a `with` block."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    def restart_empty(self) -> None:
        """Starts Valkey anew without anything it knew."""
        self.flush()
        self.stop()
        self.start()

    def flush(self) -> None:
        """Forgets everything."""
        with redis.Redis.from_url(self.url) as client:
            client.flushall()


@dataclass
class Recount:
    """What became of everybody of a job, and what of it violates a claim that holds whatever happens.

    recovery is the longest time, in seconds, without a mail at the sink from a fault on, until the next one or the end.
    """

    lost: list[uuid.UUID]
    doubled: Counter[uuid.UUID]
    states: Counter[str]
    polls: int
    recovery: float
    violations: dict[str, list[str]]

    @property
    def duplicates(self) -> int:
        """How many mails were too many."""
        return sum(self.doubled.values())


@dataclass
class WatchedJob:
    """A send job whose counters are read all the while (claim S1)."""

    ground: ProvingGround
    newsletter: Newsletter
    audience: dict[str, uuid.UUID]
    id: str
    in_flight: set[uuid.UUID] = field(default_factory=set)
    bound: int = 0
    faults: list[float] = field(default_factory=list)
    polls: int = 0
    wrong_sums: list[dict[str, int]] = field(default_factory=list)
    job: dict[str, Any] = field(default_factory=dict)
    _over: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        """Reads the counters until the job has ended, whoever is away meanwhile."""
        token = ""
        while not self._over.wait(_WATCH_SECONDS):
            with suppress(OSError, URLError, AssertionError):
                token = token or self.ground.stack.access_token(self.newsletter.client)
                exchange = self.ground.stack.site.get(f"/api/send-jobs/{self.id}", token)
                if exchange.status == 401:
                    token = ""
                if exchange.status == 200:
                    self.polls += 1
                    self.job = exchange.answer
                    if not add_up(self.job["counters"]) and self.job["counters"]["total"]:
                        self.wrong_sums.append(self.job["counters"])

    def stop_watching(self) -> None:
        """Ends the watch."""
        self._over.set()

    @property
    def sent(self) -> int:
        """How many mails the job had sent when it was last read."""
        return int(self.job.get("counters", {}).get("sent", 0))

    @property
    def settled(self) -> int:
        """How many mails of the job had an end, whichever, when it was last read."""
        counters = self.job.get("counters", {})
        return sum(int(counters.get(state, 0)) for state in ("sent", "failed", "suppressed", "cancelled", "unknown"))

    def wait_settled(self, count: int, seconds: float = 180.0) -> None:
        """Waits until so many mails have an end."""
        wait_until(lambda: self.settled >= count, f"{count} mails settled, of which {self.job}", seconds, 0.02)

    def wait_sent(self, count: int, seconds: float = 180.0) -> None:
        """Waits until so many mails have been sent."""
        wait_until(lambda: self.sent >= count, f"{count} mails sent, of which {self.job}", seconds, 0.02)

    def fault(self, *workers: WorkerProcess) -> int:
        """Notes that something was hurt just now, and how many rows those workers, or all, had marked."""
        marked: set[uuid.UUID] = set()
        names: list[str | None] = [worker.name for worker in workers]
        for name in names or [None]:
            marked |= self.ground.ledger.marked(self.id, name)
        self.in_flight |= marked
        self.bound += len(marked)
        self.faults.append(time.time())
        return len(marked)

    def wait_completed(self, seconds: float = 240.0) -> None:
        """Waits until the job is completed."""
        wait_until(
            lambda: self.job.get("status") == "completed", f"the end of the job, which is {self.job}", seconds, 0.1
        )

    def recount(self) -> Recount:
        """Counts everybody, at the sink and in the ledger."""
        self.stop_watching()
        ledger, job = self.ground.ledger, uuid.UUID(self.id)
        addressees = {str(uuid.uuid5(job, person.hex)): address for address, person in self.audience.items()}
        mails = [entry for entry in self.ground.sink.entries() if entry["delivery"] in addressees]
        received = Counter(entry["delivery"] for entry in mails)
        states: dict[uuid.UUID, str] = dict(
            ledger.rows(
                "SELECT d.subscription_id, d.state FROM deliveries d JOIN batches b ON b.tenant_id = d.tenant_id"
                " AND b.id = d.batch_id WHERE b.job_id = %s",
                self.id,
            )
        )
        arrived = {person: received[str(uuid.uuid5(job, person.hex))] for person in self.audience.values()}
        assert set(states) == set(self.audience.values()), "each of the audience has a row, and nobody else"
        assert all(entry["recipient"] == addressees[entry["delivery"]] for entry in mails), "a mail went to another"
        settled = ("failed", "suppressed", "cancelled", "unknown")
        counted = Counter(states.values())
        unreasoned = ledger.rows(
            "SELECT d.subscription_id::text FROM deliveries d JOIN batches b ON b.tenant_id = d.tenant_id"
            " AND b.id = d.batch_id WHERE b.job_id = %s AND d.state IN ('failed', 'suppressed', 'unknown')"
            " AND d.reason = ''",
            self.id,
        )
        wrong_sums = [f"do not add up: {counters}" for counters in self.wrong_sums]
        if {state: count for state, count in self.counters().items() if count} != counted:
            wrong_sums.append(f"not what the rows say: {self.counters()}, {counted}")
        return Recount(
            lost=[person for person, count in arrived.items() if not count and states.get(person) not in settled],
            doubled=Counter({person: count - 1 for person, count in arrived.items() if count > 1}),
            states=counted,
            polls=self.polls,
            recovery=self._longest_stop(sorted(entry["at"] for entry in mails)),
            violations={
                "S1": wrong_sums,
                "S2": [f"without a final state: {state}" for state in counted.keys() - {"sent", *settled}]
                + [f"without a reason: {person}" for (person,) in unreasoned],
            },
        )

    def counters(self) -> dict[str, int]:
        """Reads the counters of the job now, without the total."""
        token = self.ground.stack.access_token(self.newsletter.client)
        exchange = self.ground.stack.site.get(f"/api/send-jobs/{self.id}", token)
        assert exchange.status == 200, exchange.answer
        return {state: count for state, count in exchange.answer["counters"].items() if state != "total"}

    def _longest_stop(self, times: Sequence[float]) -> float:
        stops = []
        for fault, following in pairwise([*self.faults, math.inf]):
            moments = [fault, *(at for at in times if fault < at <= following)]
            stops += [later - earlier for earlier, later in pairwise(moments)]
        return max(stops, default=0.0)


class ProvingGround:
    """The installation. Each test ends its own workers and brings back what it took away."""

    def __init__(self, stack: Stack, sink: Sink, broker: Broker, folder: Path) -> None:
        self.stack = stack
        self.sink = sink
        self.broker = broker
        self.folder = folder
        self.ledger = Ledger(stack)
        self._lists: dict[int, tuple[Newsletter, dict[str, uuid.UUID]]] = {}

    @contextmanager
    def crew(self, workers: int = 0, **settings: str) -> Iterator[Crew]:
        """Has so many workers, and whichever are started besides, for the length of a `with` block."""
        folder = self.folder / f"crew-{uuid.uuid4().hex[:6]}"
        folder.mkdir()
        terms = {"SEND_ENGINE_LEASE_SECONDS": str(LEASE_SECONDS)}
        crew = Crew(self.stack, self.sink.address, folder, **terms | settings)
        try:
            for worker in [crew.start() for _ in range(workers)]:
                worker.wait_ready()
            yield crew
        finally:
            crew.stop()
            self.sink.script()

    @contextmanager
    def job(self, people: int, *, on_unknown: str = "resend", **wishes: str) -> Iterator[WatchedJob]:
        """Makes a send job to so many people, and watches it for the length of a `with` block."""
        newsletter, audience = self.audience(people)
        token = self.stack.access_token(newsletter.client)
        body = {"list_id": newsletter.list_id, "subject": "Hurt me", "body_text": "Hello", "on_unknown": on_unknown}
        made = self.stack.site.post_json("/api/send-jobs", body | wishes, token)
        assert made.status == 201, made.answer
        with self.watched(newsletter, audience, str(made.answer["id"])) as job:
            yield job

    @contextmanager
    def watched(self, newsletter: Newsletter, audience: dict[str, uuid.UUID], job_id: str) -> Iterator[WatchedJob]:
        """Watches a send job for the length of a `with` block."""
        job = WatchedJob(self, newsletter, audience, job_id)
        watcher = threading.Thread(target=job.watch, name="job-watcher", daemon=True)
        watcher.start()
        try:
            yield job
        finally:
            job.stop_watching()
            watcher.join()

    def audience(self, people: int) -> tuple[Newsletter, dict[str, uuid.UUID]]:
        """Returns a list of so many confirmed people, the same for every job of that size."""
        if people not in self._lists:
            newsletter = self.stack.make_newsletter()
            self.stack.import_members(newsletter, (f"reader{number}@mail.example" for number in range(people)))
            self._lists[people] = newsletter, self.ledger.address_of(newsletter.list_id)
        return self._lists[people]


@contextmanager
def proving_ground(folder: Path) -> Iterator[ProvingGround]:
    """Runs the installation for the length of a `with` block."""
    with ExitStack() as parts:
        sink = parts.enter_context(recording_sink(folder))
        broker = Broker(folder)
        parts.callback(broker.stop)
        stack = Stack(new_data_dir(), "--workers", "0", "--smtp-url", f"smtp://{sink.address}", BROKER_URL=broker.url)
        parts.callback(stack.remove)
        stack.start()
        yield ProvingGround(stack, sink, broker, folder)
