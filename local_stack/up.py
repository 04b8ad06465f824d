"""`messmail up`: everything on this machine, started in order, kept running, stopped in order.

It puts the parts together; how a process is kept alive is the supervisor's, what each process is given is written in
processes.py. Nothing is served from this process.
"""

import contextlib
import json
import os
import shlex
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from cryptography.fernet import Fernet
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from local_stack.children import Child
from local_stack.data_directory import DataDirectory, write_private
from local_stack.engines.postgres import Postgres
from local_stack.engines.valkey import Valkey
from local_stack.errors import StackError
from local_stack.leftovers import end_leftovers
from local_stack.ports import choose
from local_stack.processes import Addresses, Credential, Database, Installation
from local_stack.supervisor import StoppedError, Supervisor

DEFAULT_ADDRESSES = {
    "http": "127.0.0.1:8080",
    "member_center": "127.0.0.1:50051",
    "send_engine": "127.0.0.1:50052",
    "mailbox": "127.0.0.1:8025",
    "smtp": "127.0.0.1:1025",
}


@dataclass(frozen=True)
class UpOptions:
    """What somebody asked of `messmail up`; an address is HOST:PORT, and None the default, which moves when taken."""

    data_dir: Path = Path(".messmail")
    http: str | None = None
    member_center: str | None = None
    send_engine: str | None = None
    mailbox: str | None = None
    smtp: str | None = None
    smtp_url: str | None = field(default=None, repr=False)
    """A relay (smtp://, smtps://) that takes the mails; there is no mailbox then."""
    ready_file: Path | None = None
    workers: int = 2
    verbose: bool = False


def run_up(options: UpOptions, console: Console) -> int:
    """Runs the stack until Ctrl-C, SIGTERM or SIGHUP; returns the exit status."""
    try:
        _check_relay(options)
        _check_ready_file(options)
        data = DataDirectory(options.data_dir)
        data.lock()
    except StackError as error:
        console.print(str(error), style="red", markup=False)
        return 1
    stack = _Stack(options, data, console)
    with _signals(stack.supervisor.request_stop):
        try:
            stack.start()
            stack.supervisor.supervise()
        except StoppedError:
            pass
        except StackError as error:
            console.print(str(error), style="red", markup=False, highlight=False)
            return 1
        finally:
            stack.stop()
            data.unlock()
            console.print("Stopped.")
    return 0


def _check_relay(options: UpOptions) -> None:
    """Raises StackError, without repeating the URL and its password, before anything is started."""
    if not options.smtp_url:
        return
    try:
        parts = urlsplit(options.smtp_url)
        understood = parts.scheme in ("smtp", "smtps") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        understood = False
    if not understood:
        raise StackError(
            "The relay (--smtp-url, MESSMAIL_SMTP_URL) must be of the form smtp://HOST:PORT or "
            "smtps://USER:PASSWORD@HOST:PORT."
        )


def _check_ready_file(options: UpOptions) -> None:
    """Raises StackError when nobody could ever find the file."""
    file = options.ready_file
    if file is not None and (file.is_dir() or not file.parent.is_dir()):
        raise StackError(f"--ready-file: {file} must name a file in a folder that exists.")


