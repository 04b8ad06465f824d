"""Network namespaces as machines of their own: a worker in one reaches ours by a cable that can be pulled.

What a worker there is to reach is passed on by a proxy at our end of the cable. Making namespaces takes root.
"""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from tests.rig.proxy import fault_proxy

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Machine:
    """A namespace. `reach` has, for each name that was given, the address by which it is reached from inside."""

    namespace: str
    cable: str
    reach: dict[str, str]

    @property
    def prefix(self) -> tuple[str, ...]:
        """What a command is run by to run there."""
        return ("ip", "netns", "exec", self.namespace)

    def pull_the_cable(self) -> None:
        """Cuts the machine off; nobody is told."""
        _ip("link", "set", self.cable, "down")

    def plug_it_in(self) -> None:
        """Connects the machine again."""
        _ip("link", "set", self.cable, "up")


@contextmanager
def machine(**services: str) -> Iterator[Machine]:
    """Makes a machine that reaches these services of ours (HOST:PORT), for the length of a `with` block."""
    number = next(_numbers)
    # A third of the private range that few machines use, by process and number: tests may run side by side.
    network = f"10.{83 + os.getpid() // 256 % 100}.{os.getpid() % 256}"
    ours, theirs = f"{network}.{4 * number + 1}", f"{network}.{4 * number + 2}"
    namespace = f"messmail-{os.getpid()}-{number}"
    cable, far_end = f"mm{os.getpid() % 100_000}-{number}", f"mp{os.getpid() % 100_000}-{number}"
    with ExitStack() as held:
        _ip("netns", "add", namespace)
        held.callback(_ip, "netns", "del", namespace)
        _ip("link", "add", cable, "type", "veth", "peer", "name", far_end, "netns", namespace)
        _ip("addr", "add", f"{ours}/30", "dev", cable)
        _ip("link", "set", cable, "up")
        _ip("-n", namespace, "addr", "add", f"{theirs}/30", "dev", far_end)
        for device in (far_end, "lo"):
            _ip("-n", namespace, "link", "set", device, "up")
        reach = {
            name: held.enter_context(fault_proxy(address, listen=f"{ours}:0")).address
            for name, address in services.items()
        }
        yield Machine(namespace, cable, reach)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
