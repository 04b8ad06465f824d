"""Debian's RabbitMQ as a child of a test, in a folder of its own, beside whatever the machine runs."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pika
import pika.exceptions

from local_stack.ports import free_address
from tests.conftest import RABBITMQ
from tests.stack import wait_until

START_SECONDS = 120.0


class RabbitMq:
    """A RabbitMQ with its own port mapper, data, logs and ports."""

    def __init__(self, folder: Path) -> None:
        """Starts the server and waits until it answers."""
        folder.mkdir()
        (folder / "enabled_plugins").write_text("[].\n", encoding="ascii")
        address, distribution, mapper = (free_address() for _ in range(3))
        self.url = f"amqp://guest:guest@{address}/%2F"
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_NODENAME": f"messmail{address.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": address.host,
            "RABBITMQ_NODE_PORT": str(address.port),
            "RABBITMQ_DIST_PORT": str(distribution.port),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "ERL_EPMD_PORT": str(mapper.port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
        }
        self._output = (folder / "output").open("wb")
        # Without one of ours the server would leave a port mapper behind.
        self._mapper = self._run("epmd")
        self._server = self._run(RABBITMQ)
        wait_until(self.answers, "RabbitMQ", START_SECONDS)

    def answers(self) -> bool:
        """Tells whether the server takes connections."""
        try:
            pika.BlockingConnection(pika.URLParameters(self.url)).close()
        except (pika.exceptions.AMQPError, OSError):
            return False
        return True

    def listeners(self, queue: str) -> int:
        """Returns how many consumers a queue has."""
        with pika.BlockingConnection(pika.URLParameters(self.url)) as connection:
            found = connection.channel().queue_declare(queue, passive=True)
            return int(found.method.consumer_count)

    def freeze(self, frozen: bool) -> None:
        """Stops the server, which then takes connections and says nothing, or lets it go on."""
        os.killpg(self._server.pid, signal.SIGSTOP if frozen else signal.SIGCONT)

    def kill(self) -> None:
        """Ends the server at once, and its port mapper."""
        for process in (self._server, self._mapper):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._output.close()

    def _run(self, program: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [program],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._output,
            start_new_session=True,
        )


@contextmanager
def rabbitmq(folder: Path) -> Iterator[RabbitMq]:
    """Runs a RabbitMQ for the length of a `with` block."""
    server = RabbitMq(folder)
    try:
        yield server
    finally:
        server.kill()
