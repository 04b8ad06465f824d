"""Counting against limits, under keyed hashes: no address is in the store of the counts.

While that store does not answer, calls go on uncounted; whoever must not do without asks whether it answers.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Sequence
from ipaddress import IPv6Address, ip_address

import structlog
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from redis import RedisError

from member_center.storage.windows import Counters, Window
from servicekit.errors import MessmailError, Reason

# After a failure the store is left alone for a while, so that calls do not each wait for it in vain.
_PAUSE_SECONDS = 1.0

_log = structlog.get_logger()


def hashing_key(master_keys: str) -> bytes:
    """Derives the key of the hashes from the first master key. With another one, what was counted is forgotten."""
    first = master_keys.partition(",")[0].strip()
    return HKDF(SHA256(), 32, salt=None, info=b"messmail limiter").derive(base64.urlsafe_b64decode(first))


def network_of(ip: str) -> bytes:
    """The address, or of an IPv6 address the network of one subscriber: within it addresses are free to choose."""
    try:
        address = ip_address(ip.partition("%")[0])
    except ValueError:
        return b""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is None:
        return address.packed[:8]
    return (getattr(address, "ipv4_mapped", None) or address).packed


class Counting:
    """The counts of one installation."""

    def __init__(self, counters: Counters, key: bytes) -> None:
        self._counters = counters
        self._key = key
        self._paused_until = 0.0

    def hash(self, name: str, counted: bytes) -> bytes:
        """Returns what something is counted under."""
        return hashlib.blake2b(name.encode() + b"\0" + counted, key=self._key, digest_size=16).digest()

    def window(self, name: str, counted: bytes, limit: int, seconds: int, *, is_counted: bool = True) -> Window:
        """Returns the count of something, within the limit of that name."""
        return Window(name, self.hash(name, counted), limit, seconds, is_counted)

    def admit(self, windows: Sequence[Window]) -> None:
        """Counts a call in all windows; in none, and raises RATE_LIMITED, when one of them is full."""
        if self._is_paused():
            return
        try:
            full = self._counters.admit(windows)
        except RedisError as error:
            self._pause(error)
            return
        _check(full)

    def add(self, windows: Sequence[Window]) -> None:
        """Counts what has happened in all windows; raises RATE_LIMITED when one of them has been full before."""
        if self._is_paused():
            return
        try:
            full = self._counters.add(windows)
        except RedisError as error:
            self._pause(error)
            return
        _check(full)

    def count_mails(self, mails: Sequence[tuple[bytes, bytes]], limit: int) -> list[bool] | None:
        """Counts mails, by the hash of their address and their id, and tells which are within a day's limit.

        None when the store does not answer.
        """
        try:
            return self._counters.count_mails(mails, limit)
        except RedisError as error:
            self._pause(error)
            return None

    def is_answering(self) -> bool:
        """Tells whether the store answers."""
        return self._counters.is_answering()

    def _is_paused(self) -> bool:
        return time.monotonic() < self._paused_until

    def _pause(self, error: RedisError) -> None:
        self._paused_until = time.monotonic() + _PAUSE_SECONDS
        _log.warning("limiter.unavailable", error=type(error).__name__)


def _check(full: tuple[Window, float] | None) -> None:
    if full is not None:
        window, seconds = full
        raise MessmailError(
            Reason.ERROR_REASON_RATE_LIMITED,
            f"too many requests ({window.name}): try again in {seconds:.0f} seconds",
            retry_after=seconds,
            limit=window.name,
        )
