"""Origins: whose pages may call for a list (CORS), as an operator writes them.

An origin is scheme, host and port (RFC 6454 section 4), in the one spelling that browsers send (section 6.2), so that
two of them are compared character by character.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from servicekit.errors import FieldViolation, MessmailError, Reason

_SHAPE = re.compile(r"(https?)://([a-z0-9_](?:[a-z0-9._-]*[a-z0-9])?|\[[0-9a-f:.]+\])(?::([1-9][0-9]{0,4}))?")
_OWN_PORTS = {"http": "80", "https": "443"}


def check_origins(field: str, origins: Sequence[str]) -> tuple[str, ...]:
    """Returns the origins, each once; raises INVALID_FIELD for every one that no browser would send."""
    violations = [
        FieldViolation(f"{field}[{place}]", problem)
        for place, origin in enumerate(origins)
        if (problem := _problem(origin)) is not None
    ]
    if violations:
        text = f"{violations[0].field}: {violations[0].description}"
        raise MessmailError(Reason.ERROR_REASON_INVALID_FIELD, text, violations=violations)
    return tuple(dict.fromkeys(origins))


def is_origin(text: str) -> bool:
    """Tells whether a text is an origin that a list could allow."""
    return _problem(text) is None


def _problem(origin: str) -> str | None:
    match = _SHAPE.fullmatch(origin)
    if match is None:
        return (
            'write scheme, host and port as browsers do, in lower case, without a path and without "*": '
            "https://shop.example or http://localhost:3000"
        )
    scheme, _, port = match.groups()
    if port == _OWN_PORTS[scheme]:
        return "leave out the scheme's own port, as browsers do"
    return None
