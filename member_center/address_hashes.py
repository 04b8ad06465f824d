"""Keyed hashes of addresses: what is kept of a suppressed address, so that it outlives the person's erasure.

HMAC-SHA-256 (RFC 2104) of the address key, with a key per tenant, so that the hashes of two tenants cannot be compared.
The tenants' keys come from one key of the installation, which is stored encrypted and never rotated: a hash cannot be
made anew without the address.
"""

from __future__ import annotations

import hmac
import os
from dataclasses import dataclass, field
from functools import cached_property
from uuid import UUID

from member_center.records.installation import OPERATOR
from member_center.storage import suppressions as suppression_store
from servicekit.audit import AuditLog, Event
from servicekit.database import Database
from servicekit.keyring import MasterKeys

_KEY_BYTES = 32
_BLOCK_BYTES = 64
_INNER, _OUTER = (bytes(byte ^ pad for byte in range(256)) for pad in (0x36, 0x5C))


@dataclass(frozen=True, slots=True)
class HashPads:
    """A tenant's key as HMAC uses it: hash(outer + hash(inner + text)). The database hashes with them too."""

    hash_inner: bytes = field(repr=False)
    hash_outer: bytes = field(repr=False)


class AddressHashes:
    """The hashes of one installation."""

    def __init__(self, database: Database, master_keys: MasterKeys, audit: AuditLog) -> None:
        self._database = database
        self._master_keys = master_keys
        self._audit = audit

    def create_missing(self) -> None:
        """Makes the key of an installation that has none. Safe from several processes at once."""
        with self._database.tenant(OPERATOR) as connection:
            if suppression_store.read_key(connection) is None:
                suppression_store.add_key(connection, self._master_keys.encrypt(os.urandom(_KEY_BYTES)))
                self._audit.append(connection, Event("keys_made", {"ring": "address_hashes"}))

    def reencrypt(self) -> int:
        """Encrypts the key under the first master key, and returns how many there are."""
        with self._database.tenant(OPERATOR) as connection:
            stored = suppression_store.read_key(connection)
            if stored is None:
                return 0
            suppression_store.replace_key(connection, self._master_keys.reencrypt(stored))
        return 1

    def hash(self, tenant_id: UUID, address_key: str) -> bytes:
        """Returns the hash of an address key at a tenant, 32 bytes."""
        return hmac.digest(self._tenant_key(tenant_id), address_key.encode(), "sha256")

    def pads(self, tenant_id: UUID) -> HashPads:
        """Returns what the database needs to compute the hashes of a tenant."""
        block = self._tenant_key(tenant_id).ljust(_BLOCK_BYTES, b"\0")
        return HashPads(block.translate(_INNER), block.translate(_OUTER))

    def _tenant_key(self, tenant_id: UUID) -> bytes:
        return hmac.digest(self._key, tenant_id.bytes, "sha256")

    @cached_property
    def _key(self) -> bytes:
        with self._database.tenant(OPERATOR) as connection:
            stored = suppression_store.read_key(connection)
        if stored is None:
            raise RuntimeError("the key of the address hashes is missing: start the service once more to make it")
        return self._master_keys.decrypt(stored)
