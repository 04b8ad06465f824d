"""Examples for the documentation: a value for each field that an example should show, in the guide's own words."""

from __future__ import annotations

from typing import Any

_UUID = "3fa85f64-5717-4562-b3fc-2c963f66afa6"
_VALUES: dict[str, Any] = {
    "grant_type": "client_credentials",
    "client_id": _UUID,
    "client_secret": "the-secret-of-the-client",
    "scope": "newsletter:send.write",
    "list_id": _UUID,
    "email": "user@example.com",
    "preferences": {"lang": "zh-TW"},
    "token": "the-token-of-the-link",
    "language": "en",
    "leave_list_id": _UUID,
    "name": "Weekly Update",
    "subject": "Weekly Update",
    "body_html": "<p>Hello</p>",
    "body_text": "Hello",
    "scheduled_at": "2026-02-11T02:00:00Z",
    "id": _UUID,
    "idempotency_key": "d3b07384-d9a0-4c9b-8f8e-3f1f6c1f0b5a",
    "states": ["failed"],
    "outcome": "sent",
    "all": True,
}


def example_object(schema: dict[str, Any]) -> dict[str, Any]:
    """Returns an object that the schema accepts: every required field, and those that are worth showing."""
    properties = schema["properties"]
    missing = set(schema["required"]) - _VALUES.keys()
    if missing:
        raise ValueError(f"name an example for {', '.join(sorted(missing))}")
    return {name: _VALUES[name] for name in properties if name in _VALUES}


def example_value(name: str) -> Any:
    """Returns the example of one field; None when there is none."""
    return _VALUES.get(name)
