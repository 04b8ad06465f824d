"""Sealed links: what they carry, and the URLs that carry them.

A token is key id (4) | nonce (12) | ciphertext of a payload of fixed length (61) | tag (16), in base64url: always 124
characters. AES-256-GCM-SIV, so that even a repeated nonce reveals no more than equality. Purpose and key id are bound
as associated data. Tokens are never stored; what a link may do is decided in consent.
"""

from __future__ import annotations

import base64
import os
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol
from uuid import UUID, uuid4

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV

from member_center.records.consent import Link, Purpose
from servicekit.errors import MessmailError, Reason

KEY_BYTES = 32
KEY_ID_BYTES = 4
TOKEN_CHARACTERS = 124
_NONCE_BYTES = 12
# Purpose, tenant and list; then the subscription, 16 bytes; then generation and expiry in seconds (0: never).
_PAYLOAD_BEFORE = struct.Struct(">B16s16s")
_PAYLOAD_AFTER = struct.Struct(">IQ")
_SUBSCRIPTION = slice(_PAYLOAD_BEFORE.size, _PAYLOAD_BEFORE.size + 16)
# Decoders of base64 skip what they do not know, so that many texts would be one token: only this form is accepted.
_TOKEN_SHAPE = re.compile(rf"[A-Za-z0-9_-]{{{TOKEN_CHARACTERS}}}")


@dataclass(frozen=True, slots=True)
class LinkKey:
    """A key that seals links of one purpose."""

    id: bytes
    purpose: Purpose
    cipher: AESGCMSIV = field(repr=False)


class LinkKeys(Protocol):
    """Where the keys come from."""

    def current(self, purpose: Purpose) -> LinkKey:
        """Returns the key that seals links of this purpose now."""

    def find(self, key_id: bytes) -> LinkKey | None:
        """Returns the key with this id, however old; None when there is none."""


class Links:
    """Seals and opens links of one installation."""

    def __init__(self, keys: LinkKeys, public_base_url: str) -> None:
        self._keys = keys
        self._newsletter = public_base_url.rstrip("/") + "/newsletter"

    def seal(self, link: Link) -> str:
        """Returns the token that carries the link."""
        return self.seal_for_each(link, [link.subscription_id.bytes])[0]

    def seal_for_each(self, link: Link, subscription_ids: Sequence[bytes]) -> list[str]:
        """Returns, for each of these subscriptions, the token that carries the same link to it."""
        key = self._keys.current(link.purpose)
        expires = 0 if link.expires_at is None else int(link.expires_at.timestamp())
        before = _PAYLOAD_BEFORE.pack(link.purpose.value, link.tenant_id.bytes, link.list_id.bytes)
        after = _PAYLOAD_AFTER.pack(link.generation, expires)
        bound, encrypt = _bound(key), key.cipher.encrypt
        nonces = os.urandom(_NONCE_BYTES * len(subscription_ids))
        sealed: list[bytes] = []
        for place, subscription_id in enumerate(subscription_ids):
            nonce = nonces[place * _NONCE_BYTES : (place + 1) * _NONCE_BYTES]
            sealed += key.id, nonce, encrypt(nonce, before + subscription_id + after, bound)
        # The bytes of a token fill its characters, so many are encoded at once.
        tokens = base64.urlsafe_b64encode(b"".join(sealed)).decode()
        return [tokens[start : start + TOKEN_CHARACTERS] for start in range(0, len(tokens), TOKEN_CHARACTERS)]

    def open(self, token: str, *purposes: Purpose, tenant_id: UUID | None = None) -> Link:
        """Returns what a token carries.

        Raises LINK_INVALID unless it was sealed here for one of these purposes, and for that tenant where one is named.
        """
        if not _TOKEN_SHAPE.fullmatch(token):
            raise link_invalid()
        sealed = base64.urlsafe_b64decode(token)
        key = self._keys.find(sealed[:KEY_ID_BYTES])
        if key is None or key.purpose not in purposes:
            raise link_invalid()
        nonce, ciphertext = sealed[KEY_ID_BYTES : KEY_ID_BYTES + _NONCE_BYTES], sealed[KEY_ID_BYTES + _NONCE_BYTES :]
        try:
            payload = key.cipher.decrypt(nonce, ciphertext, _bound(key))
        except InvalidTag:
            raise link_invalid() from None
        purpose, tenant, list_id = _PAYLOAD_BEFORE.unpack_from(payload)
        generation, expires = _PAYLOAD_AFTER.unpack_from(payload, _SUBSCRIPTION.stop)
        if purpose != key.purpose.value or tenant_id not in (None, UUID(bytes=tenant)):
            raise link_invalid()
        return Link(
            key.purpose,
            UUID(bytes=tenant),
            UUID(bytes=list_id),
            UUID(bytes=payload[_SUBSCRIPTION]),
            generation,
            datetime.fromtimestamp(expires, UTC) if expires else None,
        )

    def seal_decoy(self, tenant_id: UUID, list_id: UUID, expires_at: datetime) -> str:
        """Returns an unsubscribe token of nobody, for an address that is not known: the answer must not tell."""
        return self.seal(Link(Purpose.UNSUBSCRIBE, tenant_id, list_id, uuid4(), 1, expires_at))

    def confirm_url(self, token: str) -> str:
        """Returns the URL of the page with the confirm button."""
        return f"{self._newsletter}/confirm?token={token}"

    def one_click_url(self, token: str) -> str:
        """Returns the URL that unsubscribes by POST (RFC 8058), and shows a page."""
        return f"{self._newsletter}/unsubscribe?token={token}"

    def preferences_url(self, token: str) -> str:
        """Returns the URL of the preference centre."""
        return f"{self._newsletter}/preference-center?token={token}"


def link_invalid() -> MessmailError:
    """Makes the error for a token that opens nothing here."""
    return MessmailError(
        Reason.ERROR_REASON_LINK_INVALID, "token: send the token of a link exactly as it was given out"
    )


def _bound(key: LinkKey) -> bytes:
    return bytes([key.purpose.value]) + key.id
