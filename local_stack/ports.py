"""Chooses the addresses the stack listens on.

A default port that is taken moves to a free one; a port somebody asked for is never moved. A chosen port is held by a
socket that is bound and does not listen: nobody is given it as a free one, while a server that sets SO_REUSEADDR, as
all of ours do, can listen there, and again after a restart. Two stacks that start in the same moment could both hold a
default port that way, so a default is claimed besides, by the UDP port of the same number, which only one can have.
"""

import contextlib
import errno
import re
import socket
from dataclasses import dataclass

from local_stack.errors import StackError

_ADDRESS = re.compile(r"(?:\[(?P<v6>[^\[\]]+)\]|(?P<host>[^\[\]]+)):(?P<port>[0-9]{1,5})")


@dataclass(frozen=True)
class Address:
    """A HOST:PORT to listen on or to connect to."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Reads HOST:PORT; an IPv6 host stands in brackets."""
        found = _ADDRESS.fullmatch(text)
        if not found or int(found["port"]) > 65535:
            raise StackError(f"'{text}' is not an address of the form HOST:PORT.")
        return cls(found["v6"] or found["host"], int(found["port"]))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def reachable(self) -> "Address":
        """The address a client on this machine connects to: the loopback one where all interfaces are bound."""
        return Address({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host), self.port)


class AddressTakenError(StackError):
    """Another program listens on the address."""

    def __init__(self, address: Address) -> None:
        super().__init__(f"{address} is taken by another program. Stop that program or ask for another port.")


@dataclass(frozen=True)
class Chosen:
    """An address that is held until `close`, and the default it had to move away from."""

    holder: socket.socket
    claim: socket.socket | None = None
    moved_from: Address | None = None

    @property
    def address(self) -> Address:
        """The address, with its port."""
        return bound_address(self.holder)

    def close(self) -> None:
        """Holds the address no longer."""
        self.holder.close()
        if self.claim:
            self.claim.close()


def choose(asked: str | None, default: str) -> Chosen:
    """Chooses the asked address, or the default one, or a free port beside the default.

    Raises AddressTakenError when an asked port is taken. Port 0 asks for any free port.
    """
    if asked is not None:
        return Chosen(bind(Address.parse(asked)))
    address = Address.parse(default)
    with contextlib.ExitStack() as undo:
        try:
            claim = undo.enter_context(_bind(address, socket.SOCK_DGRAM))
            holder = bind(address)
        except AddressTakenError:
            return Chosen(bind(Address(address.host, 0)), moved_from=address)
        undo.pop_all()
        return Chosen(holder, claim)


def free_address() -> Address:
    """Names a loopback port that nobody listens on now, for a server that is started at once."""
    with bind(Address("127.0.0.1", 0)) as holder:
        return bound_address(holder)


def bound_address(bound: socket.socket) -> Address:
    """Tells where a socket is bound."""
    return Address(*bound.getsockname()[:2])


def bind(address: Address) -> socket.socket:
    """Returns a socket bound to the address, ready to listen.

    Raises AddressTakenError when somebody listens there, StackError when the host is not this machine's.
    """
    return _bind(address, socket.SOCK_STREAM)


def _bind(address: Address, kind: socket.SocketKind) -> socket.socket:
    try:
        family, _, _, _, target = socket.getaddrinfo(address.host, address.port, type=kind)[0]
        bound = socket.socket(family, kind)
    except OSError as error:
        raise StackError(f"Cannot listen on {address}: {error.strerror}.") from error
    try:
        if kind is socket.SOCK_STREAM:
            # Connections of the previous run in TIME_WAIT do not make a port taken; a listener still does.
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(target)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            raise AddressTakenError(address) from error
        raise StackError(f"Cannot listen on {address}: {error.strerror}.") from error
    return bound
