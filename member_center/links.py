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
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol
from uuid import UUID, uuid4

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV

from member_center.records import Link, Purpose
from servicekit.errors import MessmailError, Reason

KEY_BYTES = 32
KEY_ID_BYTES = 4
TOKEN_CHARACTERS = 124
_NONCE_BYTES = 12
_PAYLOAD = struct.Struct(">B16s16s16sIQ")
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
        key = self._keys.current(link.purpose)
        expires = 0 if link.expires_at is None else int(link.expires_at.timestamp())
        payload = _PAYLOAD.pack(
            link.purpose.value,
            link.tenant_id.bytes,
            link.list_id.bytes,
            link.subscription_id.bytes,
            link.generation,
            expires,
        )
        nonce = os.urandom(_NONCE_BYTES)
        sealed = key.cipher.encrypt(nonce, payload, _bound(key))
        return base64.urlsafe_b64encode(key.id + nonce + sealed).decode()

    def open(self, token: str, *purposes: Purpose) -> Link:
        """Returns what a token carries; raises LINK_INVALID unless it was sealed here for one of these purposes."""
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
        purpose, tenant_id, list_id, subscription_id, generation, expires = _PAYLOAD.unpack(payload)
        if purpose != key.purpose.value:
            raise link_invalid()
        return Link(
            key.purpose,
            UUID(bytes=tenant_id),
            UUID(bytes=list_id),
            UUID(bytes=subscription_id),
            generation,
            datetime.fromtimestamp(expires, UTC) if expires else None,
        )

    def seal_decoy(self, tenant_id: UUID, list_id: UUID, expires_at: datetime) -> str:
        """Returns an unsubscribe token of nobody, for an address that is not known: the answer must not tell."""
        return self.seal(Link(Purpose.UNSUBSCRIBE, tenant_id, list_id, uuid4(), 1, expires_at))

    def confirm_url(self, link: Link) -> str:
        """Returns the URL of the page with the confirm button."""
        return f"{self._newsletter}/confirm?token={self.seal(link)}"

    def one_click_url(self, link: Link) -> str:
        """Returns the URL that unsubscribes by POST (RFC 8058), and shows a page."""
        return f"{self._newsletter}/unsubscribe?token={self.seal(link)}"

    def preferences_url(self, link: Link) -> str:
        """Returns the URL of the preference centre."""
        return f"{self._newsletter}/preference-center?token={self.seal(link)}"


def link_invalid() -> MessmailError:
    """Makes the error for a token that opens nothing here."""
    return MessmailError(
        Reason.ERROR_REASON_LINK_INVALID, "token: send the token of a link exactly as it was given out"
    )


def _bound(key: LinkKey) -> bytes:
    return bytes([key.purpose.value]) + key.id
