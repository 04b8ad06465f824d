"""Limits: how much is allowed, and to whom.

Calls are counted in the limiter's store, under keyed hashes: no address is in there. While that store does not answer,
calls go on uncounted and no confirmation mail leaves (see outbox).
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from ipaddress import IPv6Address, ip_address
from uuid import UUID

import structlog
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from redis import RedisError

from member_center.lists import list_not_found
from member_center.records import OPERATOR, Limits, NewsletterList
from member_center.snapshot import Snapshot
from member_center.storage import limits as limit_store
from member_center.storage import lists as list_store
from member_center.storage.windows import Counters, Window
from servicekit.access import Caller
from servicekit.audit import AuditLog, Event
from servicekit.database import Database
from servicekit.errors import FieldViolation, MessmailError, Reason

DEFAULTS = Limits(
    subscribes_per_address_per_hour=5,
    subscribes_per_list_per_minute=6000,
    confirmation_mails_per_address_per_day=10,
    anonymous_calls_per_ip_per_minute=600,
    calls_per_client_per_minute=6000,
)
REFRESH_SECONDS = 2.0
# A list may have these of its own; the others are the whole installation's.
OF_A_LIST = ("subscribes_per_address_per_hour", "subscribes_per_list_per_minute")
_MINUTE, _HOUR = 60, 3600
# After a failure the store is left alone for a while, so that calls do not each wait for it in vain.
_PAUSE_SECONDS = 1.0

_log = structlog.get_logger()


def hashing_key(master_keys: str) -> bytes:
    """Derives the key of the hashes from the first master key. With another one, what was counted is forgotten."""
    first = master_keys.partition(",")[0].strip()
    return HKDF(SHA256(), 32, salt=None, info=b"messmail limiter").derive(base64.urlsafe_b64decode(first))


class Limiter:
    """Counts calls and mails, and refuses what is too much."""

    def __init__(self, database: Database, counters: Counters, key: bytes, audit: AuditLog) -> None:
        self._database = database
        self._audit = audit
        self._counters = counters
        self._key = key
        self._installation = Snapshot(self._read, REFRESH_SECONDS)
        self._paused_until = 0.0

    def admit(self, caller: Caller) -> None:
        """Counts a call; raises RATE_LIMITED."""
        self._admit([self._calls_of(caller)])

    def admit_token_request(self, caller: Caller) -> None:
        """Counts a call for an access token; raises RATE_LIMITED.

        Counted apart from other calls: a site that was too busy must still get the token that gives it its own budget.
        """
        self._admit([self._calls_of(caller, b"token")])

    def admit_subscribe(self, caller: Caller, newsletter_list: NewsletterList | None, address_key: str) -> None:
        """Counts a call that asks for a subscription, to a list or to one that does not exist; raises RATE_LIMITED."""
        windows = [self._calls_of(caller)]
        if newsletter_list is not None:
            allowed = self._in_force(newsletter_list.limits)
            list_id = newsletter_list.id.bytes
            for name, seconds, counted in (
                ("subscribes_per_list_per_minute", _MINUTE, list_id),
                ("subscribes_per_address_per_hour", _HOUR, list_id + address_key.encode()),
            ):
                windows.append(Window(name, self._hash(name, counted), getattr(allowed, name), seconds))
        self._admit(windows)

    def is_answering(self) -> bool:
        """Tells whether the store of the counts answers, so that mails can be counted."""
        return self._counters.is_answering()

    def count_mails(self, mails: Sequence[tuple[str, UUID]]) -> list[bool] | None:
        """Counts confirmation mails, by address key and id, and tells which are within their address's day.

        None when the store does not answer: then none of them may leave.
        """
        name = "confirmation_mails_per_address_per_day"
        limit = getattr(self._in_force(), name)
        try:
            return self._counters.count_mails(
                [(self._hash(name, key.encode()), mail.bytes) for key, mail in mails], limit
            )
        except RedisError as error:
            self._pause(error)
            return None

    def set_limits(self, wanted: Limits) -> Limits:
        """Sets limits of the installation and returns those in force."""
        with self._database.tenant(OPERATOR) as connection:
            limit_store.set_limits(connection, wanted)
            self._audit.append(connection, _limits_set(wanted))
        return self._installation.read_unless_newer(0)

    def set_list_limits(self, tenant_id: UUID, list_id: UUID, wanted: Limits) -> Limits:
        """Sets limits of one list and returns those in force for it; raises INVALID_FIELD or LIST_NOT_FOUND."""
        violations = [
            FieldViolation(f"limits.{name}", "this limit is of the whole installation only: name no list")
            for name, value in asdict(wanted).items()
            if value is not None and name not in OF_A_LIST
        ]
        if violations:
            text = f"{violations[0].field}: {violations[0].description}"
            raise MessmailError(Reason.ERROR_REASON_INVALID_FIELD, text, violations=violations)
        with self._database.tenant(tenant_id) as connection:
            found = list_store.set_list_limits(connection, tenant_id, list_id, wanted)
            if found is None:
                raise list_not_found()
            self._audit.append(connection, _limits_set(wanted, tenant_id=str(tenant_id), list_id=str(list_id)))
        return self._in_force(found.limits)

    def _in_force(self, of_list: Limits | None = None) -> Limits:
        installation = self._installation.value()
        return installation if of_list is None else _filled(of_list, installation)

    def _read(self) -> Limits:
        with self._database.tenant(OPERATOR) as connection:
            return _filled(limit_store.read_limits(connection), DEFAULTS)

    def _calls_of(self, caller: Caller, kind: bytes = b"") -> Window:
        if caller.client_id is not None:
            name, counted = "calls_per_client_per_minute", caller.client_id.bytes
        else:
            name, counted = "anonymous_calls_per_ip_per_minute", _network_of(caller.ip)
        return Window(name, self._hash(name, counted + kind), getattr(self._in_force(), name), _MINUTE)

    def _hash(self, name: str, counted: bytes) -> bytes:
        return hashlib.blake2b(name.encode() + b"\0" + counted, key=self._key, digest_size=16).digest()

    def _admit(self, windows: Sequence[Window]) -> None:
        if time.monotonic() < self._paused_until:
            return
        try:
            full = self._counters.admit(windows)
        except RedisError as error:
            self._pause(error)
            return
        if full is not None:
            window, seconds = full
            raise MessmailError(
                Reason.ERROR_REASON_RATE_LIMITED,
                f"too many requests ({window.name}): try again in {seconds:.0f} seconds",
                retry_after=seconds,
                limit=window.name,
            )

    def _pause(self, error: RedisError) -> None:
        self._paused_until = time.monotonic() + _PAUSE_SECONDS
        _log.warning("limiter.unavailable", error=type(error).__name__)


def _limits_set(wanted: Limits, **of: str) -> Event:
    changed = {name: value for name, value in asdict(wanted).items() if value is not None}
    return Event.of_caller("limits_set", **of, limits=changed)


def _filled(limits: Limits, beneath: Limits) -> Limits:
    missing = {f.name: getattr(beneath, f.name) for f in fields(limits) if getattr(limits, f.name) is None}
    return replace(limits, **missing)


def _network_of(ip: str) -> bytes:
    """The address, or of an IPv6 address the network of one subscriber: within it addresses are free to choose."""
    try:
        address = ip_address(ip.partition("%")[0])
    except ValueError:
        return b""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is None:
        return address.packed[:8]
    return (getattr(address, "ipv4_mapped", None) or address).packed
