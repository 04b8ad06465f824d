"""Imports: members that a tenant brings along, page by page.

Nobody who decided for themselves is touched, nor is anybody whose address is suppressed.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID, uuid4

from member_center import consent
from member_center.address_hashes import AddressHashes
from member_center.lists import Lists
from member_center.records.consent import Change, Evidence, LogEntry, Preferences, Subscription, Through
from member_center.records.installation import NewsletterList
from member_center.records.people import Imported, ImportRow
from member_center.storage import subscriptions as subscription_store
from member_center.storage import suppressions as suppression_store
from servicekit.addresses import AddressError, EmailAddress, parse_address
from servicekit.audit import AuditLog, Event
from servicekit.database import Database


class Imports:
    """Imports into the lists of one installation."""

    def __init__(self, database: Database, lists: Lists, hashes: AddressHashes, audit: AuditLog) -> None:
        self._database = database
        self._audit = audit
        self._lists = lists
        self._hashes = hashes

    def import_page(
        self, tenant_id: UUID, list_id: UUID, rows: Sequence[ImportRow], *, proven: bool, evidence: Evidence
    ) -> Imported:
        """Imports the rows that can be read, in one transaction; raises LIST_NOT_FOUND.

        Where the consent is not proven, each person is sent a confirmation mail.
        """
        found = self._lists.get(list_id, tenant_id)
        readable, rejected = _read(rows)
        with self._database.brief(found.tenant_id) as transaction:
            run = transaction.run
            suppression_store.hold_off_erasures(run, found.tenant_id)
            now, known = subscription_store.lock_by_addresses(run, found.tenant_id, found.id, list(readable))
            hashes = {key: self._hashes.hash(found.tenant_id, key) for key in readable}
            held = suppression_store.read_suppressed(run, found.tenant_id, found.id, list(hashes.values()))
            suppressed = {key for key, hashed in hashes.items() if hashed in held}
            new, changed = _admit_all(found, readable, known, suppressed, proven, now)
            entry = LogEntry(Through.IMPORT, now, evidence)
            # Who is not among the added subscribed in the meantime.
            imported = len(subscription_store.add(run, new, entry)) + len(changed)
            subscription_store.replace(run, changed, entry)
        self._audit.record(
            Event.of_caller(
                "members_imported",
                tenant_id=str(found.tenant_id),
                list_id=str(found.id),
                imported=imported,
                confirmed=proven,
            )
        )
        return Imported(imported, len(rows) - imported - len(rejected), tuple(rejected))


def _read(rows: Sequence[ImportRow]) -> tuple[dict[str, tuple[EmailAddress, Preferences]], list[tuple[int, str]]]:
    readable: dict[str, tuple[EmailAddress, Preferences]] = {}
    rejected = []
    for index, row in enumerate(rows):
        try:
            address = parse_address(row.email)
        except AddressError as error:
            rejected.append((index, f"email: {error.problem}"))
            continue
        if row.problem:
            rejected.append((index, f"preferences: {row.problem}"))
            continue
        readable.setdefault(address.key, (address, row.preferences))
    return readable, rejected


def _admit_all(
    found: NewsletterList,
    readable: dict[str, tuple[EmailAddress, Preferences]],
    known: dict[str, Subscription],
    suppressed: set[str],
    proven: bool,
    now: datetime,
) -> tuple[list[Change], list[Change]]:
    """Returns what is new, and what changes of what there was."""
    new: list[Change] = []
    changed: list[Change] = []
    for key, (address, preferences) in readable.items():
        before = known.get(key)
        subscription = before or Subscription(found.tenant_id, found.id, uuid4(), key, address.address)
        after = consent.admit(subscription, preferences, proven=proven, now=now, is_suppressed=key in suppressed)
        if after != subscription:
            (new if before is None else changed).append(consent.change(before, after, now))
    return new, changed
