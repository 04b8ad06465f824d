"""A whole real installation for the journeys: `messmail up` as a child process, once for each test worker.

It gives addresses, an operator to set the scene with, a mailbox to look into, and a way to wait for a condition. What a
journey asserts is the journey's.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import pytest

from messmail.member_center.v1 import member_center_admin_pb2 as admin_pb2
from messmail_cli.connection import Installation, find_installation
from messmail_cli.demo.mailbox import Mailbox
from messmail_cli.demo.site import TenantSite

START_SECONDS = 180.0
STOP_SECONDS = 90.0
ADDRESSES = ("http", "member-center", "send-engine", "mailbox", "smtp")

T = TypeVar("T")


def wait_until(condition: Callable[[], T | None], what: str, seconds: float = 30.0, poll: float = 0.05) -> T:
    """Waits until the condition gives something true, and returns that; fails the test after so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        if found := condition():
            return found
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds:.0f} s in vain for {what}")
        time.sleep(poll)


def command_line(*arguments: str) -> list[str]:
    """Returns the command that runs `messmail` with these arguments."""
    return [sys.executable, "-m", "messmail_cli", *arguments]


@dataclass(frozen=True)
class Client:
    """An OAuth client and its secret."""

    client_id: str
    client_secret: str


@dataclass(frozen=True)
class Newsletter:
    """A tenant with one list and a client of its site."""

    tenant_id: str
    list_id: str
    client: Client


