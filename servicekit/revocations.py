"""Which access tokens have been ended before their time, as known here: at most a few seconds old.

Where the list comes from is the service's business: Member Center reads it, the others ask Member Center. It is read
when it is needed and has become old, and goes on being used for a while when it cannot be read.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

import structlog

from servicekit.errors import MessmailError, Reason
from servicekit.tokens import Claims

REFRESH_SECONDS = 2.0
# Older than this it says nothing: then no token is good.
STALE_SECONDS = 30.0
# After a failure it is not tried again at once by everybody.
_RETRY_SECONDS = 0.5

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Revoked:
    """Tokens by their id, and clients of whom no token is good."""

    token_ids: frozenset[str] = frozenset()
    client_ids: frozenset[UUID] = frozenset()


class Revocations:
    """The list of one process. Safe for threads: while one reads it again, the others go on with what there is."""

    def __init__(self, read: Callable[[], Revoked]) -> None:
        """read raises MessmailError when the list cannot be had."""
        self._read = read
        self._lock = threading.Lock()
        self._known = Revoked()
        self._read_at = self._tried_at = float("-inf")

    def includes(self, claims: Claims) -> bool:
        """Tells whether a token has been ended. Raises UNAVAILABLE when that has not been known for STALE_SECONDS."""
        if self._age() >= REFRESH_SECONDS:
            # The others wait only where there is nothing to go on with.
            if self._lock.acquire(blocking=self._age() >= STALE_SECONDS):
                try:
                    self._refresh()
                finally:
                    self._lock.release()
            if self._age() >= STALE_SECONDS:
                raise MessmailError(
                    Reason.ERROR_REASON_UNAVAILABLE,
                    "whether access tokens are still good cannot be told at the moment: try again",
                    retry_after=2.0,
                )
        return claims.token_id in self._known.token_ids or claims.client_id in self._known.client_ids

    def _age(self) -> float:
        return time.monotonic() - self._read_at

    def _refresh(self) -> None:
        began_at = time.monotonic()
        if began_at - self._read_at < REFRESH_SECONDS or began_at - self._tried_at < _RETRY_SECONDS:
            return
        self._tried_at = began_at
        try:
            self._known = self._read()
        except MessmailError as error:
            _log.warning("revocations.unavailable", reason=error.status.name)
        else:
            self._read_at = began_at
