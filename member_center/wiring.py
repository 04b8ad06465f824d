"""Puts Member Center's process together: settings, the gRPC server, migrations, upkeep and the first credentials."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import sqlalchemy as sa
import structlog
from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from member_center.address_hashes import AddressHashes
from member_center.audience import Audience
from member_center.complaints import Complaints
from member_center.counting import Counting, hashing_key
from member_center.cross_origin import CrossOrigin
from member_center.imports import Imports
from member_center.keyrings import Keyrings
from member_center.limits import Limiter
from member_center.link_keys import StoredLinkKeys
from member_center.links import Links
from member_center.lists import Lists
from member_center.login_limits import LoginLimits
from member_center.oauth import OAuth
from member_center.outbox import Outbox
from member_center.people import People
from member_center.preference_center import PreferenceCenters
from member_center.preferences import MemberPreferences
from member_center.records.consent import Purpose
from member_center.records.installation import OPERATOR, Usage
from member_center.revocations import RevocationList
from member_center.servicers.admin import MemberCenterAdminServicer
from member_center.servicers.feed import MemberCenterFeedServicer
from member_center.servicers.member_center import MemberCenterServicer
from member_center.signing_keys import SigningKeys
from member_center.storage import upkeep
from member_center.storage.windows import Counters
from member_center.subscriptions import Subscriptions
from member_center.suppressions import Suppressions
from member_center.tenants import Tenants
from messmail.member_center.v1 import (
    member_center_admin_pb2_grpc,
    member_center_feed_pb2_grpc,
    member_center_pb2_grpc,
)
from servicekit import migrations
from servicekit.audit import AuditLog
from servicekit.audit_check import AuditCheck
from servicekit.audit_servicer import audit_service
from servicekit.database import Database
from servicekit.keyring import MasterKeys, read_master_keys
from servicekit.mutual_tls import MutualTls, MutualTlsSettings
from servicekit.preflight import check_database, check_listen, forbid_core_dumps
from servicekit.revocations import Revocations
from servicekit.server import RunningServer, Service, serve_until_stopped, start_server
from servicekit.telemetry import configure_logging
from servicekit.tokens import TokenVerifier

NAME = "member-center"
REVISIONS = Path(__file__).parent / "storage" / "migrations"
# Python runs one at a time: more of them change places more often, and get less done.
_THREADS = 12
_CONNECTIONS = 16
_ADMIN_SCOPES = ("internal:admin", "internal:send")
_SERVICE_SCOPES = {"send_engine": ("internal:feed",), "gateway": ("internal:gateway",)}

_log = structlog.get_logger()


class MemberCenterSettings(MutualTlsSettings):
    """Settings of Member Center, from its environment."""

    # An error about one setting must not show the others.
    model_config = SettingsConfigDict(hide_input_in_errors=True)

    member_center_listen: str = "127.0.0.1:50051"
    # Whether to listen beyond this machine without TLS.
    member_center_insecure: bool = False
    member_center_database_url: SecretStr
    broker_url: SecretStr
    public_base_url: str
    member_center_master_keys: SecretStr


class OwnerSettings(BaseSettings):
    """Settings of what the owner of the database does, from its environment."""

    # An error about one setting must not show the others.
    model_config = SettingsConfigDict(hide_input_in_errors=True)

    member_center_database_url: SecretStr
    member_center_app_password: SecretStr = SecretStr("")


def start(settings: MemberCenterSettings) -> RunningServer:
    """Starts the gRPC server; its caller stops it. Raises RuntimeError for settings that are not safe."""
    tls = settings.mutual_tls_of_server()
    check_listen(
        "MEMBER_CENTER_LISTEN",
        settings.member_center_listen,
        "set up mutual TLS, listen on 127.0.0.1, or set MEMBER_CENTER_INSECURE=true where the network keeps others out",
        allowed=settings.member_center_insecure or tls is not None,
    )
    with ExitStack() as opened:
        running = _start(settings, tls, opened)
        opened.pop_all()
    return running


def _start(settings: MemberCenterSettings, tls: MutualTls | None, opened: ExitStack) -> RunningServer:
    """Starts what opened is to close when that fails half-way."""
    issuer = settings.public_base_url
    master_keys, database = _master_keys(settings), _database(settings)
    opened.callback(database.close)
    check_database("MEMBER_CENTER_DATABASE_URL", database)
    audit = AuditLog(database, master_keys)
    audit.start()
    opened.callback(audit.close)
    counters = Counters(settings.broker_url.get_secret_value())
    opened.callback(counters.close)
    signing_keys, link_keys = SigningKeys(database, master_keys, audit), StoredLinkKeys(database, master_keys, audit)
    signing_keys.create_missing()
    link_keys.create_missing()
    hashes = AddressHashes(database, master_keys, audit)
    hashes.create_missing()
    # What no master key fits is told now, and not by the first call.
    signing_keys.signing()
    link_keys.current(Purpose.CONFIRM_API)
    hashes.pads(OPERATOR)

    lists, links = Lists(database, audit), Links(link_keys, issuer)
    counting = Counting(counters, hashing_key(settings.member_center_master_keys.get_secret_value()))
    limiter = Limiter(database, counting, audit)
    revocations = RevocationList(database)
    verifier = _verifier(issuer, signing_keys, revocations)
    oauth = OAuth(database, signing_keys, issuer, revocations, verifier, audit)
    public = MemberCenterServicer(
        oauth,
        signing_keys,
        LoginLimits(counting, limiter.in_force, audit),
        Subscriptions(database, lists, links, limiter, hashes),
        MemberPreferences(database, lists, limiter),
        PreferenceCenters(database, lists, links, limiter),
        CrossOrigin(database, lists, links, limiter),
        issuer,
    )
    admin = MemberCenterAdminServicer(
        Tenants(database, audit),
        lists,
        oauth,
        Imports(database, lists, hashes, audit),
        limiter,
        Keyrings(signing_keys, link_keys, hashes, audit, master_keys),
        Suppressions(database, lists, hashes, audit),
        Complaints(database, lists, audit),
        People(database, hashes, audit),
    )
    feed = MemberCenterFeedServicer(
        lists,
        Audience(database, lists, links, hashes),
        Outbox(database, lists, links, limiter, hashes),
        revocations,
    )
    services = [
        audit_service(audit, AuditCheck(database, master_keys)),
        Service(
            "messmail.member_center.v1.MemberCenter",
            lambda server: member_center_pb2_grpc.add_MemberCenterServicer_to_server(public, server),
        ),
        Service(
            "messmail.member_center.v1.MemberCenterAdmin",
            lambda server: member_center_admin_pb2_grpc.add_MemberCenterAdminServicer_to_server(admin, server),
        ),
        Service(
            "messmail.member_center.v1.MemberCenterFeed",
            lambda server: member_center_feed_pb2_grpc.add_MemberCenterFeedServicer_to_server(feed, server),
        ),
    ]
    return start_server(
        settings.member_center_listen,
        services,
        verifier,
        audit=audit,
        tls=tls,
        threads=_THREADS,
        closers=[counters.close, audit.close, database.close],
    )


def serve(settings: MemberCenterSettings | None = None) -> None:
    """Serves gRPC until SIGTERM."""
    configure_logging(NAME)
    forbid_core_dumps()
    serve_until_stopped(NAME, start(settings or MemberCenterSettings()))


def migrate(owner_url: str | None = None, app_password: str | None = None) -> str:
    """Brings the database to this version's schema, as its owner, and returns the URL of the app role.

    What is not given comes from the environment.
    """
    if owner_url is None:
        settings = OwnerSettings()
        owner_url = settings.member_center_database_url.get_secret_value()
        app_password = settings.member_center_app_password.get_secret_value()
    return migrations.migrate(owner_url, app_password or "", REVISIONS)


def maintain(owner_url: str | None = None) -> None:
    """Removes what nobody needs any more, as the owner of the database."""
    if owner_url is None:
        owner_url = OwnerSettings().member_center_database_url.get_secret_value()
    engine = sa.create_engine(
        sa.make_url(owner_url).set(drivername="postgresql+psycopg"),
        poolclass=sa.NullPool,
        connect_args={"connect_timeout": 5},
    )
    with engine.begin() as connection:
        mails, subscriptions = upkeep.remove_ended_mails(connection), upkeep.remove_never_confirmed(connection)
        revocations = upkeep.remove_past_revocations(connection)
    _log.info("maintained", database=NAME, mails=mails, subscriptions=subscriptions, revocations=revocations)


def bootstrap(
    settings: MemberCenterSettings | None = None, *, with_services: bool = False, force: bool = False
) -> dict[str, dict[str, str]]:
    """Makes the first admin client, and with services those of Send Engine and the gateway; returns their secrets.

    Raises RuntimeError when the installation already has clients of its own, unless forced.
    """
    settings = settings or MemberCenterSettings()
    database = _database(settings)
    try:
        check_database("MEMBER_CENTER_DATABASE_URL", database)
        audit = AuditLog(database, _master_keys(settings))
        audit.begin()
        issuer, keys, revocations = (
            settings.public_base_url,
            SigningKeys(database, _master_keys(settings), audit),
            RevocationList(database),
        )
        oauth = OAuth(database, keys, issuer, revocations, _verifier(issuer, keys, revocations), audit)
        if oauth.has_internal_clients() and not force:
            raise RuntimeError("this installation has its first credentials already: make more with `messmail clients`")
        wanted = {"admin": _ADMIN_SCOPES, **(_SERVICE_SCOPES if with_services else {})}
        made = {name: oauth.create_client(None, Usage.INTERNAL, scopes, name) for name, scopes in wanted.items()}
    finally:
        database.close()
    return {name: {"client_id": str(client.id), "client_secret": client.secret} for name, client in made.items()}


def _verifier(issuer: str, keys: SigningKeys, revocations: RevocationList) -> TokenVerifier:
    return TokenVerifier(issuer, keys, Revocations(revocations.read).includes)


def _master_keys(settings: MemberCenterSettings) -> MasterKeys:
    return read_master_keys("MEMBER_CENTER_MASTER_KEYS", settings.member_center_master_keys.get_secret_value())


def _database(settings: MemberCenterSettings) -> Database:
    return Database(settings.member_center_database_url.get_secret_value(), pool_size=_CONNECTIONS, name=NAME)
