"""SIGTERM and SIGINT as something a process waits for.

The kernel may hand a signal to another thread than the main one, for instance just after SIGCONT. Python runs its
handler in the main thread, which would never hear of it while it sleeps for ever, so it sleeps in short pieces.
"""

import signal
import threading

_LISTEN_SECONDS = 0.5


class StopSignals:
    """Takes the two signals over from the moment it is made; only in the main thread."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._asked.set())

    def wait(self) -> None:
        """Returns once one of them has come."""
        while not self._asked.wait(_LISTEN_SECONDS):
            pass
