"""How a failure is told: one line with what went wrong, its reason and request id, and what to do next.

No trace is shown; MESSMAIL_TRACE=1 shows it.
"""

from typing import Final

import pydantic
import structlog

from local_stack.errors import StackError
from servicekit.errors import MessmailError

_CREDENTIAL: Final = (
    "Check MESSMAIL_CLIENT_ID and MESSMAIL_CLIENT_SECRET, or that --data-dir is that of the running stack."
)
_NEXT: Final = {
    "CLIENT_AUTHENTICATION_FAILED": _CREDENTIAL,
    "CLIENT_NOT_FOUND": "Check the client's id.",
    "CLIENT_UNAUTHORIZED": _CREDENTIAL,
    "DEADLINE_EXCEEDED": "Try again.",
    "INTERNAL": "The request id finds it in the services' logs.",
    "INVALID_FIELD": "Correct it; --help describes the options.",
    "LIST_NOT_FOUND": "`messmail lists list --tenant TENANT` shows the lists of a tenant.",
    "RATE_LIMITED": "Wait a little, then try again.",
    "SCOPE_INVALID": "--help names the scopes of each usage.",
    "SCOPE_MISSING": _CREDENTIAL,
    "SEND_JOB_FINISHED": "`messmail jobs show` shows how it ended.",
    "SEND_JOB_NOT_FOUND": "Check the job's id, and that --tenant is the tenant it belongs to.",
    "TENANT_NOT_FOUND": "`messmail tenants list` shows the tenants.",
    "TOKEN_EXPIRED": "Try again.",
    "TOKEN_INVALID": _CREDENTIAL,
    "UNAVAILABLE": "See that it is running (`messmail up` starts everything), then try again.",
}


class CommandFailed(Exception):  # noqa: N818 - it reads as what happened
    """Says in plain words why a command cannot be carried out, and what to do next."""

    def __init__(self, message: str, next_step: str = "") -> None:
        super().__init__(message, next_step)
        self.message = message
        self.next_step = next_step


def describe(error: Exception) -> str:
    """Puts an error into one line for the person at the terminal."""
    if isinstance(error, CommandFailed):
        return _line(error.message, error.next_step)
    if isinstance(error, StackError):
        return _line(str(error))
    if isinstance(error, MessmailError):
        name = error.status.name
        request_id = structlog.contextvars.get_contextvars().get("request_id")
        found_by = f" (request {request_id})" if request_id else ""
        return _line(f"{name}: {error.message}{found_by}", _NEXT.get(name, ""))
    if isinstance(error, pydantic.ValidationError):
        # The values may be secrets, so only the names are told.
        names = ", ".join(sorted({"_".join(map(str, e["loc"])).upper() for e in error.errors(include_input=False)}))
        return _line(f"These environment variables are missing or wrong: {names}", "Set them, then start again.")
    if type(error).__module__.split(".")[0] in ("sqlalchemy", "psycopg"):
        # Told by name: only services' storage imports these libraries. Their texts hold statements and parameters.
        return _line(f"The database refused ({type(error).__name__})", "Check that it runs, and its URL and password.")
    if isinstance(error, OSError) and error.strerror:
        return _line(f"{error.filename or 'Input or output'}: {error.strerror}")
    return _line(f"Something went wrong here ({type(error).__name__})", "MESSMAIL_TRACE=1 shows where.")


def _line(message: str, next_step: str = "") -> str:
    text = " ".join(message.split())
    if text[-1:] not in ".!?":
        text += "."
    return f"messmail: {text} {next_step}".rstrip()
