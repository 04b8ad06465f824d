"""`make bench`: requests a second through the gateway, against bare INSERT+COMMIT on the same PostgreSQL.

The baseline is pgbench, in C, inserting one row per transaction over 8 connections. Each round measures the baseline
and then every call, so that what slows the machine slows both; the ratios are medians over the rounds. The limits stay
in the path: they are raised by the operator's own command.

Two more stand beside the calls, to tell the machine from the work. PASSING does nothing but pass through gateway and
gRPC: no call that does something can be quicker. SKETCH is the least that a subscribe could be (see sketch).
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg

from bench import http_load, report, sketch
from bench.installation import Stack, stack, token_form
from local_stack.engines.postgres import Postgres

BASELINE = "INSERT+COMMIT, 8 connections"
PASSING = "keys (passing through)"
SKETCH = "a sketch of subscribe"
WITHOUT = ("RLS", "consent log", "mails")
SUBSCRIBE_TARGET = 0.12
_CONNECTIONS = 32
_SECONDS_TO_SETTLE = 120.0


def baseline(postgres: Postgres, seconds: int) -> float:
    """Inserts and commits single rows over 8 connections; returns transactions a second."""
    script = postgres.data.path / "insert.sql"
    script.write_text("INSERT INTO bench (list_id, email) VALUES (gen_random_uuid(), 'somebody@example.com');\n")
    url = postgres.superuser_url()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE IF NOT EXISTS bench (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,"
            " list_id uuid, email text)"
        )
    done = subprocess.run(
        [
            *(postgres.binaries / "pgbench", "--no-vacuum", "--client=8", "--jobs=2", f"--time={seconds}"),
            *("--protocol=prepared", f"--file={script}", url),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    return next(float(line.split()[2]) for line in done.stdout.splitlines() if line.startswith("tps = "))


def prepare(stack: Stack) -> dict[str, Iterator[bytes]]:
    """Makes a tenant with all it needs and returns the endless requests of each call."""
    many = str(10**9)
    stack.command(
        "limits", "set", "--subscribes-per-list-per-minute", many, "--anonymous-calls-per-ip-per-minute", many,
        "--calls-per-client-per-minute", many,
    )  # fmt: skip
    tenant = stack.command("tenants", "create", "--name", "Bench")["tenant_id"]
    new_list = ("lists", "create", "--tenant", tenant, "--from", "Bench <news@bench.example>")
    audience, growing = (stack.command(*new_list, "--name", name)["list_id"] for name in ("Audience", "Growing"))
    client = stack.command(
        "clients", "create", "--tenant", tenant, "--usage", "tenant_api",
        "--scope", "newsletter:send.write", "--scope", "newsletter:send.read",
    )  # fmt: skip
    members = stack.data_dir / "members.csv"
    with members.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["email", "preferences"])
        rows.writerows([f"member{n}@example.com", '{"lang": "en"}'] for n in range(1000))
    stack.command(
        "members", "import", "--tenant", tenant, "--list", audience, str(members), "--confirmed", "--evidence", "bench"
    )
    form, token = token_form(client), stack.token(client)
    job = stack.post(
        "/api/send-jobs",
        json.dumps(
            {"list_id": audience, "subject": "Bench", "body_text": "Hello", "scheduled_at": "2099-01-01T00:00:00Z"}
        ).encode(),
        "application/json",
        token,
    )["id"]
    ask_token = http_load.request("POST", "/oauth/token", form, content_type="application/x-www-form-urlencoded")
    read_job = http_load.request("GET", f"/api/send-jobs/{job}", token=token)
    return {
        PASSING: itertools.repeat(http_load.request("GET", "/.well-known/jwks.json")),
        "token": itertools.repeat(ask_token),
        "subscribe": subscribes(growing),
        "preferences": (
            http_load.request("GET", f"/newsletter/preferences?list_id={audience}&email=member{n % 1000}%40example.com")
            for n in itertools.count()
        ),
        "job read": itertools.repeat(read_job),
    }


def subscribes(list_id: str) -> Iterator[bytes]:
    """Writes down requests of ever new people for a list."""
    for number in itertools.count():
        body = f'{{"list_id":"{list_id}","email":"new{number}@example.com","preferences":{{"lang":"en"}}}}'
        yield http_load.request("POST", "/newsletter/subscribe", body.encode(), content_type="application/json")


def measure(stack: Stack, requests: Iterator[bytes], seconds: int) -> float:
    """Returns the requests a second that the gateway answered, once the mails that they asked for have left."""
    rate = http_load.run(stack.host, stack.port, requests, connections=_CONNECTIONS, seconds=seconds).rate
    settle(stack)
    return rate


def settle(stack: Stack) -> None:
    """Waits until no confirmation mail waits, so that none is sent at the cost of what is measured next."""
    give_up_at = time.monotonic() + _SECONDS_TO_SETTLE
    with psycopg.connect(stack.postgres.superuser_url("member_center"), autocommit=True) as connection:
        waiting = "SELECT EXISTS (SELECT FROM confirmation_mails WHERE outcome IS NULL)"
        while connection.execute(waiting).fetchone() == (True,):
            if time.monotonic() > give_up_at:
                raise RuntimeError("the confirmation mails do not leave")
            time.sleep(0.05)


def measure_without(stack: Stack, what: str, requests: Iterator[bytes], seconds: int) -> float:
    """Measures with something taken away, to see what it costs: RLS, the rows of the consent log, or sending mails."""
    with without_mails(stack) if what == "mails" else without(stack, what):
        rate = http_load.run(stack.host, stack.port, requests, connections=_CONNECTIONS, seconds=seconds).rate
    settle(stack)
    return rate


@contextmanager
def without(stack: Stack, what: str) -> Iterator[None]:
    """Takes row level security or the rows of the consent log away for a while."""
    with psycopg.connect(stack.postgres.superuser_url("member_center"), autocommit=True) as connection:
        if what == "RLS":
            fenced = connection.execute("SELECT oid::regclass::text FROM pg_class WHERE relrowsecurity").fetchall()
            away = [f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY" for (table,) in fenced]
            back = [f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY" for (table,) in fenced]
        else:
            away = [
                "CREATE FUNCTION bench_drop() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
                "CREATE TRIGGER bench_drop BEFORE INSERT ON consent_log FOR EACH ROW EXECUTE FUNCTION bench_drop()",
            ]
            back = ["DROP FUNCTION bench_drop() CASCADE"]
        for statement in away:
            connection.execute(statement.encode())
        try:
            yield
        finally:
            for statement in back:
                connection.execute(statement.encode())


@contextmanager
def without_mails(stack: Stack) -> Iterator[None]:
    """Stops the workers for a while."""
    workers = [psutil.Process(pid) for pid in stack.pids["worker"]]
    for worker in workers:
        worker.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for worker in workers:
            worker.send_signal(signal.SIGCONT)


def main() -> int:
    """Measures, prints and saves; answers 1 when subscribe misses its target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4, help="how long each measurement of a round takes")
    parser.add_argument("--save", type=Path, default=report.RESULTS / "rest.json", help="where the result goes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)
        with stack(Path(folder)) as installation, sketch.running(installation.postgres.superuser_url()) as sketch_port:
            calls = prepare(installation)
            sketched = subscribes(str(uuid.uuid4()))
            rounds: dict[str, list[float]] = {
                name: [] for name in (BASELINE, SKETCH, *calls, *(f"subscribe without {what}" for what in WITHOUT))
            }
            for number in range(1, options.rounds + 1):
                print(f"round {number} of {options.rounds}", file=sys.stderr, flush=True)
                rounds[BASELINE].append(baseline(installation.postgres, options.seconds))
                load = http_load.run(
                    "127.0.0.1", sketch_port, sketched, connections=_CONNECTIONS, seconds=options.seconds
                )
                rounds[SKETCH].append(load.rate)
                for name, requests in calls.items():
                    rounds[name].append(measure(installation, requests, options.seconds))
                for what in WITHOUT:
                    rate = measure_without(installation, what, calls["subscribe"], options.seconds)
                    rounds[f"subscribe without {what}"].append(rate)
    print(report.table(rounds, BASELINE, "requests/s"))
    report.save(options.save, rounds, BASELINE, connections=_CONNECTIONS, subscribe_target=SUBSCRIBE_TARGET)
    ratios = report.ratios(rounds, BASELINE)
    reached = ratios["subscribe"]
    print(f"subscribe: {reached:.3f} of the baseline (target {SUBSCRIBE_TARGET})")
    print(
        f"subscribe: {reached / ratios[PASSING]:.2f} of what passes through, {reached / ratios[SKETCH]:.2f} of a sketch"
    )
    print(f"saved in {options.save}")
    return 0 if reached >= SUBSCRIBE_TARGET else 1


if __name__ == "__main__":
    raise SystemExit(main())
