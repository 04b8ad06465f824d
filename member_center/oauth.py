"""OAuth clients, their secrets, and the access tokens they get (RFC 6749 section 4.4, RFC 9068)."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from dataclasses import replace
from datetime import datetime
from uuid import UUID, uuid4

import jwt

from member_center.lists import MEMBERS_SCOPE
from member_center.records.installation import OPERATOR, AccessToken, Client, NewClient, Usage
from member_center.revocations import RevocationList
from member_center.signing_keys import TOKEN_LIFE, SigningKeys
from member_center.storage import clients as client_store
from member_center.tenants import check_tenant
from member_center.texts import check_plain_text
from servicekit.audit import AuditLog, Event
from servicekit.database import Database
from servicekit.errors import MessmailError, Reason, invalid_field
from servicekit.tokens import ALGORITHM, AUDIENCE, TOKEN_TYPE, Claims, TokenVerifier

GRANT_TYPE = "client_credentials"
TENANT_SCOPES = ("newsletter:send.write", "newsletter:send.read", MEMBERS_SCOPE)
INTERNAL_SCOPES = ("internal:send", "internal:feed", "internal:admin", "internal:gateway")
_SCOPES = {Usage.TENANT_API: TENANT_SCOPES, Usage.WEBHOOK_OUTBOUND: TENANT_SCOPES, Usage.INTERNAL: INTERNAL_SCOPES}
_SECRET_BYTES = 32
# What a secret is compared with when there is no client, so that the answer takes as long.
_NOBODY = hashlib.sha256(secrets.token_bytes(_SECRET_BYTES)).digest()


class OAuth:
    """The authorization server of one installation."""

    def __init__(
        self,
        database: Database,
        keys: SigningKeys,
        issuer: str,
        revocations: RevocationList,
        verifier: TokenVerifier,
        audit: AuditLog,
    ) -> None:
        self._database = database
        self._keys = keys
        self._issuer = issuer
        self._revocations = revocations
        self._verifier = verifier
        self._audit = audit

    def create_client(self, tenant_id: UUID | None, usage: Usage, scopes: tuple[str, ...], name: str) -> NewClient:
        """Makes a client; raises INVALID_FIELD, SCOPE_INVALID or TENANT_NOT_FOUND."""
        check_plain_text("name", name)
        owner = _owner(tenant_id, usage)
        unknown = [scope for scope in scopes if scope not in _SCOPES[usage]]
        if unknown:
            raise _scope_invalid(f"a client of usage {usage} can have {', '.join(_SCOPES[usage])}")
        secret = _make_secret()
        client = Client(owner, uuid4(), usage, tuple(dict.fromkeys(scopes)), _hash(secret), None, None)
        with self._database.tenant(owner) as connection:
            if usage is not Usage.INTERNAL:
                check_tenant(connection, owner)
            client_store.add_client(connection, client, name)
            self._audit.append(
                connection,
                Event.of_caller(
                    "client_created",
                    made_id=str(client.id),
                    tenant_id=str(owner),
                    usage=usage.value,
                    scopes=list(client.scopes),
                ),
            )
        return NewClient(client.id, secret)

    def rotate_secret(self, client_id: UUID) -> NewClient:
        """Gives a client a new secret beside the present one; raises CLIENT_NOT_FOUND."""
        secret = _make_secret()
        with self._database.directory() as connection:
            owner = client_store.enter_tenant_of(connection, client_id)
            if not client_store.rotate_secret_hash(connection, owner, client_id, _hash(secret)):
                raise _client_not_found()
            self._audit.append(
                connection,
                Event.of_caller("client_secret_rotated", rotated_id=str(client_id), tenant_id=str(owner)),
            )
        return NewClient(client_id, secret)

    def disable_client(self, client_id: UUID) -> datetime:
        """Ends a client and all its tokens, and returns when it ended; raises CLIENT_NOT_FOUND. Safe to repeat."""
        with self._database.directory() as connection:
            owner = client_store.enter_tenant_of(connection, client_id)
            ended_at = client_store.disable_client(connection, owner, client_id)
            if ended_at is None:
                raise _client_not_found()
            self._audit.append(
                connection, Event.of_caller("client_disabled", disabled_id=str(client_id), tenant_id=str(owner))
            )
        # In this order no token can be issued after its client's tokens have been ended.
        self._revocations.end_tokens_of(client_id)
        return ended_at

    def has_internal_clients(self) -> bool:
        """Tells whether the installation has a client of its own that is not disabled."""
        with self._database.tenant(OPERATOR) as connection:
            return client_store.has_clients(connection, OPERATOR)

    def issue_token(self, grant_type: str, client_id: str, client_secret: str, scope: str) -> AccessToken:
        """Issues an access token.

        Raises GRANT_TYPE_UNSUPPORTED, CLIENT_AUTHENTICATION_FAILED, CLIENT_UNAUTHORIZED or SCOPE_INVALID.
        """
        if grant_type != GRANT_TYPE:
            raise MessmailError(
                Reason.ERROR_REASON_GRANT_TYPE_UNSUPPORTED, f'grant_type: only "{GRANT_TYPE}" is supported'
            )
        client = self._caller(client_id, client_secret)
        scopes = _granted(client, scope)
        token = self._sign(client, scopes)
        self._record("token_issued", client.id, tenant_id=str(client.tenant_id), scopes=list(scopes))
        return AccessToken(token, int(TOKEN_LIFE.total_seconds()), scopes)

    def revoke_token(self, client_id: str, client_secret: str, token: str) -> None:
        """Ends a token of the client's own; nothing happens for another token. Raises CLIENT_AUTHENTICATION_FAILED."""
        client = self._authenticate(client_id, client_secret)
        claims = self._read(token)
        if claims is not None and claims.client_id == client.id:
            self._revocations.end_token(UUID(claims.token_id))
            self._record("token_revoked", client.id, token_id=claims.token_id)

    def introspect_token(self, client_id: str, client_secret: str, token: str) -> Claims | None:
        """Returns what a token says that the client may ask about; None when it is not valid, or another's.

        Raises CLIENT_AUTHENTICATION_FAILED or CLIENT_UNAUTHORIZED.
        """
        client = self._caller(client_id, client_secret)
        claims = self._read(token)
        if claims is None or (client.usage is not Usage.INTERNAL and claims.tenant_id != client.tenant_id):
            return None
        return claims

    def _read(self, token: str) -> Claims | None:
        try:
            return self._verifier.verify(token)
        except MessmailError as error:
            if error.reason in (Reason.ERROR_REASON_TOKEN_INVALID, Reason.ERROR_REASON_TOKEN_EXPIRED):
                return None
            raise

    def _caller(self, client_id: str, client_secret: str) -> Client:
        client = self._authenticate(client_id, client_secret)
        if client.usage is Usage.WEBHOOK_OUTBOUND:
            self._record("client_unauthorized", client.id, tenant_id=str(client.tenant_id))
            raise MessmailError(
                Reason.ERROR_REASON_CLIENT_UNAUTHORIZED,
                "a client of usage webhook_outbound gets no access tokens: use one of usage tenant_api",
            )
        return client

    def _authenticate(self, client_id: str, client_secret: str) -> Client:
        wanted = read_client_id(client_id)
        # An unknown client is looked for too, among the operator's, where it is not.
        with self._database.brief_directory(client_store.look_up_tenant(wanted)) as transaction:
            client = client_store.read_client(transaction.finish, wanted)
        offered = _hash(client_secret)
        current = client.secret_hash if client else _NOBODY
        previous = client.previous_secret_hash if client and client.previous_secret_hash else _NOBODY
        is_right = hmac.compare_digest(offered, current) | hmac.compare_digest(offered, previous)
        if client is None or not is_right or client.disabled_at is not None:
            # What a stranger typed is not written down: only which client it was about, where there is one.
            self._record("client_authentication_failed", None if client is None else client.id)
            raise MessmailError(
                Reason.ERROR_REASON_CLIENT_AUTHENTICATION_FAILED,
                "the client is unknown, its secret is wrong, or it has been disabled",
            )
        return client

    def _record(self, name: str, client_id: UUID | None, **facts: str | list[str]) -> None:
        """Records what a client did that authenticates with its secret, and so is not the caller of the RPC."""
        self._audit.record(replace(Event.of_caller(name, **facts), client_id=client_id))

    def _sign(self, client: Client, scopes: tuple[str, ...]) -> str:
        now = int(time.time())
        claims = {
            "iss": self._issuer,
            "aud": AUDIENCE,
            "exp": now + int(TOKEN_LIFE.total_seconds()),
            "iat": now,
            "jti": str(uuid4()),
            "sub": str(client.id),
            "client_id": str(client.id),
            "scope": " ".join(scopes),
            "usage": client.usage.value,
        }
        if client.usage is not Usage.INTERNAL:
            claims["tenant_id"] = str(client.tenant_id)
        key = self._keys.signing()
        headers = {"typ": TOKEN_TYPE, "kid": key.kid}
        return jwt.encode(claims, key.private_key, algorithm=ALGORITHM, headers=headers)


