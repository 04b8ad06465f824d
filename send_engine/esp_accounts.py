"""ESP accounts: through which relay a tenant's mail leaves, and with which credentials.

A tenant without an account of its own uses the installation's. Credentials are stored encrypted and never shown.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

from send_engine.account_flow import Circuit, GroupSize
from send_engine.esp.port import Esp
from send_engine.esp.url import parse_smtp_url
from send_engine.records import OPERATOR
from send_engine.storage import esp_accounts
from servicekit.audit import AuditLog, Event
from servicekit.database import Database
from servicekit.errors import MessmailError, Reason, invalid_field
from servicekit.keyring import MasterKeys

# A tenant's account is read again after this long.
FRESH_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class EspAccount:
    """An open ESP account, and how many mails it takes at a time. The installation's is the operator's."""

    esp: Esp
    owner: UUID
    url: str = field(repr=False)
    group_size: GroupSize = field(default_factory=GroupSize)
    circuit: Circuit = field(default_factory=Circuit)


class EspAccountAdmin:
    """Sets and shows the tenants' accounts."""

    def __init__(self, database: Database, keys: MasterKeys, audit: AuditLog) -> None:
        self._database = database
        self._keys = keys
        self._audit = audit

    def set(self, tenant_id: UUID, smtp_url: str) -> str:
        """Sets a tenant's account and returns its relay. Raises INVALID_FIELD."""
        relay = _relay(smtp_url)
        with self._database.tenant(tenant_id) as connection:
            esp_accounts.put(connection, tenant_id, relay, self._keys.encrypt(smtp_url.encode()))
            self._audit.append(connection, Event.of_caller("esp_account_set", tenant_id=str(tenant_id)))
        return relay

    def relay(self, tenant_id: UUID) -> str:
        """Returns a tenant's relay. Raises ESP_ACCOUNT_NOT_FOUND."""
        with self._database.tenant(tenant_id) as connection:
            relay = esp_accounts.find_relay(connection, tenant_id)
        if relay is None:
            raise MessmailError(Reason.ERROR_REASON_ESP_ACCOUNT_NOT_FOUND, "the tenant has no ESP account of its own")
        return relay

    def reencrypt(self) -> tuple[int, str]:
        """Encrypts everything under the first master key; returns how many secrets there are, and that key's id."""
        with self._database.dispatch() as connection:
            tenants = esp_accounts.tenants(connection)
        for tenant_id in tenants:
            with self._database.tenant(tenant_id) as connection:
                before = esp_accounts.find_url(connection, tenant_id)
                if before is not None:
                    esp_accounts.replace_url(connection, tenant_id, before, self._keys.reencrypt(before))
        self._audit.reencrypt_key()
        self._audit.record(Event.of_caller("credentials_reencrypted", master_key_id=self._keys.first_id))
        return len(tenants) + 1, self._keys.first_id


class EspAccounts:
    """The accounts that a worker sends through, each opened once. Safe for threads."""

    def __init__(
        self, database: Database, keys: MasterKeys | None, default_url: str, open_esp: Callable[[str], Esp]
    ) -> None:
        """Opens the installation's account; open_esp opens any. Raises ValueError for a malformed URL."""
        self._database = database
        self._keys = keys
        self._open_esp = open_esp
        self._default = EspAccount(open_esp(default_url), OPERATOR, default_url)
        self._opened: dict[tuple[UUID, str], EspAccount] = {(OPERATOR, default_url): self._default}
        self._known: dict[UUID, tuple[float, EspAccount]] = {}
        self._lock = threading.Lock()

    def of(self, tenant_id: UUID) -> EspAccount:
        """Returns the account of a tenant, at most FRESH_SECONDS old."""
        read_at, account = self._known.get(tenant_id, (float("-inf"), self._default))
        if time.monotonic() - read_at < FRESH_SECONDS:
            return account
        with self._database.tenant(tenant_id) as connection:
            encrypted = esp_accounts.find_url(connection, tenant_id)
        account = self._default if encrypted is None else self._open(tenant_id, encrypted)
        self._known[tenant_id] = (time.monotonic(), account)
        return account

    def opened(self) -> list[Esp]:
        """Returns every account opened so far, to be closed."""
        with self._lock:
            return [account.esp for account in self._opened.values()]

    def _open(self, tenant_id: UUID, encrypted: bytes) -> EspAccount:
        if self._keys is None:
            raise RuntimeError("a tenant has an ESP account, and SEND_ENGINE_MASTER_KEYS is missing")
        url = self._keys.decrypt(encrypted).decode()
        with self._lock:
            account = self._opened.get((tenant_id, url))
            if account is None:
                account = self._opened[tenant_id, url] = EspAccount(self._open_esp(url), tenant_id, url)
            return account


def _relay(smtp_url: str) -> str:
    try:
        account = parse_smtp_url(smtp_url)
    except ValueError as error:
        raise invalid_field("smtp_url", str(error)) from None
    return f"{'smtps' if account.implicit_tls else 'smtp'}://{account.host}:{account.port}"
