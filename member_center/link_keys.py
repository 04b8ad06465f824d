"""The keys that seal links: one ring of keys for each purpose. Old keys stay, because some links live for ever."""

from __future__ import annotations

import os
from datetime import timedelta

from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV

from member_center.links import KEY_BYTES, KEY_ID_BYTES, LinkKey
from member_center.records import OPERATOR, Purpose
from member_center.snapshot import Snapshot
from member_center.storage import Connection
from member_center.storage import keys as key_store
from servicekit.database import Database
from servicekit.keyring import MasterKeys

REFRESH_SECONDS = 2.0
# A token with a made-up key id must not turn into a query each.
_UNKNOWN_KEY_SECONDS = 1.0
# A new key is in every process's snapshot before the first link is sealed with it.
_PUBLISHED_BEFORE = timedelta(seconds=5)


class StoredLinkKeys:
    """The keys of the database, known here within REFRESH_SECONDS."""

    def __init__(self, database: Database, master_keys: MasterKeys) -> None:
        self._database = database
        self._master_keys = master_keys
        self._known: dict[bytes, LinkKey] = {}
        self._current = Snapshot(self._read, REFRESH_SECONDS)

    def current(self, purpose: Purpose) -> LinkKey:
        """Returns the key that seals links of this purpose now."""
        return self._current.value()[purpose]

    def find(self, key_id: bytes) -> LinkKey | None:
        """Returns the key with this id, however old; None when there is none."""
        if key_id not in self._known:
            self._current.read_unless_newer(_UNKNOWN_KEY_SECONDS)
        return self._known.get(key_id)

    def rotate(self) -> list[bytes]:
        """Makes a new key for each purpose and returns their ids."""
        with self._database.tenant(OPERATOR) as connection:
            return [self._add(connection, purpose) for purpose in Purpose]

    def create_missing(self) -> None:
        """Makes the first key of each purpose that has none. Safe from several processes at once."""
        with self._database.tenant(OPERATOR) as connection:
            key_store.lock_rings(connection)
            _, stored = key_store.read_link_keys(connection)
            for purpose in Purpose:
                if not any(key.purpose == purpose.name.lower() for key in stored):
                    self._add(connection, purpose)

    def _add(self, connection: Connection, purpose: Purpose) -> bytes:
        key_id = os.urandom(KEY_ID_BYTES)
        encrypted = self._master_keys.encrypt(os.urandom(KEY_BYTES))
        key_store.add_link_key(connection, key_id, purpose.name.lower(), encrypted)
        return key_id

    def _read(self) -> dict[Purpose, LinkKey]:
        with self._database.tenant(OPERATOR) as connection:
            now, stored = key_store.read_link_keys(connection)
        current: dict[Purpose, LinkKey] = {}
        for key in reversed(stored):
            purpose = Purpose[key.purpose.upper()]
            if key.id not in self._known:
                self._known[key.id] = LinkKey(key.id, purpose, AESGCMSIV(self._master_keys.decrypt(key.encrypted_key)))
            # The newest that is old enough, or else the only one there is.
            if purpose not in current or key.created_at <= now - _PUBLISHED_BEFORE:
                current[purpose] = self._known[key.id]
        return current