def read_client_id(text: str) -> UUID:
    """Reads a client's id in any spelling of a UUID; of anything else the operator's, which no client has."""
    try:
        return UUID(text)
    except ValueError:
        return OPERATOR


def _owner(tenant_id: UUID | None, usage: Usage) -> UUID:
    if usage is Usage.INTERNAL:
        if tenant_id is not None:
            raise invalid_field("tenant_id", "an internal client belongs to the installation: leave it out")
        return OPERATOR
    if tenant_id is None:
        raise invalid_field("tenant_id", "name the tenant that the client belongs to, as a UUID")
    return tenant_id


def _granted(client: Client, asked: str) -> tuple[str, ...]:
    scopes = tuple(dict.fromkeys(asked.split(" "))) if asked else client.scopes
    if any(scope not in client.scopes for scope in scopes):
        raise _scope_invalid("scope: ask only for scopes that the client has, separated by single spaces")
    return scopes


def _client_not_found() -> MessmailError:
    return MessmailError(Reason.ERROR_REASON_CLIENT_NOT_FOUND, "client_id: there is no such client")


def _scope_invalid(text: str) -> MessmailError:
    return MessmailError(Reason.ERROR_REASON_SCOPE_INVALID, text)


def _make_secret() -> str:
    return secrets.token_urlsafe(_SECRET_BYTES)


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
