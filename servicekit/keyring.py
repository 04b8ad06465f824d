"""Secrets at rest, encrypted under the installation's master keys.

Signing keys, link keys and ESP credentials are stored encrypted, so a dump of a database alone reveals none. The first
master key encrypts, every one decrypts, so a new one is put in front and the old one removed once all is re-encrypted.
"""

from __future__ import annotations

from cryptography.fernet import Fernet, InvalidToken, MultiFernet


class MasterKeys:
    """The master keys of one service, from its settings."""

    def __init__(self, keys: str) -> None:
        """Reads comma-separated Fernet keys; raises ValueError when one is malformed or there is none."""
        self._fernet = MultiFernet([Fernet(key.strip()) for key in keys.split(",") if key.strip()])

    def encrypt(self, secret: bytes) -> bytes:
        """Encrypts a secret for storage."""
        return self._fernet.encrypt(secret)

    def decrypt(self, stored: bytes) -> bytes:
        """Decrypts a stored secret; raises RuntimeError when no master key fits."""
        try:
            return self._fernet.decrypt(stored)
        except InvalidToken:
            raise RuntimeError("a stored secret fits none of the master keys: restore the right ones") from None
