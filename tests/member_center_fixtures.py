"""Member Center as production wires it, on real engines, for the tests of its rooms.

Engines are started once for each test worker, a server once for each module. `MemberCenter` has the stubs of the three
services, an operator to set the scene with, and the owner's connection to look behind the scene.
"""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
import sqlalchemy as sa
from cryptography.fernet import Fernet
from pydantic import SecretStr
from sqlalchemy import event

from local_stack.data_directory import DataDirectory
from local_stack.engines import running
from local_stack.engines.postgres import Postgres
from local_stack.engines.valkey import Valkey
from member_center import wiring
from messmail.member_center.v1 import (
    member_center_admin_pb2,
    member_center_admin_pb2_grpc,
    member_center_feed_pb2,
    member_center_feed_pb2_grpc,
    member_center_pb2,
    member_center_pb2_grpc,
)
from servicekit.clients import AccessTokens, open_channel, open_internal_channel
from servicekit.errors import MessmailError, Reason, from_rpc_error

ISSUER = "http://news.example"


@dataclass(frozen=True)
class Engines:
    """A PostgreSQL and a Valkey."""

    postgres: Postgres
    valkey: Valkey


@dataclass(frozen=True)
class Newsletter:
    """A tenant and a list of its."""

    tenant_id: str
    list_id: str


