"""Cross-origin calls (CORS): whether pages of an origin may call for a list and read the answer.

A preflight names no list, so there any list of the installation is enough: what a page then sends is carried out as
anybody's call would be, but only where its own list allows the origin may the page read the answer.
"""

from __future__ import annotations

from uuid import UUID

from member_center.limits import Limiter
from member_center.links import Links
from member_center.lists import Lists
from member_center.origins import is_origin
from member_center.records.consent import Purpose
from member_center.records.installation import NewsletterList
from member_center.storage import lists as list_store
from servicekit.access import Caller
from servicekit.database import Database
from servicekit.errors import MessmailError


class CrossOrigin:
    """The origins that the lists of one installation allow."""

    def __init__(self, database: Database, lists: Lists, links: Links, limiter: Limiter) -> None:
        self._database = database
        self._lists = lists
        self._links = links
        self._limiter = limiter

    def allows(self, caller: Caller, origin: str, list_id: str, token: str) -> bool:
        """Tells whether the list of that id or link token allows an origin; without either, whether any list does.

        Raises RATE_LIMITED.
        """
        self._limiter.admit_origin_check(caller)
        if not is_origin(origin):
            return False
        if not list_id and not token:
            with self._database.directory() as connection:
                return list_store.is_allowed_origin(connection, origin)
        named = self._named(list_id) if list_id else self._of_link(token)
        return named is not None and origin in named.settings.allowed_origins

    def _named(self, list_id: str) -> NewsletterList | None:
        try:
            return self._lists.find(UUID(list_id))
        except ValueError:
            return None

    def _of_link(self, token: str) -> NewsletterList | None:
        try:
            link = self._links.open(token, *Purpose)
        except MessmailError:
            return None
        return self._lists.find(link.list_id, link.tenant_id)
