"""The log of requests: one line each, written past the redacting pipeline.

Redaction costs more than the rest of a small request. Here it is not needed: every value is out of the contract (the
method, the route's template, a status), a number, or a request id of a checked shape. Nothing else may be logged here.
"""

from __future__ import annotations

import logging
import sys

import orjson
import structlog


class RequestLog:
    """Writes to standard error, at the level that the process logs."""

    def __init__(self) -> None:
        self._log = structlog.wrap_logger(
            structlog.BytesLogger(sys.stderr.buffer),
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.JSONRenderer(serializer=orjson.dumps),
            ],
            wrapper_class=structlog.make_filtering_bound_logger(logging.getLogger().getEffectiveLevel()),
            process="gateway",
        )

    def write(self, *, method: str, route: str, status: int, ms: float, request_id: str) -> None:
        """Writes one line."""
        self._log.info("request", method=method, route=route, status=status, ms=ms, request_id=request_id)
