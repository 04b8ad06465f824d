"""The keys that seal links: one ring of keys for each purpose. Old keys stay, because some links live for ever."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime, timedelta

from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV

from member_center.links import KEY_BYTES, KEY_ID_BYTES, LinkKey
from member_center.records.consent import Purpose
from member_center.records.installation import OPERATOR, KeyState, ShownKey, StoredKey
from member_center.signing_keys import reencrypted
from member_center.snapshot import Snapshot
from member_center.storage import Connection
from member_center.storage import keys as key_store
from servicekit.audit import AuditLog, Event
from servicekit.database import Database
from servicekit.errors import invalid_field
from servicekit.keyring import MasterKeys

REFRESH_SECONDS = 2.0
# A token with a made-up key id must not turn into a query each.
_UNKNOWN_KEY_SECONDS = 1.0
# A new key is in every process's snapshot before the first link is sealed with it.
_PUBLISHED_BEFORE = timedelta(seconds=5)


class StoredLinkKeys:
    """The keys of the database, known here within REFRESH_SECONDS."""

    def __init__(self, database: Database, master_keys: MasterKeys, audit: AuditLog) -> None:
        self._database = database
        self._master_keys = master_keys
        self._audit = audit
        self._known: dict[bytes, LinkKey] = {}
        self._current = Snapshot(self._read, REFRESH_SECONDS)

    def current(self, purpose: Purpose) -> LinkKey:
        """Returns the key that seals links of this purpose now."""
        return self._current.value()[purpose]

    def find(self, key_id: bytes) -> LinkKey | None:
        """Returns the key with this id, however old; None when there is none (any more)."""
        self._current.value()
        if key_id not in self._known:
            self._current.read_unless_newer(_UNKNOWN_KEY_SECONDS)
        return self._known.get(key_id)

    def rotate(self) -> list[bytes]:
        """Makes a new key for each purpose and returns their ids."""
        with self._database.tenant(OPERATOR) as connection:
            made = [self._add(connection, purpose) for purpose in Purpose]
            self._audit.append(connection, _event("keys_rotated", made))
        return made

    def remove(self, key_id: bytes) -> bytes:
        """Takes a key away, and with it all links that it sealed.

        Returns the id of one made in its place, empty where its purpose has a newer one. Raises INVALID_FIELD.
        """
        with self._database.tenant(OPERATOR) as connection:
            key_store.lock_rings(connection)
            _, stored = key_store.read_link_keys(connection)
            found = next((key for key in stored if key.id == key_id), None)
            if found is None:
                raise invalid_field("key_id", "there is no such key in this ring")
            key_store.remove_link_key(connection, key_id)
            is_newest = found is next(key for key in stored if key.purpose == found.purpose)
            made = self._add(connection, Purpose[found.purpose.upper()]) if is_newest else b""
            self._audit.append(
                connection,
                Event.of_caller("key_removed", ring="links", key_id=key_id.hex(), made_id=made.hex()),
            )
        self._current.read_unless_newer(0)
        return made

    def shown(self) -> list[ShownKey]:
        """Returns what may be told of the keys, newest first."""
        with self._database.tenant(OPERATOR) as connection:
            now, stored = key_store.read_link_keys(connection)
        current = {key.id for key in _current_of(now, stored).values()}
        return [
            ShownKey(
                key.id.hex(),
                key.purpose,
                KeyState.CURRENT if key.id in current else KeyState.ACCEPTED,
                key.created_at,
                self._master_keys.id_of(key.encrypted_key),
            )
            for key in stored
        ]

    def reencrypt(self) -> int:
        """Encrypts every key under the first master key, and returns how many there are."""
        with self._database.tenant(OPERATOR) as connection:
            key_store.lock_rings(connection)
            _, stored = key_store.read_link_keys(connection)
            for key in stored:
                encrypted = self._master_keys.reencrypt(key.encrypted_key)
                key_store.replace_link_key(connection, key.id, encrypted)
            self._audit.append(connection, reencrypted("links", self._master_keys.first_id))
        return len(stored)

    def create_missing(self) -> None:
        """Makes the first key of each purpose that has none. Safe from several processes at once."""
        with self._database.tenant(OPERATOR) as connection:
            key_store.lock_rings(connection)
            _, stored = key_store.read_link_keys(connection)
            missing = [purpose for purpose in Purpose if purpose.name.lower() not in {key.purpose for key in stored}]
            if missing:
                made = [self._add(connection, purpose) for purpose in missing]
                self._audit.append(connection, _event("keys_made", made))

    def _add(self, connection: Connection, purpose: Purpose) -> bytes:
        key_id = os.urandom(KEY_ID_BYTES)
        encrypted = self._master_keys.encrypt(os.urandom(KEY_BYTES))
        key_store.add_link_key(connection, key_id, purpose.name.lower(), encrypted)
        return key_id

    def _read(self) -> dict[Purpose, LinkKey]:
        with self._database.tenant(OPERATOR) as connection:
            now, stored = key_store.read_link_keys(connection)
        known = self._known
        self._known = {key.id: known.get(key.id) or self._opened(key) for key in stored}
        return {purpose: self._known[key.id] for purpose, key in _current_of(now, stored).items()}

    def _opened(self, stored: StoredKey) -> LinkKey:
        cipher = AESGCMSIV(self._master_keys.decrypt(stored.encrypted_key))
        return LinkKey(stored.id, Purpose[stored.purpose.upper()], cipher)


def _current_of(now: datetime, stored: Sequence[StoredKey]) -> dict[Purpose, StoredKey]:
    """Decides which of the keys, newest first, seals links of each purpose."""
    current: dict[Purpose, StoredKey] = {}
    for key in reversed(stored):
        purpose = Purpose[key.purpose.upper()]
        # The newest that is old enough, or else the only one there is.
        if purpose not in current or key.created_at <= now - _PUBLISHED_BEFORE:
            current[purpose] = key
    return current


def _event(name: str, made: Sequence[bytes]) -> Event:
    return Event.of_caller(name, ring="links", key_ids=[key_id.hex() for key_id in made])