class MemberCenter:
    """A running Member Center and its three faces. The public one is anonymous unless a stub is made otherwise."""

    def __init__(self, settings: wiring.MemberCenterSettings, owner_url: str, superuser_url: str) -> None:
        self.settings = settings
        self.owner_url = owner_url
        self.superuser_url = superuser_url
        self.server = wiring.start(settings)
        self.credentials = wiring.bootstrap(settings, with_services=True)
        self.public = member_center_pb2_grpc.MemberCenterStub(self._open())
        self.admin = member_center_admin_pb2_grpc.MemberCenterAdminStub(self.channel_of("admin"))
        self.feed = member_center_feed_pb2_grpc.MemberCenterFeedStub(self.channel_of("send_engine"))
        # All tests call from one address.
        self.set_limits(anonymous_calls_per_ip_per_minute=100_000)

    def _open(self) -> grpc.Channel:
        return open_channel(self.server.address)

    def channel_of(self, name: str) -> grpc.Channel:
        """Opens a channel that calls as one of the clients of the bootstrap."""
        credential = self.credentials[name]
        return self.channel_as(credential["client_id"], credential["client_secret"])

    def channel_as(self, client_id: str, client_secret: str) -> grpc.Channel:
        """Opens a channel that calls as a client."""
        tokens = AccessTokens(self.server.address, client_id, client_secret)
        return open_internal_channel(self.server.address, tokens)

    def public_as(
        self, client: member_center_admin_pb2.CreateClientResponse
    ) -> member_center_pb2_grpc.MemberCenterStub:
        """Returns the public face as a client with a token sees it."""
        return member_center_pb2_grpc.MemberCenterStub(self.channel_as(client.client_id, client.client_secret))

    def make_internal_client(self, *scopes: str) -> member_center_admin_pb2.CreateClientResponse:
        """Makes a client of the installation."""
        return self.admin.CreateClient(
            member_center_admin_pb2.CreateClientRequest(
                usage=member_center_admin_pb2.CLIENT_USAGE_INTERNAL, scopes=scopes
            )
        )

    def set_limits(self, newsletter: Newsletter | None = None, **limits: int) -> member_center_admin_pb2.Limits:
        """Sets limits of the installation or of a list, and returns those in force."""
        request = member_center_admin_pb2.SetLimitsRequest(limits=member_center_admin_pb2.Limits(**limits))
        if newsletter is not None:
            request.tenant_id, request.list_id = newsletter.tenant_id, newsletter.list_id
        return self.admin.SetLimits(request).limits

    def make_tenant(self) -> str:
        """Makes a tenant."""
        request = member_center_admin_pb2.CreateTenantRequest(name=f"Tenant {uuid.uuid4().hex[:6]}")
        return str(self.admin.CreateTenant(request).tenant_id)

    def make_list(
        self, tenant_id: str, language: str = "en", settings: member_center_admin_pb2.ListSettings | None = None
    ) -> str:
        """Makes a list."""
        request = member_center_admin_pb2.CreateListRequest(
            tenant_id=tenant_id, name="Weekly", language=language, settings=settings
        )
        setattr(request, "from", "Acme <news@acme.example>")
        return str(self.admin.CreateList(request).list_id)

    def make_newsletter(self, language: str = "en", origins: Sequence[str] = (), **settings: Any) -> Newsletter:
        """Makes a tenant and a list, with settings where they are given."""
        tenant_id = self.make_tenant()
        wanted = member_center_admin_pb2.ListSettings(**settings)
        if origins:
            wanted.allowed_origins.origins.extend(origins)
        return Newsletter(tenant_id, self.make_list(tenant_id, language, wanted))

    def change_settings(self, newsletter: Newsletter, origins: Sequence[str] | None = None, **settings: Any) -> None:
        """Changes settings of a list."""
        wanted = member_center_admin_pb2.ListSettings(**settings)
        if origins is not None:
            wanted.allowed_origins.CopyFrom(member_center_admin_pb2.AllowedOrigins(origins=origins))
        self.admin.UpdateList(
            member_center_admin_pb2.UpdateListRequest(
                tenant_id=newsletter.tenant_id, list_id=newsletter.list_id, settings=wanted
            )
        )

    def make_client(self, tenant_id: str, *scopes: str) -> member_center_admin_pb2.CreateClientResponse:
        """Makes a client of a tenant's site."""
        return self.admin.CreateClient(
            member_center_admin_pb2.CreateClientRequest(
                tenant_id=tenant_id,
                usage=member_center_admin_pb2.CLIENT_USAGE_TENANT_API,
                scopes=scopes or ("newsletter:send.write",),
            )
        )

    def subscribe(self, list_id: str, email: str, **fields: Any) -> str:
        """Asks for a subscription and returns the confirm token."""
        request = member_center_pb2.SubscribeRequest(list_id=list_id, email=email, **fields)
        return str(self.public.Subscribe(request).confirm_token)

    def confirm(self, token: str) -> int:
        """Confirms, and returns the status afterwards."""
        return int(self.public.ConfirmSubscription(member_center_pb2.ConfirmSubscriptionRequest(token=token)).status)

    def unsubscribe_token(self, list_id: str, email: str) -> str:
        """Asks for an unsubscribe token."""
        request = member_center_pb2.RequestUnsubscribeTokenRequest(list_id=list_id, email=email)
        return str(self.public.RequestUnsubscribeToken(request).unsubscribe_token)

    def unsubscribe(self, token: str) -> int:
        """Unsubscribes, and returns the status afterwards."""
        return int(self.public.Unsubscribe(member_center_pb2.UnsubscribeRequest(token=token)).status)

    def add_member(self, newsletter: Newsletter, email: str) -> bytes:
        """Makes a confirmed member and returns the subscription's id."""
        self.confirm(self.subscribe(newsletter.list_id, email))
        return self.subscription_id(newsletter, email)

    def members(self, newsletter: Newsletter) -> list[bytes]:
        """Returns the ids of the confirmed."""
        answer = self.feed.ListConfirmedSubscriptions(
            member_center_feed_pb2.ListConfirmedSubscriptionsRequest(
                tenant_id=newsletter.tenant_id, list_id=newsletter.list_id
            )
        )
        return ids_of(answer)

    def lease_mails(self, newsletter: Newsletter | None = None) -> list[member_center_feed_pb2.ConfirmationMail]:
        """Leases all mails that are due, and returns those of one newsletter or all."""
        mails: list[member_center_feed_pb2.ConfirmationMail] = []
        more = True
        while more:
            answer = self.feed.LeaseConfirmationMails(member_center_feed_pb2.LeaseConfirmationMailsRequest())
            mails += answer.mails
            more = answer.more
        return [mail for mail in mails if newsletter is None or mail.profile.list_id == newsletter.list_id]

    def acknowledge(
        self, mail: member_center_feed_pb2.ConfirmationMail, outcome: int, reply: str = "", fence: int | None = None
    ) -> int:
        """Records what became of a mail; returns how many results changed something."""
        result = member_center_feed_pb2.ConfirmationMailResult(
            tenant_id=mail.tenant_id,
            mail_id=mail.mail_id,
            fence=mail.fence if fence is None else fence,
            outcome=member_center_feed_pb2.MailOutcome.Name(outcome),  # type: ignore[arg-type]
            reply=reply,
        )
        request = member_center_feed_pb2.AcknowledgeConfirmationMailsRequest(results=[result])
        return int(self.feed.AcknowledgeConfirmationMails(request).recorded)

    def rows(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Reads behind every fence, as the superuser."""
        with psycopg.connect(self.superuser_url) as connection:
            return connection.execute(query.encode(), parameters).fetchall()

    def subscription_id(self, newsletter: Newsletter, email: str) -> bytes:
        """Returns the id of a person's subscription."""
        query = "SELECT id FROM subscriptions WHERE list_id = %s AND address_key = %s"
        found: uuid.UUID = self.rows(query, newsletter.list_id, email.lower())[0][0]
        return found.bytes

    def consent_log(self, newsletter: Newsletter, email: str) -> list[tuple[Any, ...]]:
        """Returns generation, status and way of each line of a person's consent log."""
        return self.rows(
            "SELECT log.generation, log.status, through FROM consent_log log "
            "JOIN subscriptions s ON s.id = subscription_id WHERE s.list_id = %s AND address_key = %s ORDER BY 1",
            newsletter.list_id,
            email.lower(),
        )

    def set_clock(self, ahead: timedelta) -> None:
        """Sets how far the database's clock is ahead; only the owner can."""
        with psycopg.connect(self.owner_url) as connection:
            connection.execute("UPDATE messmail_clock SET ahead = %s", [ahead])


def refusal(call: Callable[[], object]) -> MessmailError:
    """Returns the error that a call ends with: a channel with a token raises it, a bare one what carries it."""
    try:
        call()
    except grpc.RpcError as error:
        return from_rpc_error(error)
    except MessmailError as error:
        return error
    pytest.fail("the call was not refused")


def reason_of(call: Callable[[], object]) -> str:
    """Returns the reason with which a call is refused; fails when it is not."""
    return Reason.Name(refusal(call).reason).removeprefix("ERROR_REASON_")


def status_name(number: int) -> str:
    """Returns the state as a word."""
    name = member_center_pb2.SubscriptionStatus.Name(number)  # type: ignore[arg-type]
    return name.removeprefix("SUBSCRIPTION_STATUS_").lower()


@contextmanager
def counted_commits() -> Iterator[list[int]]:
    """Counts the transactions of this process, among them those of the server: each takes a connection of its own."""
    commits: list[int] = []

    def count(*_: object) -> None:
        commits.append(1)

    event.listen(sa.pool.Pool, "checkout", count)
    try:
        yield commits
    finally:
        event.remove(sa.pool.Pool, "checkout", count)


def unique_address(name: str = "reader") -> str:
    """Makes an address that no other test uses."""
    return f"{name}.{uuid.uuid4().hex[:10]}@mail.example"


@pytest.fixture(scope="session")
def engines() -> Iterator[Engines]:
    """Engines of this test worker."""
    path = Path(tempfile.mkdtemp(prefix="messmail-"))
    try:
        data = DataDirectory(path / "data")
        path.chmod(0o711)
        with (
            running(Postgres.prepare(data), path / "postgres.log") as postgres,
            running(Valkey.prepare(data), path / "valkey.log") as valkey,
        ):
            yield Engines(postgres, valkey)
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def running_member_center(engines: Engines, broker_url: str | None = None) -> Iterator[MemberCenter]:
    """Runs a Member Center on a database of its own; on another broker where one is named."""
    name = f"member_center_{uuid.uuid4().hex[:8]}"
    owner_url = engines.postgres.create_database(name)
    settings = wiring.MemberCenterSettings(
        member_center_listen="127.0.0.1:0",
        member_center_database_url=SecretStr(wiring.migrate(owner_url, "app-password")),
        broker_url=SecretStr(broker_url or engines.valkey.url),
        public_base_url=ISSUER,
        member_center_master_keys=SecretStr(Fernet.generate_key().decode()),
    )
    center = MemberCenter(settings, owner_url, engines.postgres.superuser_url(name))
    try:
        yield center
    finally:
        center.server.stop(0)


@pytest.fixture(scope="module")
def member_center(engines: Engines) -> Iterator[MemberCenter]:
    """A Member Center for the tests of one module."""
    with running_member_center(engines) as center:
        yield center


@pytest.fixture
def clock(member_center: MemberCenter) -> Iterator[Callable[[timedelta], None]]:
    """Sets how far the database's clock is ahead, until the test ends."""
    yield member_center.set_clock
    member_center.set_clock(timedelta(0))


def ids_of(page: member_center_feed_pb2.ListConfirmedSubscriptionsResponse) -> list[bytes]:
    """Returns the subscriptions of a page of an audience."""
    return [page.subscription_ids[start : start + 16] for start in range(0, len(page.subscription_ids), 16)]
