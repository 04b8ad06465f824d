"""What an installation is made of: tenants, lists, clients, keys."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from uuid import UUID

# The tenant that internal clients, keys and the installation's limits belong to.
OPERATOR = UUID(int=0)


@dataclass(frozen=True, slots=True)
class Tenant:
    """A customer of the installation."""

    tenant_id: UUID
    name: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is allowed; None where nothing was set."""

    subscribes_per_address_per_hour: int | None = None
    subscribes_per_list_per_minute: int | None = None
    confirmation_mails_per_address_per_day: int | None = None
    anonymous_calls_per_ip_per_minute: int | None = None
    calls_per_client_per_minute: int | None = None
    failed_logins_per_client_and_ip_per_minute: int | None = None
    failed_logins_per_ip_per_minute: int | None = None


@dataclass(frozen=True, slots=True)
class ListProfile:
    """What the mails of a list need. reply_to and envelope_sender are empty where the From address stands in."""

    name: str
    from_name: str
    from_address: str
    reply_to: str
    envelope_sender: str
    language: str


@dataclass(frozen=True, slots=True)
class ListSettings:
    """What a list asks of those who call for it. By default it is what the published contract says."""

    require_token: bool = False
    return_confirm_token: bool = True
    allowed_origins: tuple[str, ...] = ()
    # The member of the preferences that only a program fills in; empty where there is none.
    honeypot_field: str = ""


@dataclass(frozen=True, slots=True)
class SettingChanges:
    """Settings of a list to be changed; None where they stay."""

    require_token: bool | None = None
    return_confirm_token: bool | None = None
    allowed_origins: tuple[str, ...] | None = None
    honeypot_field: str | None = None


@dataclass(frozen=True, slots=True)
class NewsletterList:
    """A list of a tenant that people subscribe to. Its limits are those set for it alone."""

    tenant_id: UUID
    id: UUID
    profile: ListProfile
    created_at: datetime
    limits: Limits = field(default_factory=Limits)
    settings: ListSettings = field(default_factory=ListSettings)


class Usage(StrEnum):
    """What an OAuth client is for."""

    TENANT_API = "tenant_api"
    WEBHOOK_OUTBOUND = "webhook_outbound"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class Client:
    """An OAuth client. While a secret rotates, the one before works too."""

    tenant_id: UUID
    id: UUID
    usage: Usage
    scopes: tuple[str, ...]
    secret_hash: bytes = field(repr=False)
    previous_secret_hash: bytes | None = field(repr=False)
    disabled_at: datetime | None


@dataclass(frozen=True, slots=True)
class NewClient:
    """A client just made, or with a new secret: the only time that the secret can be seen."""

    id: UUID
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class AccessToken:
    """An access token just issued."""

    token: str = field(repr=False)
    expires_in: int
    scopes: tuple[str, ...]


class Ended(StrEnum):
    """What a revocation has ended."""

    TOKEN = "token"
    CLIENT = "client"


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key as it is stored. id is a kid or a key id, purpose is empty for a signing key."""

    id: bytes
    purpose: str
    encrypted_key: bytes = field(repr=False)
    created_at: datetime


class KeyRing(StrEnum):
    """A ring of keys."""

    SIGNING = "signing"
    LINKS = "links"


class KeyState(StrEnum):
    """What a key is good for at present."""

    CURRENT = "current"
    ACCEPTED = "accepted"
    RETIRED = "retired"


@dataclass(frozen=True, slots=True)
class ShownKey:
    """What may be told of a key: master_key is the id of the one that it is encrypted under."""

    id: str
    purpose: str
    state: KeyState
    created_at: datetime
    master_key: str
