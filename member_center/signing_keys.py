"""The keys that sign access tokens. A new key is listed before it signs, an old one until its last token has ended.

Verifying is servicekit.tokens; what a token says is oauth.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)

from member_center.records.installation import OPERATOR, KeyState, ShownKey, StoredKey
from member_center.snapshot import Snapshot
from member_center.storage import Connection
from member_center.storage import keys as key_store
from servicekit.audit import AuditLog, Event
from servicekit.database import Database
from servicekit.errors import invalid_field
from servicekit.keyring import MasterKeys

REFRESH_SECONDS = 2.0
TOKEN_LIFE = timedelta(minutes=10)
# A token with a made-up key id must not turn into a query each.
_UNKNOWN_KEY_SECONDS = 1.0
# In this time every verifier can have fetched a new key, and every process of ours has it in its snapshot.
_PUBLISHED_BEFORE = timedelta(seconds=5)
# How long after its successor's making a key may still sign, with room for snapshots and clocks.
_SIGNS_ON = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key that signs access tokens."""

    kid: str
    private_key: ec.EllipticCurvePrivateKey = field(repr=False)
    public_key: ec.EllipticCurvePublicKey


@dataclass(frozen=True, slots=True)
class Ring:
    """The keys as they are now: the one that signs, and all that are listed, by kid."""

    signing: SigningKey
    listed: dict[str, SigningKey]


def choose(stored: Sequence[tuple[str, datetime]], now: datetime) -> tuple[str, list[str]]:
    """Decides which of the keys (kid and when it was made, newest first) signs, and which are listed."""
    signing = next((kid for kid, made in stored if made <= now - _PUBLISHED_BEFORE), stored[-1][0])
    listed = [stored[0][0]]
    for (_, successor_made), (kid, _) in pairwise(stored):
        if now < successor_made + _SIGNS_ON + TOKEN_LIFE:
            listed.append(kid)
    return signing, listed


def reencrypted(ring: str, master_key_id: str) -> Event:
    """Makes the event of a ring that was encrypted under another master key."""
    return Event.of_caller("keys_reencrypted", ring=ring, master_key_id=master_key_id)


def _remove_retired(connection: Connection, stored: Sequence[StoredKey], now: datetime) -> None:
    made = [(key.id.decode(), key.created_at) for key in stored]
    _, listed = choose(made, now)
    for kid, _ in made:
        if kid not in listed:
            key_store.remove_signing_key(connection, kid)


class SigningKeys:
    """The keys of the database, known here within REFRESH_SECONDS."""

    def __init__(self, database: Database, master_keys: MasterKeys, audit: AuditLog) -> None:
        self._database = database
        self._master_keys = master_keys
        self._audit = audit
        self._known: dict[str, SigningKey] = {}
        self._ring = Snapshot(self._read, REFRESH_SECONDS)

    def signing(self) -> SigningKey:
        """Returns the key that signs now."""
        return self._ring.value().signing

    def listed(self) -> list[SigningKey]:
        """Returns the keys that may verify tokens now."""
        return list(self._ring.value().listed.values())

    def key(self, kid: str) -> ec.EllipticCurvePublicKey | None:
        """Returns the key that may verify tokens now; None when there is none (any more)."""
        found = self._ring.value().listed.get(kid)
        if found is None:
            found = self._ring.read_unless_newer(_UNKNOWN_KEY_SECONDS).listed.get(kid)
        return found.public_key if found else None

    def rotate(self) -> str:
        """Makes a new key and returns its kid; keys that are listed no more go."""
        with self._database.tenant(OPERATOR) as connection:
            key_store.lock_rings(connection)
            now, stored = key_store.read_signing_keys(connection)
            _remove_retired(connection, stored, now)
            new = self._add(connection)
            self._audit.append(connection, Event.of_caller("keys_rotated", ring="signing", key_ids=[new]))
        return new

    def remove(self, kid: str) -> str:
        """Takes a key away before its time, and with it all tokens that it signed. Retired keys go with it.

        Returns the kid of one made in its place, empty where there is a newer one. Raises INVALID_FIELD.
        """
        with self._database.tenant(OPERATOR) as connection:
            key_store.lock_rings(connection)
            now, stored = key_store.read_signing_keys(connection)
            kids = [key.id.decode() for key in stored]
            if kid not in kids:
                raise invalid_field("key_id", "there is no such key in this ring")
            # Before it, for whatever is left would be counted as its successor's predecessor, and be listed again.
            _remove_retired(connection, stored, now)
            key_store.remove_signing_key(connection, kid)
            made = self._add(connection) if kid == kids[0] else ""
            self._audit.append(connection, Event.of_caller("key_removed", ring="signing", key_id=kid, made_id=made))
        self._ring.read_unless_newer(0)
        return made

    def shown(self) -> list[ShownKey]:
        """Returns what may be told of the keys, newest first."""
        with self._database.tenant(OPERATOR) as connection:
            now, stored = key_store.read_signing_keys(connection)
        signing, listed = choose([(key.id.decode(), key.created_at) for key in stored], now)
        states = {kid: KeyState.ACCEPTED for kid in listed} | {signing: KeyState.CURRENT}
        return [
            ShownKey(
                key.id.decode(),
                "",
                states.get(key.id.decode(), KeyState.RETIRED),
                key.created_at,
                self._master_keys.id_of(key.encrypted_key),
            )
            for key in stored
        ]

    def reencrypt(self) -> int:
        """Encrypts every key under the first master key, and returns how many there are."""
        with self._database.tenant(OPERATOR) as connection:
            key_store.lock_rings(connection)
            _, stored = key_store.read_signing_keys(connection)
            for key in stored:
                encrypted = self._master_keys.reencrypt(key.encrypted_key)
                key_store.replace_signing_key(connection, key.id.decode(), encrypted)
            self._audit.append(connection, reencrypted("signing", self._master_keys.first_id))
        return len(stored)

    def create_missing(self) -> None:
        """Makes the first key. Safe from several processes at once."""
        with self._database.tenant(OPERATOR) as connection:
            key_store.lock_rings(connection)
            _, stored = key_store.read_signing_keys(connection)
            if not stored:
                made = self._add(connection)
                self._audit.append(connection, Event("keys_made", {"ring": "signing", "key_ids": [made]}))

    def _add(self, connection: Connection) -> str:
        private_key = ec.generate_private_key(ec.SECP256R1())
        public = private_key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        kid = hashlib.sha256(public).hexdigest()[:16]
        der = private_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        key_store.add_signing_key(connection, kid, self._master_keys.encrypt(der))
        return kid

    def _read(self) -> Ring:
        with self._database.tenant(OPERATOR) as connection:
            now, stored = key_store.read_signing_keys(connection)
        signing, listed = choose([(key.id.decode(), key.created_at) for key in stored], now)
        by_kid = {key.id.decode(): self._opened(key) for key in stored if key.id.decode() in listed}
        return Ring(by_kid[signing], by_kid)

    def _opened(self, stored: StoredKey) -> SigningKey:
        """Returns the same object as long as this process lives, which is how a verifier knows a key again."""
        kid = stored.id.decode()
        if kid not in self._known:
            key = load_der_private_key(self._master_keys.decrypt(stored.encrypted_key), None)
            if not isinstance(key, ec.EllipticCurvePrivateKey):
                raise RuntimeError("a stored signing key is not a key of an elliptic curve")
            self._known[kid] = SigningKey(kid, key, key.public_key())
        return self._known[kid]
