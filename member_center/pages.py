"""Pages of what an operator lists, and the opaque tokens that lead from one to the next."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar
from uuid import UUID

from servicekit.errors import invalid_field

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A page, and the token of the next one; empty on the last."""

    items: Sequence[T]
    next_page_token: str


def page_of(found: Sequence[T], size: int, place: Callable[[T], tuple[datetime, UUID]]) -> Page[T]:
    """Makes a page of what was found, of which one more than fits tells that there is a next page."""
    items = found[:size]
    if len(found) <= size:
        return Page(items, "")
    made_at, last_id = place(items[-1])
    token = base64.urlsafe_b64encode(f"{made_at.isoformat()} {last_id}".encode()).decode().rstrip("=")
    return Page(items, token)


def read_page_token(token: str) -> tuple[datetime, UUID] | None:
    """Returns the place of the last item of the page before; raises INVALID_FIELD."""
    if not token:
        return None
    try:
        made_at, _, last_id = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode().partition(" ")
        place = datetime.fromisoformat(made_at), UUID(last_id)
    except ValueError:
        place = None
    if place is None or place[0].tzinfo is None:
        raise invalid_field("page_token", "send the next_page_token of the page before, or leave it out")
    return place
