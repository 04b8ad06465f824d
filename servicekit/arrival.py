"""How long a call may hold a thread before its message is there.

gRPC gives a call its thread when it begins, and lets it wait for its message without end.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import TypeVar

import grpc

ARRIVAL_SECONDS = 5.0
_LOOK_SECONDS = 0.5

T = TypeVar("T")


class Arrivals:
    """Cancels calls whose message has not come in ARRIVAL_SECONDS, which frees their threads."""

    def __init__(self) -> None:
        # In the order in which the calls began.
        self._awaited: dict[grpc.ServicerContext, float] = {}
        self._closed = threading.Event()
        threading.Thread(target=self._watch, name="arrivals", daemon=True).start()

    def close(self) -> None:
        """Ends the watch."""
        self._closed.set()

    def first(self, messages: Iterator[T], context: grpc.ServicerContext) -> T | None:
        """Waits for the message of a call, and returns it; None when the caller ended without one.

        Raises grpc.RpcError when the call was cancelled meanwhile, by the caller or by this watch.
        """
        self._awaited[context] = time.monotonic() + ARRIVAL_SECONDS
        try:
            return next(messages, None)
        finally:
            del self._awaited[context]

    def _watch(self) -> None:
        while not self._closed.wait(_LOOK_SECONDS):
            now = time.monotonic()
            for context, give_up_at in self._awaited.copy().items():
                if give_up_at > now:
                    break
                context.cancel()
