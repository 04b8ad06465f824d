"""What operators did, as lines of the log: which client did what to which ids, and nothing else."""

from __future__ import annotations

import structlog

from servicekit.access import caller

_log = structlog.get_logger()


def audit(event: str, **facts: object) -> None:
    """Logs an act of the caller. Facts are ids and settings, never an address."""
    _log.info(f"audit.{event}", client_id=str(caller().client_id), **facts)
