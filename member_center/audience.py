"""The audience: who is confirmed, page by page for planning, and group by group at the moment of sending."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from uuid import UUID

from member_center.address_hashes import AddressHashes
from member_center.links import Links
from member_center.lists import Lists
from member_center.records.consent import Link, Purpose
from member_center.records.mailing import AudiencePage, Authorization, Refusal
from member_center.storage import audience as audience_store
from servicekit.database import Database

PREFERENCES_LINK_LIFE = timedelta(days=365)
_NOBODY = UUID(int=0)


class Audience:
    """The audience of one installation's lists."""

    def __init__(self, database: Database, lists: Lists, links: Links, hashes: AddressHashes) -> None:
        self._database = database
        self._lists = lists
        self._links = links
        self._hashes = hashes

    def page(
        self, tenant_id: UUID, list_id: UUID, as_of: datetime | None, after: UUID | None, page_size: int
    ) -> AudiencePage:
        """Returns a page of those confirmed at as_of (None: now), after a subscription. Raises LIST_NOT_FOUND."""
        self._lists.get(list_id, tenant_id)
        with self._database.tenant(tenant_id) as connection:
            as_of = audience_store.read_now(connection) if as_of is None else as_of
            return audience_store.read_confirmed(connection, tenant_id, list_id, as_of, after, page_size)

    def authorize(
        self, tenant_id: UUID, list_id: UUID, ids: Sequence[bytes], *, with_preferences: bool = True
    ) -> Authorization:
        """Tells who of a group may be mailed now, with fresh links, read in one snapshot not earlier than read_at.

        Sealing is most of the work, so links to the preference centre are made only for mails that show them.
        """
        asked = list(dict.fromkeys(ids))
        with self._database.brief(tenant_id) as transaction:
            pads = asdict(self._hashes.pads(tenant_id))
            group = audience_store.read_group(transaction.finish, tenant_id, list_id, asked, **pads)
        links, mailable = self._links, group.mailable
        one_click = Link(Purpose.ONE_CLICK, tenant_id, list_id, _NOBODY)
        preferences_urls = [""] * len(mailable)
        if with_preferences:
            until = group.read_at + PREFERENCES_LINK_LIFE
            preferences = Link(Purpose.PREFERENCES, tenant_id, list_id, _NOBODY, expires_at=until)
            preferences_urls = [links.preferences_url(token) for token in links.seal_for_each(preferences, mailable)]
        authorized = set(mailable)
        return Authorization(
            group=group,
            one_click_urls=[links.one_click_url(token) for token in links.seal_for_each(one_click, mailable)],
            preferences_urls=preferences_urls,
            refused=[(each, group.refused.get(each, Refusal.GONE)) for each in asked if each not in authorized],
        )
