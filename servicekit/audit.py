"""The audit log of a service: what was done to the installation and by whom, append-only and chained.

Each event carries a MAC over itself and the MAC before it, so that nothing in between can be changed, taken out or put
in. The head carries a seal over the last MAC, so that nothing can be taken off the end. The key of both is stored
encrypted under the master keys: whoever holds the database alone cannot make either. An old copy of log and head
together is found out by a head that was told earlier (the log line audit.head, and what verifying answers).

An event is written in one of two ways. append() belongs to the transaction of the change: no change without its event.
record() hands it to a thread that writes what has come within WRITE_SECONDS at once: for what happens often and changes
nothing. An orderly stop writes them all; a kill loses those of that time, and no others.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import queue
import secrets
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TypeAlias
from uuid import UUID

import structlog

from servicekit import audit_store
from servicekit.access import current_caller
from servicekit.audit_store import OPERATOR, Connection, Head, StoredEvent
from servicekit.database import Database
from servicekit.errors import MessmailError, Reason
from servicekit.keyring import MasterKeys

Fact: TypeAlias = str | int | bool | list[str] | dict[str, int | None] | None

# Written before anything else into a log whose end is not the one that was sealed.
CHANGED = "audit_log_changed"
WRITE_SECONDS = 0.25
_MOST_WAITING = 20_000
_MOST_AT_ONCE = 5_000
_PATIENCE_SECONDS = 5.0
_RETRY_SECONDS = 1.0
_PARTING_SECONDS = 10.0
_KEY_BYTES = 32
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Beyond so many alike in a minute, only their number is written: whoever guesses must not be able to fill the disk.
_MOST_ALIKE = 100
_ALIKE_SECONDS = 60.0
_REPEATED = {
    "call_refused",
    "client_authentication_failed",
    "client_authentication_limited",
    "client_unauthorized",
}

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Event:
    """Something that was done or refused. Its facts are ids, names and reasons: never an address, secret or token."""

    name: str
    facts: Mapping[str, Fact] = field(default_factory=dict)
    client_id: UUID | None = None
    request_id: str = ""

    @staticmethod
    def of_caller(name: str, **facts: Fact) -> Event:
        """Makes an event of the caller of the RPC under way; of nobody outside of one."""
        caller = current_caller()
        if caller is None:
            return Event(name, facts)
        return Event(name, facts, caller.client_id, caller.request_id)


class Thinning:
    """Keeps the first of many refusals alike in a minute, and of the others their number, once for each batch."""

    def __init__(self) -> None:
        self._seen: Counter[tuple[str, UUID | None, str]] = Counter()
        self._forget_at = 0.0

    def of(self, events: Sequence[Event], now: float) -> list[Event]:
        """Returns what to write of a batch; now is in seconds of any clock."""
        if now >= self._forget_at:
            self._seen.clear()
            self._forget_at = now + _ALIKE_SECONDS
        kept: list[Event] = []
        more: Counter[tuple[str, UUID | None, str]] = Counter()
        for event in events:
            if event.name not in _REPEATED:
                kept.append(event)
                continue
            key = (event.name, event.client_id, json.dumps(dict(event.facts), sort_keys=True))
            self._seen[key] += 1
            if self._seen[key] <= _MOST_ALIKE:
                kept.append(event)
            else:
                more[key] += 1
        for (name, client_id, facts), count in more.items():
            kept.append(Event(name, json.loads(facts) | {"more_alike": count}, client_id))
        return kept


class AuditLog:
    """The audit log in one service's database."""

    def __init__(self, database: Database, master_keys: MasterKeys) -> None:
        self._database = database
        self._master_keys = master_keys
        self._waiting: queue.Queue[Event] = queue.Queue(_MOST_WAITING)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._write_until_stopped, name="audit", daemon=True)
        self._thinning = Thinning()
        self._last_number = 0

    def begin(self) -> None:
        """Begins the log where there is none yet. Safe from several processes at once.

        Raises RuntimeError when none of the master keys fits the log's key.
        """
        key = secrets.token_bytes(_KEY_BYTES)
        with self._database.tenant(OPERATOR) as connection:
            if audit_store.add_head(connection, self._master_keys.encrypt(key), seal(key, 0, b"")):
                self._append(connection, [Event("audit_log_begun")])
            self.key_of(_there(audit_store.read_head(connection)))

    def start(self) -> None:
        """Begins the log and starts the thread that writes what is recorded."""
        self.begin()
        self._thread.start()

    def close(self) -> None:
        """Writes what is still waiting, for at most ten seconds, and stops the thread."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(_PARTING_SECONDS)
        if not self._waiting.empty():
            _log.error("audit.lost", events=self._waiting.qsize())

    def append(self, connection: Connection, *events: Event) -> None:
        """Writes events in the transaction of what they tell of, as its last step: it sees no tenant afterwards."""
        audit_store.enter_operator(connection)
        self._append(connection, events)
        self._tell(events)

    def record(self, event: Event) -> None:
        """Writes an event soon. Raises UNAVAILABLE when so many are waiting that none has been written for seconds."""
        try:
            self._waiting.put(event, timeout=_PATIENCE_SECONDS)
        except queue.Full:
            raise MessmailError(
                Reason.ERROR_REASON_UNAVAILABLE, "the audit log cannot be written at the moment: try again"
            ) from None
        self._tell([event])

    def newest(self, before: int, limit: int) -> list[StoredEvent]:
        """Returns events, newest first; before 0 means from the end."""
        with self._database.tenant(OPERATOR) as connection:
            return audit_store.read_newest(connection, before or None, limit)

    def reencrypt_key(self) -> None:
        """Stores the key encrypted under the first master key."""
        with self._database.tenant(OPERATOR) as connection:
            head = audit_store.lock_head(connection)
            if head is not None:
                audit_store.replace_key(connection, self._master_keys.reencrypt(head.encrypted_key))

    def key_of(self, head: Head) -> bytes:
        """Returns the key that MACs and seals are made with."""
        return self._master_keys.decrypt(head.encrypted_key)

    def _append(self, connection: Connection, events: Sequence[Event]) -> StoredEvent:
        """Returns the last one as it is stored."""
        head = _there(audit_store.lock_head(connection))
        key, mac, stored = self.key_of(head), head.last_mac, list[StoredEvent]()
        if head.number < self._last_number or not is_whole(key, head):
            # The new seal would cover it up; so it is told for good.
            _log.critical("audit.changed", head=head.number, last=head.last_number, written=self._last_number)
            events = [Event(CHANGED, {"head": head.number, "last": head.last_number}), *events]
        for number, event in enumerate(events, max(head.number, head.last_number) + 1):
            unsealed = StoredEvent(
                number, head.now, event.name, event.client_id, event.request_id, dict(event.facts), b""
            )
            mac = chain(key, mac, unsealed)
            stored.append(replace(unsealed, mac=mac))
        audit_store.append(connection, stored, seal(key, stored[-1].number, mac))
        return stored[-1]

    def _write_until_stopped(self) -> None:
        while batch := self._next_batch():
            self._write(batch)

    def _next_batch(self) -> list[Event]:
        """Waits for events; there are none only once the log is being closed."""
        while True:
            is_last = self._stopping.wait(WRITE_SECONDS)
            batch: list[Event] = []
            with suppress(queue.Empty):
                while len(batch) < _MOST_AT_ONCE:
                    batch.append(self._waiting.get_nowait())
            if batch or is_last:
                return batch

    def _write(self, batch: list[Event]) -> None:
        events, give_up_at = self._thinning.of(batch, time.monotonic()), float("inf")
        while True:
            try:
                with self._database.tenant(OPERATOR) as connection:
                    last = self._append(connection, events)
            except Exception as error:
                if not isinstance(error, MessmailError):
                    _log.error("audit.crashed", exc_info=error)
                if self._stopping.is_set():
                    give_up_at = min(give_up_at, time.monotonic() + _PARTING_SECONDS / 2)
                if time.monotonic() > give_up_at:
                    _log.error("audit.lost", events=len(batch))
                    return
                time.sleep(_RETRY_SECONDS)
            else:
                self._last_number = last.number
                _log.info("audit.head", head=told_head(last.number, last.mac))
                return

    @staticmethod
    def _tell(events: Iterable[Event]) -> None:
        for event in events:
            client_id = None if event.client_id is None else str(event.client_id)
            _log.info(f"audit.{event.name}", **({"client_id": client_id} | dict(event.facts)))


def chain(key: bytes, before: bytes, event: StoredEvent) -> bytes:
    """Returns the MAC of an event that follows one with that MAC."""
    microseconds = (event.at - _EPOCH) // timedelta(microseconds=1)
    client_id = None if event.client_id is None else str(event.client_id)
    told = [event.number, microseconds, event.event, client_id, event.request_id, event.facts]
    text = json.dumps(told, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hmac.digest(key, b"event" + before + text.encode(), hashlib.sha256)


def seal(key: bytes, number: int, last_mac: bytes) -> bytes:
    """Returns the seal of a head: which event is the last one."""
    return hmac.digest(key, b"head" + str(number).encode() + b":" + last_mac, hashlib.sha256)


def is_whole(key: bytes, head: Head) -> bool:
    """Tells whether the last event is the one that the head was sealed over."""
    return head.number == head.last_number and hmac.compare_digest(seal(key, head.number, head.last_mac), head.seal)


def told_head(number: int, last_mac: bytes) -> str:
    """Returns the head as it is told and kept elsewhere."""
    return f"{number}:{last_mac.hex()}" if number else ""


def _there(head: Head | None) -> Head:
    if head is None:
        raise RuntimeError("the audit log has no head, which is made when the service starts: it has been removed")
    return head
