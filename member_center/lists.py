"""Lists: what people subscribe to, and whose mails are sent under a From of the tenant's."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import asdict, dataclass, field, replace
from uuid import UUID, uuid4

from member_center.origins import check_origins
from member_center.pages import Page, page_of, read_page_token
from member_center.records.installation import ListProfile, NewsletterList, SettingChanges
from member_center.storage import lists as list_store
from member_center.tenants import check_tenant
from member_center.texts import check_plain_text
from servicekit.access import Caller, CallerKind, scope_missing, token_missing
from servicekit.addresses import AddressError, parse_address, parse_mailbox
from servicekit.audit import AuditLog, Event, Fact
from servicekit.database import Database
from servicekit.errors import MessmailError, Reason, invalid_field
from servicekit.languages import CHINESE

DEFAULT_LANGUAGE = CHINESE
# What a tenant's client needs to call for a list that requires a token. The contract names it too (list_scope).
MEMBERS_SCOPE = "newsletter:members.write"
# A list is read again after this long, so that its limits are in force everywhere soon.
REFRESH_SECONDS = 2.0
_KEPT = 10_000
_NAME_SPECIALS = frozenset('"\\()[]:;@<>')


@dataclass(frozen=True, slots=True)
class NewList:
    """A list as an operator asks for it. sender is its From: a name and an address, or an address."""

    name: str
    sender: str
    reply_to: str = ""
    envelope_sender: str = ""
    language: str = ""
    settings: SettingChanges = field(default_factory=SettingChanges)


class Lists:
    """The lists of one installation. Those asked for lately are kept for REFRESH_SECONDS."""

    def __init__(self, database: Database, audit: AuditLog) -> None:
        self._database = database
        self._audit = audit
        self._kept: OrderedDict[UUID, tuple[float, NewsletterList]] = OrderedDict()

    def create(self, tenant_id: UUID, wanted: NewList) -> UUID:
        """Makes a list and returns its id; raises INVALID_FIELD or TENANT_NOT_FOUND."""
        profile, settings = _read_profile(wanted), _read_settings(wanted.settings)
        list_id = uuid4()
        with self._database.tenant(tenant_id) as connection:
            check_tenant(connection, tenant_id)
            list_store.add_list(connection, tenant_id, list_id, profile, settings)
            self._audit.append(
                connection, Event.of_caller("list_created", tenant_id=str(tenant_id), list_id=str(list_id))
            )
        return list_id

    def update(self, tenant_id: UUID, list_id: UUID, changes: SettingChanges) -> NewsletterList:
        """Changes settings of a list and returns it; raises INVALID_FIELD or LIST_NOT_FOUND."""
        settings = _read_settings(changes)
        with self._database.tenant(tenant_id) as connection:
            found = list_store.change_settings(connection, tenant_id, list_id, settings)
            if found is None:
                raise list_not_found()
            event = Event.of_caller("list_updated", tenant_id=str(tenant_id), list_id=str(list_id), **_facts(settings))
            self._audit.append(connection, event)
        self._kept.pop(list_id, None)
        return found

    def page(self, tenant_id: UUID, page_token: str, page_size: int) -> Page[NewsletterList]:
        """Returns a page of the tenant's lists, oldest first; raises TENANT_NOT_FOUND."""
        after = read_page_token(page_token)
        with self._database.tenant(tenant_id) as connection:
            check_tenant(connection, tenant_id)
            found = list_store.read_lists(connection, tenant_id, after, page_size + 1)
        return page_of(found, page_size, lambda newsletter_list: (newsletter_list.created_at, newsletter_list.id))

    def get(self, list_id: UUID, tenant_id: UUID | None = None) -> NewsletterList:
        """Returns a list; raises LIST_NOT_FOUND, also when it is another tenant's than the one named."""
        found = self.find(list_id, tenant_id)
        if found is None:
            raise list_not_found()
        return found

    def get_for(self, caller: Caller, list_id: UUID, tenant_id: UUID | None = None) -> NewsletterList:
        """Returns the list that a call names.

        Raises LIST_NOT_FOUND; TOKEN_MISSING or SCOPE_MISSING where the list requires a token and the caller has none
        that does. Of an internal caller the contract's own scope is enough.
        """
        found = self.get(list_id, tenant_id)
        if found.settings.require_token:
            check_members_scope(caller)
        return found

    def find(self, list_id: UUID, tenant_id: UUID | None = None) -> NewsletterList | None:
        """Returns a list; None when there is none, or when it is another tenant's than the one named."""
        kept = self._kept.get(list_id)
        if kept is not None and kept[0] > time.monotonic() and tenant_id in (None, kept[1].tenant_id):
            return kept[1]
        # Another tenant's list is looked for like one that is not there, so that it takes as long.
        found = self._read(list_id)
        return found if found is not None and tenant_id in (None, found.tenant_id) else None

    def _read(self, list_id: UUID) -> NewsletterList | None:
        with self._database.directory() as connection:
            owner = list_store.enter_tenant_of(connection, list_id)
            found = list_store.read_list(connection, owner, list_id)
        if found is not None:
            self._kept[list_id] = (time.monotonic() + REFRESH_SECONDS, found)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return found


def check_members_scope(caller: Caller) -> None:
    """Raises TOKEN_MISSING or SCOPE_MISSING for whoever may not speak for a list's members."""
    if caller.kind is CallerKind.ANONYMOUS:
        raise token_missing()
    if caller.kind is CallerKind.TENANT and MEMBERS_SCOPE not in caller.scopes:
        raise scope_missing(MEMBERS_SCOPE)


def list_not_found() -> MessmailError:
    """Makes the error for a list that is not there, or not the caller's."""
    return MessmailError(Reason.ERROR_REASON_LIST_NOT_FOUND, "list_id: there is no such list")


def sender_of(profile: ListProfile) -> str:
    """Writes the From of a list as an operator would type it."""
    name, address = profile.from_name, profile.from_address
    if not name:
        return address
    if not _NAME_SPECIALS.isdisjoint(name):
        name = '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"{name} <{address}>"


def _read_profile(wanted: NewList) -> ListProfile:
    check_plain_text("name", wanted.name)
    check_plain_text("from", wanted.sender)
    try:
        sender = parse_mailbox(wanted.sender)
    except AddressError as error:
        raise invalid_field("from", f'{error.problem}; write it as "Name <address>"') from None
    return ListProfile(
        name=wanted.name,
        from_name=sender.name,
        from_address=sender.address.address,
        reply_to=_address("reply_to", wanted.reply_to),
        envelope_sender=_address("envelope_sender", wanted.envelope_sender),
        language=wanted.language or DEFAULT_LANGUAGE,
    )


def _read_settings(changes: SettingChanges) -> SettingChanges:
    if changes.allowed_origins is None:
        return changes
    return replace(changes, allowed_origins=check_origins("settings.allowed_origins.origins", changes.allowed_origins))


def _facts(changes: SettingChanges) -> dict[str, Fact]:
    given = {name: value for name, value in asdict(changes).items() if value is not None}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}


def _address(name: str, text: str) -> str:
    try:
        return parse_address(text).address if text else ""
    except AddressError as error:
        raise invalid_field(name, error.problem) from None
