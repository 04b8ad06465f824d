"""The rings of keys as an operator handles them: rotate one, show all, take one away, encrypt all anew."""

from __future__ import annotations

from member_center.address_hashes import AddressHashes
from member_center.link_keys import StoredLinkKeys
from member_center.records.installation import KeyRing, ShownKey
from member_center.signing_keys import SigningKeys
from servicekit.audit import AuditLog
from servicekit.errors import invalid_field
from servicekit.keyring import MasterKeys


class Keyrings:
    """The rings of one installation, and the keys of the audit log and of the address hashes, stored as they are."""

    def __init__(
        self,
        signing_keys: SigningKeys,
        link_keys: StoredLinkKeys,
        hashes: AddressHashes,
        audit: AuditLog,
        master_keys: MasterKeys,
    ) -> None:
        self._signing_keys = signing_keys
        self._link_keys = link_keys
        self._hashes = hashes
        self._audit = audit
        self._master_keys = master_keys

    def rotate(self, ring: KeyRing) -> list[str]:
        """Makes a new current key, or one for each purpose, and returns the ids."""
        if ring is KeyRing.SIGNING:
            return [self._signing_keys.rotate()]
        return [key_id.hex() for key_id in self._link_keys.rotate()]

    def shown(self) -> list[tuple[KeyRing, ShownKey]]:
        """Returns what may be told of every key, newest first in each ring."""
        signing = [(KeyRing.SIGNING, key) for key in self._signing_keys.shown()]
        return signing + [(KeyRing.LINKS, key) for key in self._link_keys.shown()]

    def remove(self, ring: KeyRing, key_id: str) -> str:
        """Takes a key away and returns the id of one made in its place, empty where none was needed.

        Raises INVALID_FIELD.
        """
        if ring is KeyRing.SIGNING:
            return self._signing_keys.remove(key_id)
        try:
            sought = bytes.fromhex(key_id)
        except ValueError:
            raise invalid_field("key_id", "a key of links has eight hexadecimal digits") from None
        return self._link_keys.remove(sought).hex()

    def reencrypt(self) -> tuple[int, str]:
        """Encrypts everything under the first master key; returns how many secrets there are, and that key's id."""
        count = self._signing_keys.reencrypt() + self._link_keys.reencrypt() + self._hashes.reencrypt()
        self._audit.reencrypt_key()
        return count + 1, self._master_keys.first_id