class Stack:
    """`messmail up` on a data directory. Addresses are those of its ready file."""

    def __init__(self, data_dir: Path, *options: str, **settings: str) -> None:
        """Describes a stack; start() starts it. Options come after the defaults; settings are environment variables."""
        self.data_dir = data_dir
        self._options = options
        self._settings = settings
        self._ready_file = data_dir.with_name(data_dir.name + ".ready.json")
        self._output = data_dir.with_name(data_dir.name + ".log")
        self._process: subprocess.Popen[bytes] | None = None
        self.ready: dict[str, Any] = {}

    def start(self) -> None:
        """Starts the stack and waits until it says that it is ready; fails the test with its output when it ends."""
        self._ready_file.unlink(missing_ok=True)
        anywhere = [part for name in ADDRESSES for part in (f"--{name}", "127.0.0.1:0")]
        command = command_line(
            *("up", "--data-dir", str(self.data_dir), "--ready-file", str(self._ready_file), *anywhere),
            *self._options,
        )
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=os.environ | self._settings
            )
        process = self._process

        def is_ready() -> bool:
            if process.poll() is not None:
                pytest.fail(f"messmail up ended with status {process.returncode}:\n{self.output()[-4000:]}")
            return self._ready_file.exists()

        wait_until(is_ready, f"the stack, which said:\n{self.output()[-4000:]}", START_SECONDS)
        self.ready = json.loads(self._ready_file.read_text())
        for cached in ("site", "mailbox", "operator"):
            self.__dict__.pop(cached, None)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Stops the stack and returns the exit status of `messmail up`."""
        assert self._process is not None
        self._process.send_signal(number)
        try:
            return self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            pytest.fail(f"messmail up did not stop within {STOP_SECONDS:.0f} s:\n{self.output()[-4000:]}")

    def remove(self) -> None:
        """Stops the stack where it still runs, and removes all that it left."""
        if self._process is not None and self._process.poll() is None:
            self.stop()
        shutil.rmtree(self.data_dir, ignore_errors=True)
        self._ready_file.unlink(missing_ok=True)
        self._output.unlink(missing_ok=True)

    def output(self) -> str:
        """Returns what `messmail up` has printed."""
        return self._output.read_text(errors="replace")

    def pids(self, part: str) -> list[int]:
        """Returns the process ids of a part ("worker", "gateway", …) as the ready file has them now."""
        found: list[int] = json.loads(self._ready_file.read_text())["pids"][part]
        return found

    @property
    def http(self) -> str:
        """The base URL of the gateway."""
        return str(self.ready["http"])

    @cached_property
    def site(self) -> TenantSite:
        """A tenant's site that calls the gateway."""
        return TenantSite(self.http)

    @cached_property
    def mailbox(self) -> Mailbox:
        """The development mailbox."""
        return Mailbox(self.ready["mailbox"])

    @cached_property
    def operator(self) -> Installation:
        """The operator, with the admin credential of the data directory."""
        return find_installation(self.data_dir)

    def messmail(self, *arguments: str, status: int = 0) -> dict[str, Any]:
        """Runs a command of the command line with --json on this stack, and returns its answer."""
        ended = self.run_command(*arguments, "--json")
        assert ended.returncode == status, ended.stderr
        answer: dict[str, Any] = json.loads(ended.stdout) if ended.stdout else {}
        return answer

    def run_command(self, *arguments: str, seconds: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Runs a command of the command line on this stack."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MESSMAIL_")}
        return subprocess.run(
            command_line(*arguments),
            env=environment | {"MESSMAIL_DATA_DIR": str(self.data_dir)},
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def make_newsletter(self, language: str = "en") -> Newsletter:
        """Makes a tenant, a list and a client with both scopes."""
        tenant_id = self.make_tenant()
        client = self.make_client(tenant_id, "newsletter:send.write", "newsletter:send.read")
        return Newsletter(tenant_id, self.make_list(tenant_id, language), client)

    def make_tenant(self) -> str:
        """Makes a tenant and returns its id."""
        request = admin_pb2.CreateTenantRequest(name=f"Tenant {uuid.uuid4().hex[:6]}")
        return self.operator.member_center_admin.CreateTenant(request).tenant_id

    def make_list(self, tenant_id: str, language: str = "en", name: str = "Weekly") -> str:
        """Makes a list and returns its id."""
        request = admin_pb2.CreateListRequest(tenant_id=tenant_id, name=name, language=language)
        setattr(request, "from", "Acme <news@acme.example>")
        return self.operator.member_center_admin.CreateList(request).list_id

    def make_client(self, tenant_id: str, *scopes: str, usage: str = "TENANT_API") -> Client:
        """Makes an OAuth client; an internal one belongs to no tenant."""
        made = self.operator.member_center_admin.CreateClient(
            admin_pb2.CreateClientRequest(
                tenant_id=tenant_id, usage=admin_pb2.ClientUsage.Value(f"CLIENT_USAGE_{usage}"), scopes=scopes
            )
        )
        return Client(made.client_id, made.client_secret)

    def import_members(self, newsletter: Newsletter, emails: Iterable[str]) -> None:
        """Imports people whose consent is proven."""
        pending = list(emails)
        while pending:
            page, pending = pending[:2000], pending[2000:]
            answer = self.operator.member_center_admin.ImportMembers(
                admin_pb2.ImportMembersRequest(
                    tenant_id=newsletter.tenant_id,
                    list_id=newsletter.list_id,
                    rows=[admin_pb2.ImportRow(email=email) for email in page],
                    confirmed=True,
                    evidence="a test",
                ),
                timeout=60,
            )
            assert answer.imported == len(page), answer.rejected

    def access_token(self, client: Client, scope: str = "") -> str:
        """Gets an access token over REST."""
        form = {
            "grant_type": "client_credentials",
            "client_id": client.client_id,
            "client_secret": client.client_secret,
        }
        exchange = self.site.post_form("/oauth/token", form | ({"scope": scope} if scope else {}))
        assert exchange.status == 200, exchange.answer
        return str(exchange.answer["access_token"])

    def wait_for_job(self, job_id: str, token: str, status: str = "completed", seconds: float = 60.0) -> dict[str, Any]:
        """Waits until a send job has a status, and returns the job."""

        def has_it() -> dict[str, Any] | None:
            exchange = self.site.get(f"/api/send-jobs/{job_id}", token)
            assert exchange.status == 200, exchange.answer
            job: dict[str, Any] = exchange.answer
            return job if job["status"] == status else None

        return wait_until(has_it, f"job {status}", seconds, poll=0.1)


def new_data_dir() -> Path:
    """Makes an empty directory for a stack: short enough for sockets, and reachable for PostgreSQL's own account."""
    return Path(tempfile.mkdtemp(prefix="messmail-", dir=tempfile.gettempdir()))


def link_token(text: str) -> str:
    """Returns the token of the first link in a text or header."""
    return re.split(r"[\s>]", text.partition("token=")[2])[0]


def unique_address(name: str = "reader") -> str:
    """Makes an address that no other test uses."""
    return f"{name}.{uuid.uuid4().hex[:10]}@mail.example"


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """A stack that all journeys of a test worker share. Each makes a tenant of its own."""
    made = Stack(new_data_dir())
    try:
        made.start()
        yield made
    finally:
        made.remove()
