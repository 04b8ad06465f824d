"""`make bench-send`: mails a second of a whole send job, against Postfix's smtp-source, in C, into the same smtp-sink.

Each round measures smtp-source, a loop of aiosmtplib, and then Messmail: a job made through REST for confirmed members,
with consent asked and permits leased for each group, and every service, worker and PostgreSQL on this machine. What
slows the machine slows all three; the ratios are medians over the rounds. A round counts only if sink, ledger and
audience agree.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psycopg

from bench import report, smtp_load
from bench.installation import Stack, stack
from bench.processes import PeakMemory, cpu_seconds

SMTP_SOURCE, AIOSMTPLIB = "smtp-source -d -s 10", "aiosmtplib"
SENDING, WHOLE = "Messmail, sending", "Messmail, whole job"
TARGETS = {SENDING: 0.7, WHOLE: 0.5}
_SESSIONS = 10
# Their memory is theirs: PostgreSQL's is shared buffers and many small processes.
_ENGINES = ("postgres", "valkey", "mailbox")
_AIOSMTPLIB_MAILS = 5_000
# After so many its rate does not change any more.
_SMTP_SOURCE_MAILS = 100_000
_SAMPLE_MEMBERS = 200
_LONGEST_JOB_SECONDS = 1800.0
_LOOK_SECONDS = 0.5
# Sending lasts from when the batches were made ready, a moment before the first claim, to the last record.
_TIMES = """
    SELECT extract(epoch FROM ended_at)::float8, extract(epoch FROM ended_at - started_at)::float8
    FROM send_jobs WHERE id = %s
"""
# Members beyond the first are copies of one that was imported, each with its line in the consent log.
_IMPORTED = 2_000
_PACE = "100000"
_COPIED_AT_ONCE = 100_000
_COPY_MEMBERS = """
    WITH added AS (
        INSERT INTO subscriptions
        SELECT made.* FROM subscriptions one
        CROSS JOIN generate_series(%(start)s::int, %(until)s::int) n
        CROSS JOIN LATERAL format('member%%s@d%%s.example', n, n %% 50) AS mailbox
        CROSS JOIN LATERAL jsonb_populate_record(one, jsonb_build_object(
            'id', gen_random_uuid(), 'address', mailbox, 'address_key', mailbox,
            'preferences', jsonb_build_object('name', 'Member ' || n, 'lang', 'en')
        )) made
        WHERE one.list_id = %(list)s AND one.address = 'member0@d0.example'
        RETURNING tenant_id, list_id, id
    )
    INSERT INTO consent_log
    SELECT made.* FROM subscriptions s
    JOIN consent_log one ON one.subscription_id = s.id AND one.list_id = s.list_id
    CROSS JOIN added
    CROSS JOIN LATERAL jsonb_populate_record(one, jsonb_build_object('subscription_id', added.id)) made
    WHERE s.list_id = %(list)s AND s.address = 'member0@d0.example'
"""
_LEDGER = """
    SELECT count(*), count(DISTINCT subscription_id), count(*) FILTER (WHERE state = 'sent')
    FROM deliveries d JOIN batches b ON b.tenant_id = d.tenant_id AND b.id = d.batch_id WHERE b.job_id = %s
"""

_PARAGRAPH = (
    "The autumn catalogue is here: {{ preferences.name }}, we kept three pages for what you looked at in summer, and "
    "one for what nobody has seen yet. Everything in it can be had until the end of the month, at {{ list_name }} and "
    "nowhere else, and what does not fit comes back to us without a question asked.\n"
)
JOB = {
    "subject": "{{ preferences.name }}, your autumn catalogue",
    "body_text": "Dear {{ preferences.name }},\n\n" + _PARAGRAPH * 2 + "\nTo leave: {{ unsubscribe_url }}\n",
    "body_html": "<!doctype html>\n<html><body>\n<h1>Dear {{ preferences.name }}</h1>\n"
    + f"<p>{_PARAGRAPH}</p>\n" * 2
    + '<p><a href="{{ preferences_url }}">What you get from us</a></p>\n'
    + '<p><a href="{{ unsubscribe_url }}">Unsubscribe</a></p>\n</body></html>\n',
    "template": True,
}


@dataclass(frozen=True)
class Job:
    """A completed job: mails a second by the ledger's own times, of its sending and of the whole from POST on."""

    members: int
    sending: float
    whole: float


