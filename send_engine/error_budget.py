"""The error budget of a job: what share of its mails may be refused before it is paused.

A list that has gone bad, or content that providers reject, hurts the sender's name with every further mail, so somebody
should look before the rest is sent. What counts is a failure for the sake of the mailbox, the content or a policy, and
a deferral for a policy's; throttles, greylisting, a network in trouble and mails given up are none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from send_engine import job_states
from send_engine.esp.port import Category
from send_engine.records import Claim, DeliveryState, ErrorWindow, Result
from send_engine.storage import Connection, error_windows
from servicekit.database import Database

NOTHING: Final = ErrorWindow(0, 0)
_FAILURES = frozenset({Category.mailbox.value, Category.content.value, Category.policy.value})

_GREYLISTED = re.compile("gr[ae]y-?list", re.I)

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ErrorBudget:
    """The share of a window's mails that may be refused, once the window has enough of them to tell."""

    share: float = 0.25
    least_results: int = 200
    window_seconds: float = 600.0

    def is_spent(self, window: ErrorWindow) -> bool:
        """Tells whether a window has too many failures."""
        return window.results >= self.least_results and window.failures > self.share * window.results

    def count(self, connection: Connection, claim: Claim, results: Sequence[Result]) -> ErrorWindow:
        """Counts results into the job's window, or into a new one when that is over, and returns it."""
        tried = sum(result.tried for result in results)
        failures = sum(map(is_failure, results))
        return error_windows.add(connection, claim.tenant_id, claim.job_id, tried, failures, self.window_seconds)

    def pause(self, database: Database, claim: Claim, window: ErrorWindow) -> None:
        """Pauses a job that is sending and says why; once resumed, it has a new window. Raises UNAVAILABLE."""
        reason = (
            f"error budget: {window.failures:,} of the last {window.results:,} mails were refused, "
            f"more than {self.share:.0%}; see their last replies, then resume or cancel"
        )
        with database.tenant(claim.tenant_id) as connection:
            if job_states.pause(connection, claim.tenant_id, claim.job_id, reason):
                error_windows.remove(connection, claim.tenant_id, claim.job_id)
                _log.warning("job.paused", job=str(claim.job_id), results=window.results, failures=window.failures)


def is_failure(result: Result) -> bool:
    """Tells whether a result counts against the budget."""
    if result.state is DeliveryState.FAILED:
        return result.reason in _FAILURES
    rejected = result.state is DeliveryState.PENDING and result.reason == Category.policy.value
    return rejected and result.tried and not result.domain and _GREYLISTED.search(result.reply) is None
