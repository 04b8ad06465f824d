"""Counting at the receiving end: a sink that records every accepted mail, and the ledger to hold against it.

The sink is the rig's, which fsyncs before it answers. The ledger is read by PostgreSQL's superuser, past row level
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

from tests.rig.sink import Rule, as_line
from tests.stack import Stack

STATES = ("pending", "claimed", "sending", "deferred", "sent", "failed", "suppressed", "cancelled", "unknown")


@dataclass(frozen=True)
class Sink:
    """A recording SMTP sink."""

    address: str
    record: Path
    process: subprocess.Popen[bytes]

    def script(self, *rules: Rule) -> None:
        """Makes the sink go by these rules, and no others, from now on."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(as_line(rules))
        self.process.stdin.flush()
        assert self.process.stdout.readline() == b"ok\n"

    def slow_down(self, seconds: float) -> None:
        """Makes the sink wait so long before it answers each mail, which it has by then."""
        self.script(Rule("dot", seconds=seconds))

    def deliveries(self, subject_to: str = "") -> Counter[str]:
        """Counts the accepted mails of each delivery id, of all recipients or of those whose address ends so."""
        return Counter(entry["delivery"] for entry in self.entries() if entry["recipient"].endswith(subject_to))

    def recipients(self, subject_to: str = "") -> Counter[str]:
        """Counts the accepted mails of each recipient, of all or of those whose address ends so."""
        return Counter(entry["recipient"] for entry in self.entries() if entry["recipient"].endswith(subject_to))

    def entries(self) -> Iterator[dict[str, Any]]:
        """Reads the record: one entry for each accepted mail."""
        for line in self.record.read_bytes().splitlines():
            yield json.loads(line)


@contextmanager
def recording_sink(folder: Path, delay_ms: float = 0.0, listen: str = "127.0.0.1:0") -> Iterator[Sink]:
    """Runs a sink that waits so long before it answers each mail."""
    record = folder / "sink.jsonl"
    command = [sys.executable, "-m", "tests.rig.sink", "--record", str(record), "--listen", listen]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            sink = Sink(process.stdout.readline().decode().strip(), record, process)
            if delay_ms:
                sink.slow_down(delay_ms / 1000)
            yield sink
        finally:
            process.terminate()


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

    def change(self, statement: str, database: str) -> None:
        """Runs a statement that has no rows."""
        with psycopg.connect(f"{self._server}/{database}") as connection:
            connection.execute(statement.encode())

    def marked(self, job_id: str, worker: str | None = None) -> set[uuid.UUID]:
        """Returns the subscriptions of the job that are marked as sending and not yet recorded: those in flight.

        Of every worker, or of the one that the ledger knows by that name.
        """
        return {
            row[0]
            for row in self.rows(
                "SELECT d.subscription_id FROM batches b JOIN deliveries d ON d.tenant_id = b.tenant_id"
                " AND d.batch_id = b.id AND d.ordinal >= b.recorded_until AND d.ordinal < b.marked_until"
                " WHERE b.job_id = %s AND b.status <> 'closed' AND b.worker = coalesce(%s, b.worker)",
                job_id,
                worker,
            )
        }

    def address_of(self, list_id: str) -> dict[str, uuid.UUID]:
        """Returns the subscription of each address on a list."""
        return dict(
            self.rows("SELECT address, id FROM subscriptions WHERE list_id = %s", list_id, database="member_center")
        )