class Tenant:
    """A tenant of the installation, with what it needs to send."""

    def __init__(self, installation: Stack) -> None:
        self._stack = installation
        self._id = installation.command("tenants", "create", "--name", "Bench")["tenant_id"]
        self._client = installation.command(
            "clients", "create", "--tenant", self._id, "--usage", "tenant_api",
            "--scope", "newsletter:send.write", "--scope", "newsletter:send.read",
        )  # fmt: skip
        # No limit that is reached, but limits: permits are leased for every group.
        for scope, of in (("tenant", ("--tenant", self._id)), ("esp-account", ())):
            installation.command("limits", "set-sending", "--scope", scope, *of, "--mails-per-second", _PACE)

    def new_list(self, members: int) -> str:
        """Makes a list and imports members whose consent is proven."""
        list_id: str = self._stack.command(
            "lists", "create", "--tenant", self._id, "--from", "Bench <news@bench.example>", "--name", "Bench News"
        )["list_id"]
        file = self._stack.data_dir / "members.csv"
        with file.open("w", newline="") as stream:
            rows = csv.writer(stream)
            rows.writerow(("email", "preferences"))
            rows.writerows((address(n), json.dumps(preferences(n))) for n in range(min(members, _IMPORTED)))
        self._stack.command(
            *("members", "import", "--tenant", self._id, "--list", list_id, str(file)),
            *("--confirmed", "--evidence", "made for the measurement"),
        )
        with psycopg.connect(self._stack.postgres.superuser_url("member_center"), autocommit=True) as connection:
            # Nothing that a foreign key could find: every row is a copy. And nothing for autovacuum to do later.
            connection.execute("SET session_replication_role = replica")
            for start in range(_IMPORTED, members, _COPIED_AT_ONCE):
                until = min(start + _COPIED_AT_ONCE, members) - 1
                connection.execute(_COPY_MEMBERS, {"list": list_id, "start": start, "until": until})
            connection.execute("VACUUM (ANALYZE) subscriptions, consent_log")
        return list_id

    def send(self, list_id: str) -> Job:
        """Sends a job and waits for its end; raises RuntimeError unless its states add up at every look."""
        token = self._stack.token(self._client)
        posted_at = time.time()
        made = self._stack.post(
            "/api/send-jobs", json.dumps(JOB | {"list_id": list_id}).encode(), "application/json", token
        )
        deadline = time.monotonic() + _LONGEST_JOB_SECONDS
        while (job := self._stack.get(f"/api/send-jobs/{made['id']}", token))["status"] != "completed":
            check(_adds_up(job["counters"]), f"the states do not add up: {job}")
            check(time.monotonic() < deadline, f"the job does not end: {job}")
            time.sleep(_LOOK_SECONDS)
        with psycopg.connect(self._stack.postgres.superuser_url("send_engine")) as connection:
            times = connection.execute(_TIMES, [made["id"]]).fetchone()
            ledger = connection.execute(_LEDGER, [made["id"]]).fetchone()
        assert times is not None
        assert ledger is not None
        total = job["counters"]["total"]
        counted = (job["counters"]["sent"], *ledger)
        check(counted == (total,) * 4 and _adds_up(job["counters"]), f"the ledger has {ledger}, the job {job}")
        return Job(total, total / times[1], total / (times[0] - posted_at))


@dataclass(frozen=True)
class MeasuredJob:
    """A completed job, and by process: CPU microseconds a mail, the sink's too, and the most private memory in MiB."""

    sending: float
    whole: float
    cpu_microseconds: dict[str, float]
    peak_mebibytes: dict[str, float]


def measured_job(stack: Stack, tenant: Tenant, list_id: str, members: int, folder: Path, port: int) -> MeasuredJob:
    """Sends a job into a fresh sink; raises RuntimeError unless sink, ledger and audience agree."""
    with smtp_load.sink(folder, port) as sink:
        pids = stack.pids | {"sink": [sink.pid]}
        before = cpu_seconds(pids)
        with PeakMemory({name: pids for name, pids in stack.pids.items() if name not in _ENGINES}) as memory:
            job = tenant.send(list_id)
        after = cpu_seconds(pids)
        check(job.members == members == sink.count(), f"the sink counted {sink.count()} mails")
    cpu = {name: (after[name] - before[name]) / members * 1e6 for name in pids}
    return MeasuredJob(job.sending, job.whole, cpu, memory.peaks)


def preferences(number: int) -> dict[str, str]:
    """Returns what a member has chosen."""
    return {"name": f"Member {number}", "lang": "en"}


