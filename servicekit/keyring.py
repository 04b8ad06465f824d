"""Secrets at rest, encrypted under the installation's master keys.

Signing keys, link keys and ESP credentials are stored encrypted, so a dump of a database alone reveals none. The first
master key encrypts, every one decrypts, so a new one is put in front and the old one removed once all is re-encrypted.
"""

from __future__ import annotations

import base64
import binascii
import hashlib

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

_KEY_BYTES = 32
# Of 32 random bytes some 30 are different; fewer than this happen to nobody, and are somebody's typing.
_LEAST_DIFFERENT_BYTES = 16


class MasterKeys:
    """The master keys of one service, from its settings."""

    def __init__(self, keys: str) -> None:
        """Reads comma-separated Fernet keys; raises ValueError when one is malformed or weak, or there is none."""
        read = [_random_bytes(key.strip()) for key in keys.split(",") if key.strip()]
        if not read:
            raise ValueError("there is no key")
        self._by_id = {key_id(key): Fernet(base64.urlsafe_b64encode(key)) for key in read}
        self._fernet = MultiFernet(list(self._by_id.values()))

    def encrypt(self, secret: bytes) -> bytes:
        """Encrypts a secret for storage."""
        return self._fernet.encrypt(secret)

    def decrypt(self, stored: bytes) -> bytes:
        """Decrypts a stored secret; raises RuntimeError when no master key fits."""
        try:
            return self._fernet.decrypt(stored)
        except InvalidToken:
            raise RuntimeError("a stored secret fits none of the master keys: restore the right ones") from None

    def reencrypt(self, stored: bytes) -> bytes:
        """Encrypts a stored secret under the first master key; raises RuntimeError when no master key fits."""
        return self.encrypt(self.decrypt(stored))

    @property
    def first_id(self) -> str:
        """The id of the master key that encrypts."""
        return next(iter(self._by_id))

    def id_of(self, stored: bytes) -> str:
        """Returns the id of the master key that a stored secret is encrypted under; empty when none fits."""
        for found, fernet in self._by_id.items():
            try:
                fernet.decrypt(stored)
            except InvalidToken:
                continue
            return found
        return ""


def read_master_keys(setting: str, keys: str) -> MasterKeys:
    """Reads master keys; refuses what is none, or not random."""
    try:
        return MasterKeys(keys)
    except ValueError as error:
        raise RuntimeError(f"{setting} does not do: {error}") from None


def key_id(key: bytes) -> str:
    """Returns what a master key is called where it must not be shown."""
    return hashlib.sha256(b"messmail master key" + key).hexdigest()[:8]


def _random_bytes(key: str) -> bytes:
    try:
        read = base64.urlsafe_b64decode(key)
    except (ValueError, binascii.Error):
        read = b""
    if len(read) != _KEY_BYTES:
        raise ValueError("a key must be 32 random bytes in base64url, as Fernet.generate_key() makes them")
    if len(set(read)) < _LEAST_DIFFERENT_BYTES:
        raise ValueError("a key is not random: make one with Fernet.generate_key()")
    return read
