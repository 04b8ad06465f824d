"""Limits: how much is allowed, and to whom.

While the store of the counts does not answer, calls go on uncounted (see counting) and no confirmation mail leaves (see
outbox). How often a login may fail is in login_limits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from uuid import UUID

from member_center.counting import Counting, network_of
from member_center.lists import list_not_found
from member_center.records.installation import OPERATOR, Limits, NewsletterList
from member_center.snapshot import Snapshot
from member_center.storage import limits as limit_store
from member_center.storage import lists as list_store
from member_center.storage.windows import Window
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
    failed_logins_per_client_and_ip_per_minute=10,
    failed_logins_per_ip_per_minute=100,
)
REFRESH_SECONDS = 2.0
# A list may have these of its own; the others are the whole installation's.
OF_A_LIST = ("subscribes_per_address_per_hour", "subscribes_per_list_per_minute")
_MINUTE, _HOUR = 60, 3600


class Limiter:
    """Counts calls and mails, and refuses what is too much."""

    def __init__(self, database: Database, counting: Counting, audit: AuditLog) -> None:
        self._database = database
        self._counting = counting
        self._audit = audit
        self._installation = Snapshot(self._read, REFRESH_SECONDS)

    def admit(self, caller: Caller) -> None:
        """Counts a call; raises RATE_LIMITED."""
        self._counting.admit([self._calls_of(caller)])

    def admit_origin_check(self, caller: Caller) -> None:
        """Counts a question about an origin, apart from the call that it is asked about; raises RATE_LIMITED."""
        self._counting.admit([self._calls_of(caller, b"origin")])

    def admit_subscribe(self, caller: Caller, newsletter_list: NewsletterList, address_key: str) -> None:
        """Counts a call that asks for a subscription to a list; raises RATE_LIMITED."""
        windows = [self._calls_of(caller)]
        allowed = self.in_force(newsletter_list.limits)
        list_id = newsletter_list.id.bytes
        for name, seconds, counted in (
            ("subscribes_per_list_per_minute", _MINUTE, list_id),
            ("subscribes_per_address_per_hour", _HOUR, list_id + address_key.encode()),
        ):
            windows.append(self._counting.window(name, counted, getattr(allowed, name), seconds))
        self._counting.admit(windows)

    def is_answering(self) -> bool:
        """Tells whether the store of the counts answers, so that mails can be counted."""
        return self._counting.is_answering()

    def count_mails(self, mails: Sequence[tuple[str, UUID]]) -> list[bool] | None:
        """Counts confirmation mails, by address key and id, and tells which are within their address's day.

        None when the store does not answer: then none of them may leave.
        """
        name = "confirmation_mails_per_address_per_day"
        limit = getattr(self.in_force(), name)
        hashed = [(self._counting.hash(name, key.encode()), mail.bytes) for key, mail in mails]
        return self._counting.count_mails(hashed, limit)

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
        return self.in_force(found.limits)

    def in_force(self, of_list: Limits | None = None) -> Limits:
        """Returns the limits in force; those of a list where it has its own."""
        installation = self._installation.value()
        return installation if of_list is None else _filled(of_list, installation)

    def _read(self) -> Limits:
        with self._database.tenant(OPERATOR) as connection:
            return _filled(limit_store.read_limits(connection), DEFAULTS)

    def _calls_of(self, caller: Caller, kind: bytes = b"") -> Window:
        if caller.client_id is not None:
            name, counted = "calls_per_client_per_minute", caller.client_id.bytes
        else:
            name, counted = "anonymous_calls_per_ip_per_minute", network_of(caller.ip)
        return self._counting.window(name, counted + kind, getattr(self.in_force(), name), _MINUTE)


def _limits_set(wanted: Limits, **of: str) -> Event:
    changed = {name: value for name, value in asdict(wanted).items() if value is not None}
    return Event.of_caller("limits_set", **of, limits=changed)


def _filled(limits: Limits, beneath: Limits) -> Limits:
    missing = {f.name: getattr(beneath, f.name) for f in fields(limits) if getattr(limits, f.name) is None}
    return replace(limits, **missing)
