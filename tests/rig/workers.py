"""Workers of a stack that a test starts, hurts and ends itself, each with an environment of its own.

A stack that is to have such workers is started with `--workers 0`; they get the settings of its Send Engine.
"""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from tests.stack import Stack, wait_until

START_SECONDS = 60.0
STOP_SECONDS = 75.0


class WorkerProcess:
    """One worker. `name` is how the ledger knows it."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log

    @property
    def name(self) -> str:
        """Who holds a batch, as the ledger has it."""
        return f"{socket.gethostname()}:{self.process.pid}"

    def logged(self) -> int:
        """Returns how much the worker has logged, in characters."""
        return len(self.log.read_text(errors="replace"))

    def has_logged(self, event: str, since: int = 0) -> bool:
        """Tells whether the worker has logged an event, or has since it had logged so much."""
        return f'"event": "{event}"' in self.log.read_text(errors="replace")[since:]

    def wait_ready(self) -> WorkerProcess:
        """Waits until the worker works."""
        wait_until(lambda: self.has_logged("ready"), "a worker's start", START_SECONDS)
        return self

    def wait_end(self, seconds: float) -> int:
        """Waits until the worker has ended, and returns its status."""
        return self.process.wait(seconds)

    def send(self, number: signal.Signals) -> None:
        """Sends a signal, and waits for the end where that is certain."""
        self.process.send_signal(number)
        if number is signal.SIGKILL:
            self.process.wait()

    @property
    def runs(self) -> bool:
        """Whether the worker has not ended."""
        return self.process.poll() is None


class Crew:
    """The workers of one stack."""

    def __init__(self, stack: Stack, smtp: str, folder: Path, **settings: str) -> None:
        """Settings are environment variables that every worker has besides those of Send Engine."""
        self._stack = stack
        self._folder = folder
        self._settings = {"SEND_ENGINE_SMTP_URL": f"smtp://{smtp}"} | settings
        self._numbers = itertools.count(1)
        self._workers: list[WorkerProcess] = []

    def start(self, *prefix: str, **settings: str) -> WorkerProcess:
        """Starts a worker, by a command that runs another where a prefix is given; does not wait."""
        return self._run([*prefix, sys.executable, "-P", "-m", "messmail_cli", "worker"], self._settings | settings)

    def serve_send_engine(self, listen: str, **settings: str) -> WorkerProcess:
        """Starts one more Send Engine, and waits until it serves."""
        command = [sys.executable, "-P", "-m", "messmail_cli", "serve", "send-engine"]
        return self._run(command, {"SEND_ENGINE_LISTEN": listen} | settings).wait_ready()

    def _run(self, command: list[str], settings: dict[str, str]) -> WorkerProcess:
        log = self._folder / f"worker-{next(self._numbers)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                env=self.environment() | settings,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        worker = WorkerProcess(process, log)
        self._workers.append(worker)
        return worker

    def environment(self) -> dict[str, str]:
        """Returns the environment of the stack's Send Engine."""
        raw = Path(f"/proc/{self._stack.pids('send-engine')[0]}/environ").read_bytes()
        entries = (entry.partition("=") for entry in os.fsdecode(raw).split("\0") if entry)
        return {name: value for name, _, value in entries if name != "SEND_ENGINE_LISTEN"}

    def running(self) -> list[WorkerProcess]:
        """Returns the workers that have not ended."""
        return [worker for worker in self._workers if worker.runs]

    def ready(self) -> list[WorkerProcess]:
        """Returns the workers that work."""
        return [worker for worker in self.running() if worker.has_logged("ready")]

    def stop(self) -> None:
        """Asks every worker to end, in peace, and kills those that do not."""
        running = self.running()
        for worker in running:
            # A stopped process hears nothing.
            worker.send(signal.SIGCONT)
            worker.send(signal.SIGTERM)
        for worker in running:
            try:
                worker.wait_end(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                worker.send(signal.SIGKILL)
        self._workers.clear()
