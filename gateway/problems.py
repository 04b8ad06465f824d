"""Errors as HTTP answers: problem+json (RFC 9457), or what RFC 6749 names under the OAuth endpoints.

Which status and title a reason has is read from the contract. An answer says nothing that the error does not.
"""

from __future__ import annotations

import math
import re

import orjson

from gateway.exchange import Answer
from servicekit.errors import MessmailError, Reason

_NOT_IN_HEADER_TEXT = re.compile(r"[^\x20\x21\x23-\x5b\x5d-\x7e]")
_REASONS_OF_BAD_TOKENS = {Reason.ERROR_REASON_TOKEN_INVALID, Reason.ERROR_REASON_TOKEN_EXPIRED}


def problem_answer(error: MessmailError, request_id: str, documentation: str) -> Answer:
    """Puts an error into problem+json. documentation is the URL of the page that explains every reason."""
    status = error.status
    problem: dict[str, object] = {
        "type": f"{documentation}#{status.name}",
        "title": status.title,
        "status": status.http,
        "detail": error.message,
        "reason": status.name,
        "request_id": request_id,
    }
    if error.violations:
        problem["violations"] = [{"field": v.field, "description": v.description} for v in error.violations]
    metadata = {name: value for name, value in error.metadata.items() if name != "allow"}
    if metadata:
        problem["metadata"] = metadata
    headers = (*error_headers(error), *_bearer_challenge(error))
    return Answer(status.http, orjson.dumps(problem), "application/problem+json", headers)


def oauth_answer(error: MessmailError) -> Answer:
    """Puts an error into the form of RFC 6749 section 5.2."""
    status = error.status
    body = {"error": status.oauth_error, "error_description": _header_text(error.message)}
    headers = error_headers(error)
    if status.http == 401:
        headers += (("www-authenticate", 'Basic realm="messmail", charset="UTF-8"'),)
    return Answer(status.http, orjson.dumps(body), "application/json", headers)


def error_headers(error: MessmailError) -> tuple[tuple[str, str], ...]:
    """Returns the headers that an error has in every form."""
    headers = [("cache-control", "no-store")]
    if error.retry_after is not None:
        headers.append(("retry-after", str(max(1, math.ceil(error.retry_after)))))
    if "allow" in error.metadata:
        headers.append(("allow", error.metadata["allow"]))
    return tuple(headers)


def _bearer_challenge(error: MessmailError) -> tuple[tuple[str, str], ...]:
    """RFC 6750 section 3: why the token was not enough; nothing about it when none was sent."""
    challenge = 'Bearer realm="messmail"'
    if error.reason in _REASONS_OF_BAD_TOKENS:
        challenge += f', error="invalid_token", error_description="{_header_text(error.message)}"'
    elif error.status.http == 403:
        challenge += ', error="insufficient_scope"'
        if "scope" in error.metadata:
            challenge += f', scope="{_header_text(error.metadata["scope"])}"'
    elif error.status.http != 401:
        return ()
    return (("www-authenticate", challenge),)


def _header_text(text: str) -> str:
    return _NOT_IN_HEADER_TEXT.sub("'", text)
