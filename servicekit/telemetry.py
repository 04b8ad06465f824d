"""Logging: one JSON line per event on standard error, the same for our own code and for every library.

Nothing reaches the stream past redaction: neither tracebacks nor what crashes a thread. What is worth logging is
decided where it happens; metrics and traces are not here.
"""

import json
import logging
import os
import sys
import threading
from contextlib import AbstractContextManager, suppress
from types import TracebackType
from typing import Final

import structlog
from structlog.stdlib import ProcessorFormatter
from structlog.typing import EventDict, Processor, WrappedLogger

from servicekit.failpoints import warn_if_armed
from servicekit.redaction import redact_event

# Libraries that bring handlers of their own; theirs are taken off so that each line is written once, and redacted.
_LIBRARIES: Final = ("uvicorn", "uvicorn.access", "uvicorn.error", "uvicorn.asgi", "grpc", "dramatiq", "alembic")


def configure_logging(process_name: str) -> None:
    """Sends all logging of this process through one pipeline; the level comes from MESSMAIL_LOG_LEVEL (INFO).

    Start uvicorn with `log_config=None`, or it puts its own handlers back. Raises ValueError for an unknown level.
    """
    level_name = os.environ.get("MESSMAIL_LOG_LEVEL", "INFO").upper()
    levels = logging.getLevelNamesMapping()
    if level_name not in levels:
        raise ValueError(f"MESSMAIL_LOG_LEVEL must be one of {', '.join(levels)}")

    def add_process(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        return {**event, "process": process_name}

    described: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        add_process,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *described,
            ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = _RedactedStream(sys.stderr)
    handler.setFormatter(
        ProcessorFormatter(
            foreign_pre_chain=described,
            processors=[
                ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                redact_event,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    logging.basicConfig(level=levels[level_name], handlers=[handler], force=True)
    logging.captureWarnings(True)
    for name in _LIBRARIES:
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
    sys.excepthook = _log_crash
    threading.excepthook = _log_thread_crash
    warn_if_armed()


def bind_request_id(request_id: str) -> AbstractContextManager[None]:
    """Puts the request id on every line logged inside the `with` block; threads of a pool are reused, hence a block."""
    return structlog.contextvars.bound_contextvars(request_id=request_id)


class _RedactedStream(logging.StreamHandler):  # type: ignore[type-arg]
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Says that a line was lost; the inherited method would print its arguments as they are."""
        lost = {"event": "a log line could not be rendered", "level": "error", "logger": record.name}
        with suppress(OSError, ValueError):  # A closed stream must not fail the work that was logged.
            print(json.dumps(lost), file=sys.stderr)


def _log_crash(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    logging.getLogger("crash").critical("process crashed", exc_info=(kind, error, trace))


def _log_thread_crash(crash: threading.ExceptHookArgs) -> None:
    if crash.exc_value is None or isinstance(crash.exc_value, SystemExit):
        return
    name = crash.thread.name if crash.thread else "unknown"
    error = (crash.exc_type, crash.exc_value, crash.exc_traceback)
    logging.getLogger("crash").critical("thread %s crashed", name, exc_info=error)
