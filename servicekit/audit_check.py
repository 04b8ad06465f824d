"""Finds what was done to an audit log behind its back: page by page, with the key that its events were sealed with."""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field

from servicekit import audit_store
from servicekit.audit import CHANGED, AuditLog, chain, is_whole, told_head
from servicekit.audit_store import OPERATOR, Connection, Head, StoredEvent
from servicekit.database import Database
from servicekit.keyring import MasterKeys

PAGE = 5_000
_MOST_PROBLEMS = 100


@dataclass(slots=True)
class Findings:
    """What a page of a log is like. head is empty as long as there is no event."""

    verified_until: int
    more: bool = False
    head: str = ""
    problems: list[tuple[int, str]] = field(default_factory=list)

    def note(self, number: int, problem: str) -> None:
        """Adds what shows at an event."""
        if len(self.problems) < _MOST_PROBLEMS:
            self.problems.append((number, problem))


class AuditCheck:
    """Checks the audit log in one service's database."""

    def __init__(self, database: Database, master_keys: MasterKeys) -> None:
        self._database = database
        self._log = AuditLog(database, master_keys)

    def page(self, after: int, known_head: str = "") -> Findings:
        """Checks up to PAGE events after that number, and at the end of the log its end; and a head told earlier."""
        findings = Findings(after)
        with self._database.tenant(OPERATOR) as connection:
            head = audit_store.read_head(connection)
            if head is None:
                findings.note(0, "the head of the log is missing, and nothing can be told of the rest")
                return findings
            findings.head = told_head(head.last_number, head.last_mac)
            key = self._log.key_of(head)
            before = audit_store.read_mac(connection, after) if after else b""
            if before is None:
                findings.note(after, f"missing: {after}; so {after + 1} cannot be checked")
            events = audit_store.read_page(connection, after, head.last_number, PAGE)
            self._check_chain(key, after, before, events, findings)
            findings.more = findings.verified_until < head.last_number
            if not findings.more:
                _check_end(key, head, findings)
            if known_head:
                _check_known(connection, known_head, findings)
        return findings

    @staticmethod
    def _check_chain(
        key: bytes, after: int, before: bytes | None, events: list[StoredEvent], findings: Findings
    ) -> None:
        for event in events:
            if event.number != after + 1:
                missing = f"{after + 1}" if event.number == after + 2 else f"{after + 1} to {event.number - 1}"
                findings.note(after + 1, f"missing: {missing}; so {event.number} cannot be checked")
                before = None
            # What follows a gap has nothing to be checked against; what follows it in turn has.
            if before is not None and not hmac.compare_digest(chain(key, before, event), event.mac):
                findings.note(event.number, "is not as it was written, or not the one that was written here")
            if event.event == CHANGED:
                findings.note(event.number, "tells that the end of the log had been changed before this was written")
            after, before = event.number, event.mac
        findings.verified_until = after


def _check_end(key: bytes, head: Head, findings: Findings) -> None:
    if head.number > head.last_number:
        findings.note(head.last_number + 1, f"missing at the end: {head.last_number + 1} to {head.number}")
    elif not is_whole(key, head):
        findings.note(head.last_number, "the head does not fit the last event: the end of the log was changed")


def _check_known(connection: Connection, known_head: str, findings: Findings) -> None:
    number, _, mac = known_head.partition(":")
    found = audit_store.read_mac(connection, int(number))
    if found is None:
        findings.note(int(number), "missing, though this head was told of it")
    elif found.hex() != mac:
        findings.note(int(number), "is not the one of which this head was told")
