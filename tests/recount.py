"""Counting at the receiving end: a sink that records every accepted mail, and the ledger to hold against it.

The sink is the development mailbox with a record file. The ledger is read by PostgreSQL's superuser, past row level
security, because a recount must not depend on what it checks.
"""

import json
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg

from tests.stack import Stack, wait_until

STATES = ("pending", "claimed", "sending", "deferred", "sent", "failed", "suppressed", "cancelled", "unknown")


@dataclass(frozen=True)
class Sink:
    """A recording SMTP sink."""

    address: str
    record: Path

    def deliveries(self, subject_to: str = "") -> Counter[str]:
        """Counts the accepted mails of each delivery id, of all recipients or of those whose address ends so."""
        return Counter(
            entry["headers"].get("x-messmail-delivery", "")
            for entry in self.entries()
            if entry["recipient"].endswith(subject_to)
        )

    def recipients(self) -> Counter[str]:
        """Counts the accepted mails of each recipient."""
        return Counter(entry["recipient"] for entry in self.entries())

    def entries(self) -> Iterator[dict[str, Any]]:
        """Reads the record: one entry for each accepted recipient."""
        if self.record.exists():
            for line in self.record.read_bytes().splitlines():
                yield json.loads(line)


@contextmanager
def recording_sink(folder: Path, delay_ms: float = 0.0) -> Iterator[Sink]:
    """Runs a sink that waits so long before it accepts each mail."""
    record, log = folder / "sink.jsonl", folder / "sink.log"
    command = [
        *(sys.executable, "-m", "local_stack.mailbox", "--smtp", "127.0.0.1:0", "--http", "127.0.0.1:0"),
        *("--delay-ms", str(delay_ms), "--record", str(record), "--keep", "100"),
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stderr=output, stdin=subprocess.DEVNULL)
    try:

        def address() -> str:
            for line in log.read_text().splitlines():
                event = json.loads(line)
                if event.get("event") == "ready":
                    return str(event["smtp"])
            return ""

        yield Sink(wait_until(address, "the sink"), record)
    finally:
        process.terminate()
        process.wait(30)


def add_up(counters: dict[str, int]) -> bool:
    """Tells whether the states of a job add up to its audience."""
    return sum(counters[state] for state in STATES) == counters["total"]


class Ledger:
    """Send Engine's database, as its superuser sees it."""

    def __init__(self, stack: Stack) -> None:
        port = (stack.data_dir / "postgres/cluster/postmaster.pid").read_text().splitlines()[3]
        password = (stack.data_dir / "secrets/postgres-superuser").read_text()
        self._server = f"postgresql://postgres:{quote(password)}@127.0.0.1:{port}"

    def rows(self, query: str, *arguments: Any, database: str = "send_engine") -> list[tuple[Any, ...]]:
        """Returns the rows of a query."""
        with psycopg.connect(f"{self._server}/{database}") as connection:
            return connection.execute(query.encode(), arguments).fetchall()

    def marked(self, job_id: str) -> set[uuid.UUID]:
        """Returns the subscriptions of the job that are marked as sending and not yet recorded: those in flight."""
        return {
            row[0]
            for row in self.rows(
                "SELECT d.subscription_id FROM batches b JOIN deliveries d ON d.tenant_id = b.tenant_id"
                " AND d.batch_id = b.id AND d.ordinal >= b.recorded_until AND d.ordinal < b.marked_until"
                " WHERE b.job_id = %s AND b.status <> 'closed'",
                job_id,
            )
        }

    def address_of(self, list_id: str) -> dict[str, uuid.UUID]:
        """Returns the subscription of each address on a list."""
        return dict(
            self.rows("SELECT address, id FROM subscriptions WHERE list_id = %s", list_id, database="member_center")
        )