class _Stack:
    """One run of the stack."""

    def __init__(self, options: UpOptions, data: DataDirectory, console: Console) -> None:
        self._options = options
        self._data = data
        self._console = console
        self.supervisor = Supervisor(data, self._say, self._write_ready_file)
        self._installation: Installation | None = None
        self._held = contextlib.ExitStack()

    def stop(self) -> None:
        """Stops all children and gives back what was held."""
        with self._held, self._console.status("Stopping"):
            self.supervisor.stop()

    def start(self) -> None:
        """Brings everything up and writes what others read: stack.json for the commands, then the ready file."""
        if self._options.ready_file:
            self._options.ready_file.unlink(missing_ok=True)
        with self._step("Looking for what an earlier run left"):
            left = end_leftovers(self._data)
        if left:
            self._say(f"Ended what an earlier run left: {', '.join(left)}")
        addresses = self._choose_addresses()
        member_center, send_engine = self._databases()
        installation = Installation(
            data=self._data.path,
            addresses=addresses,
            member_center=member_center,
            send_engine=send_engine,
            broker_url=self._broker_url(),
            smtp_url=f"smtp://{addresses.smtp.reachable}" if addresses.smtp else self._options.smtp_url or "",
            member_center_master_keys=self._data.secret("member_center-master-keys", _new_master_key),
            send_engine_master_keys=self._data.secret("send_engine-master-keys", _new_master_key),
        )
        with self._step("Bringing the databases to this version", done="Databases are at this version"):
            self.supervisor.complete(installation.migrate())
        credentials = self._credentials(installation)
        first = [installation.serve_member_center()]
        if addresses.mailbox:
            first.append(installation.mailbox())
        with self._step("Starting Member Center", done="Member Center answers"):
            self._start(*first)
        workers = [
            installation.worker(number, credentials["send_engine"]) for number in range(1, self._options.workers + 1)
        ]
        with self._step("Starting Send Engine, workers and gateway", done="Send Engine, workers and gateway answer"):
            self._start(
                installation.serve_send_engine(credentials["send_engine"]),
                *workers,
                installation.serve_gateway(credentials["gateway"]),
            )
        self._installation = installation
        self._write_stack_file(installation, credentials["admin"])
        self._write_ready_file()
        self._console.print(self._overview(installation))

    def _choose_addresses(self) -> Addresses:
        addresses = {}
        for name, default in DEFAULT_ADDRESSES.items():
            if self._options.smtp_url and name in ("mailbox", "smtp"):
                continue
            chosen = choose(getattr(self._options, name), default)
            self._held.callback(chosen.close)
            if chosen.moved_from:
                self._say(f"{chosen.moved_from} is taken, so {name.replace('_', '-')} listens on {chosen.address}")
            addresses[name] = chosen.address
        return Addresses(**addresses)

    def _databases(self) -> tuple[Database, Database]:
        given = {name: os.environ.get(f"{name.upper()}_DATABASE_URL") for name in ("member_center", "send_engine")}
        if not all(given.values()):
            with self._step("Starting PostgreSQL", done="PostgreSQL answers"):
                postgres = Postgres.prepare(self._data)
                self._start(postgres.child, answers=postgres.is_ready)
                made = {name: url or postgres.create_database(name) for name, url in given.items()}
        else:
            made = {name: url or "" for name, url in given.items()}
        member_center, send_engine = (
            Database(url, self._data.secret(f"{name}_app-password")) for name, url in made.items()
        )
        return member_center, send_engine

    def _broker_url(self) -> str:
        if given := os.environ.get("BROKER_URL"):
            return given
        with self._step("Starting Valkey", done="Valkey answers"):
            valkey = Valkey.prepare(self._data)
            self._start(valkey.child, answers=valkey.is_ready)
        return valkey.url

    def _credentials(self, installation: Installation) -> dict[str, Credential]:
        """Makes the first credentials, once for a data directory."""

        def bootstrap() -> str:
            with self._step("Making the first credentials", done="First credentials are made"):
                return self.supervisor.complete(installation.bootstrap()).decode()

        made = json.loads(self._data.secret("credentials", bootstrap))
        return {
            name: Credential(made[name]["client_id"], made[name]["client_secret"])
            for name in ("admin", "send_engine", "gateway")
        }

    def _write_stack_file(self, installation: Installation, admin: Credential) -> None:
        content = self._listening(installation) | {
            "issuer": installation.public_base_url,
            "admin_client_id": admin.client_id,
            "admin_client_secret": admin.client_secret,
        }
        write_private(self._data.path / "stack.json", json.dumps(content, indent=2) + "\n")

    def _write_ready_file(self) -> None:
        file = self._options.ready_file
        if file is None or self._installation is None:
            return
        pids = self.supervisor.pids() | {"up": [os.getpid()]}
        # Whoever waited for the file may have taken it away, folder and all.
        with contextlib.suppress(FileNotFoundError):
            write_private(file, json.dumps(self._listening(self._installation) | {"pids": pids}) + "\n")

    def _listening(self, installation: Installation) -> dict[str, object]:
        addresses = installation.addresses
        return {
            "http": installation.public_base_url,
            "member_center": str(addresses.member_center.reachable),
            "send_engine": str(addresses.send_engine.reachable),
            "mailbox": f"http://{addresses.mailbox.reachable}" if addresses.mailbox else None,
            "smtp": str(addresses.smtp.reachable) if addresses.smtp else None,
        }

    def _overview(self, installation: Installation) -> Panel:
        listening = self._listening(installation)
        rows = {
            "REST": f"{listening['http']}",
            "to read": f"{listening['http']}/docs",
            "Mailbox": f"{listening['mailbox'] or 'none: mails go to the relay'}",
            "gRPC": f"{listening['member_center']} Member Center, {listening['send_engine']} Send Engine",
            "Logs": f"{self._data.logs}",
        }
        table = Table.grid(padding=(0, 2))
        for name, value in rows.items():
            table.add_row(name, escape(value))
        return Panel(table, title="Messmail is up", subtitle="Ctrl-C stops it", expand=False)

    def _start(self, *children: Child, answers: Callable[[], bool] | None = None) -> None:
        if self._options.verbose:
            for child in children:
                self._say(f"{child.name}: {shlex.join(child.command)} > {self.supervisor.log(child.name)}")
        self.supervisor.start(*children, answers=answers)

    @contextlib.contextmanager
    def _step(self, doing: str, done: str | None = None) -> Iterator[None]:
        with self._console.status(doing):
            yield
        if done:
            self._console.print(f"[green]✓[/] {done}", highlight=False)

    def _say(self, what: str) -> None:
        self._console.print(f"[yellow]•[/] {escape(what)}", highlight=False, soft_wrap=True)


def _new_master_key() -> str:
    return Fernet.generate_key().decode()


@contextlib.contextmanager
def _signals(request_stop: Callable[[], None]) -> Iterator[None]:
    """Makes Ctrl-C, SIGTERM and a closed terminal ask to stop; what is ignored (nohup) stays ignored."""
    numbers = [
        number
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN
    ]
    previous = {number: signal.signal(number, lambda *_: request_stop()) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
