"""Limits on how many mails a second may leave, as an operator sets and sees them. What they do is in pacing."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from uuid import UUID

from send_engine.records import LimitScope, SendLimit
from send_engine.storage import buckets
from servicekit.addresses import AddressError, parse_address
from servicekit.audit import AuditLog, Event
from servicekit.database import Database
from servicekit.errors import invalid_field

_DEFAULT_PAGE_SIZE = 100


@dataclass(frozen=True, slots=True)
class LimitPage:
    """A page of limits, by scope and domain; an empty token says that it is the last one."""

    limits: list[SendLimit]
    next_page_token: str


class SendLimits:
    """The limits of all tenants. Those of the installation are the operator's."""

    def __init__(self, database: Database, audit: AuditLog) -> None:
        self._database = database
        self._audit = audit

    def set(self, tenant_id: UUID, scope: LimitScope, domain: str, rate: float | None) -> SendLimit:
        """Sets a limit in mails a second, or takes it away. Raises INVALID_FIELD for a domain that is none."""
        domain = _domain(domain) if scope is LimitScope.DOMAIN else ""
        with self._database.tenant(tenant_id) as connection:
            buckets.put(connection, tenant_id, scope, domain, rate)
            self._audit.append(
                connection,
                Event.of_caller(
                    "send_limit_set",
                    tenant_id=str(tenant_id),
                    scope=scope.value,
                    domain=domain,
                    mails_per_second="none" if rate is None else f"{rate:g}",
                ),
            )
        return SendLimit(scope, domain, rate, None)

    def page(self, tenant_id: UUID, size: int, page_token: str) -> LimitPage:
        """Returns the owner's limits; size 0 means 100. Raises INVALID_FIELD for a foreign token."""
        size = size or _DEFAULT_PAGE_SIZE
        after = _read_token(page_token) if page_token else ("", "")
        with self._database.tenant(tenant_id) as connection:
            limits = buckets.page(connection, tenant_id, after, size + 1)
        more = len(limits) > size
        return LimitPage(limits[:size], _write_token(limits[size - 1]) if more else "")


def _domain(typed: str) -> str:
    """Returns the domain as deliveries have it: lower case, A-labels."""
    try:
        return parse_address(f"x@{typed}").domain
    except AddressError as error:
        raise invalid_field("domain", error.problem) from None


def _write_token(limit: SendLimit) -> str:
    return base64.urlsafe_b64encode(f"{limit.scope.value} {limit.domain}".encode()).decode()


def _read_token(token: str) -> tuple[str, str]:
    try:
        scope, separator, domain = base64.b64decode(token.encode(), b"-_", validate=True).decode().partition(" ")
        if not separator or "\x00" in domain:
            raise ValueError
        return LimitScope(scope).value, domain
    except (ValueError, binascii.Error):
        raise invalid_field("page_token", "must be the next_page_token of a page before") from None
