"""Boundaries at which a process kills itself when a test asks for it: `MESSMAIL_FAILPOINT=NAME:N`, at the N-th passing.

It is SIGKILL, so nothing is flushed, rolled back or answered. Unset, as it always is in production, a boundary costs a
comparison. Which boundaries there are is written where they are passed.
"""

import itertools
import os
import signal
import threading

import structlog

VARIABLE = "MESSMAIL_FAILPOINT"

_NAME, _, _count = os.environ.get(VARIABLE, "").rpartition(":")
_COUNT = int(_count) if _NAME else 0
# Whether there is one; for what passes several boundaries at once when there is none.
ARMED = bool(_NAME)
_passings = itertools.count(1)


def reached(boundary: str) -> None:
    """Passes a boundary, or ends the process there."""
    if _NAME and boundary == _NAME and next(_passings) == _COUNT:
        os.kill(os.getpid(), signal.SIGKILL)
        # No thread gets any further while the signal is on its way.
        threading.Event().wait()


def warn_if_armed() -> None:
    """Says loudly that this process is going to kill itself."""
    if _NAME:
        structlog.get_logger().critical("failpoint.armed", boundary=_NAME, passing=_COUNT, variable=VARIABLE)