def _adds_up(counters: dict[str, int]) -> bool:
    return counters["total"] == sum(count for state, count in counters.items() if state != "total")


def address(number: int) -> str:
    """Returns the address of a member: 50 domains, as a list has many."""
    return f"member{number}@d{number % 50}.example"


def check(holds: bool, otherwise: str) -> None:
    """Raises RuntimeError when a measurement is none, because something was lost or doubled."""
    if not holds:
        raise RuntimeError(otherwise)


def sample(tenant: Tenant, folder: Path, port: int) -> bytes:
    """Sends a small job into a sink that keeps mails, holds them against the list, and returns one of them."""
    list_id = tenant.new_list(_SAMPLE_MEMBERS)
    with smtp_load.sink(folder, port, keeps=True) as sink:
        tenant.send(list_id)
        kept = list(sink.mails())
    wanted = Counter(address(n) for n in range(_SAMPLE_MEMBERS))
    check(Counter(recipient for recipient, _ in kept) == wanted, "the sample did not reach everybody once")
    smtp_load.check_mail(kept[0][1])
    return kept[0][1].replace(b"\n", b"\r\n")


def measure(stack: Stack, options: argparse.Namespace, folder: Path, port: int) -> dict[str, Any]:
    """Runs all rounds, and returns rates by name, and what each round of Messmail's cost."""
    tenant = Tenant(stack)
    mail = sample(tenant, folder, port)
    list_id = tenant.new_list(options.members)
    rates: dict[str, list[float]] = {name: [] for name in (SMTP_SOURCE, AIOSMTPLIB, SENDING, WHOLE)}
    costs, peaks = [], []
    for number in range(1, options.rounds + 1):
        print(f"round {number} of {options.rounds}", file=sys.stderr, flush=True)
        with smtp_load.sink(folder, port) as sink:
            mails = min(options.members, _SMTP_SOURCE_MAILS)
            rates[SMTP_SOURCE].append(smtp_load.smtp_source(sink, mails, len(mail), _SESSIONS))
        with smtp_load.sink(folder, port) as sink:
            rates[AIOSMTPLIB].append(smtp_load.aiosmtplib_loop(sink, _AIOSMTPLIB_MAILS, mail, _SESSIONS))
        job = measured_job(stack, tenant, list_id, options.members, folder, port)
        rates[SENDING].append(job.sending)
        rates[WHOLE].append(job.whole)
        costs.append(job.cpu_microseconds)
        peaks.append(job.peak_mebibytes)
    return {
        "rates": rates,
        "mail_bytes": len(mail),
        "cpu_microseconds_per_mail": {name: round(median(cost[name] for cost in costs), 1) for name in costs[0]},
        "peak_private_mebibytes": {name: round(max(peak[name] for peak in peaks), 1) for name in peaks[0]},
    }


def main() -> int:
    """Measures, prints and saves; answers 1 when a target is missed, 2 when Postfix's programs are missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--save", type=Path, default=report.RESULTS / "send.json", help="where the result goes")
    options = parser.parse_args()
    if lacking := smtp_load.missing():
        print(f"{' and '.join(lacking)} are missing. On Debian and Ubuntu: apt-get install postfix", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), smtp_load.free_port()
        folder.chmod(0o711)
        with stack(folder, "--smtp-url", f"smtp://127.0.0.1:{port}", "--workers", str(options.workers)) as installation:
            result = measure(installation, options, folder / "sink", port)
    rates = result.pop("rates")
    print(report.table(rates, SMTP_SOURCE, "mails/s"))
    costs = result["cpu_microseconds_per_mail"]
    print("CPU microseconds a mail: " + ", ".join(f"{name} {cost:.0f}" for name, cost in costs.items()))
    print(f"without the sink: {sum(costs.values()) - costs['sink']:.0f}")
    peaks = result["peak_private_mebibytes"]
    print("peak private MiB: " + ", ".join(f"{name} {peak:.0f}" for name, peak in peaks.items()))
    report.save(
        options.save, rates, SMTP_SOURCE, members=options.members, workers=options.workers, targets=TARGETS, **result
    )
    reached = report.ratios(rates, SMTP_SOURCE)
    for what, target in TARGETS.items():
        print(f"{what}: {reached[what]:.2f} of smtp-source (target {target})")
    print(f"saved in {options.save}")
    return 0 if all(reached[what] >= target for what, target in TARGETS.items()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
