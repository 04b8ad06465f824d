"""Puts Send Engine's processes together: settings, the gRPC server, the worker, migrations and upkeep.

Whatever listens, polls or has a thread is started here and nowhere else.
"""

from __future__ import annotations

import gc
import os
import socket
import threading
from concurrent.futures import wait
from contextlib import ExitStack, suppress
from datetime import datetime, timedelta
from pathlib import Path

import sqlalchemy as sa
import structlog
from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from messmail.send_engine.v1 import send_engine_admin_pb2_grpc, send_engine_pb2_grpc
from send_engine.actors import Doorbell
from send_engine.confirmations import Confirmations
from send_engine.deliveries import GIVE_UP_SECONDS, Ledger, LedgerTerms
from send_engine.delivery_pages import DeliveryPages
from send_engine.error_budget import ErrorBudget
from send_engine.esp_accounts import EspAccountAdmin, EspAccounts
from send_engine.lanes import SLOTS, Lanes
from send_engine.mail_loop import MailLoop
from send_engine.pacing import Pacing
from send_engine.passed_by import PassedBy
from send_engine.permits import Permits
from send_engine.person_deliveries import PersonDeliveries
from send_engine.planning import Planning
from send_engine.recipients import Recipients
from send_engine.records import Lane
from send_engine.rounds import Rounds
from send_engine.send_jobs import SendJobs
from send_engine.send_limits import SendLimits
from send_engine.sending import Sending
from send_engine.servicer import SendEngineAdminServicer, SendEngineServicer
from send_engine.smtp_settings import SmtpSettings
from send_engine.storage import idempotency_keys, partitions
from send_engine.sweeper import Sweeper
from send_engine.trials import Trials
from send_engine.unknowns import Unknowns
from servicekit import migrations
from servicekit.audit import AuditLog
from servicekit.audit_check import AuditCheck
from servicekit.audit_servicer import audit_service
from servicekit.clients import AccessTokens, open_internal_channel
from servicekit.database import Database
from servicekit.jwks import FetchedKeys
from servicekit.keyring import MasterKeys, read_master_keys
from servicekit.mutual_tls import MutualTls, MutualTlsSettings
from servicekit.preflight import check_client_secret, check_database, check_listen, forbid_core_dumps
from servicekit.revocations import Revocations
from servicekit.server import RunningServer, Service, serve_until_stopped, start_server
from servicekit.stop_signals import StopSignals
from servicekit.telemetry import configure_logging
from servicekit.tokens import TokenVerifier

NAME = "send-engine"
_REVISIONS = Path(__file__).parent / "storage" / "migrations"
_FEED_SCOPE = "internal:feed"
# After SIGTERM a group under way may end in peace; then no further mail of it is begun; then the process ends anyway.
_PEACE_SECONDS = 30.0
_HURRY_SECONDS = 15.0
_PARTING_SECONDS = 5.0

_log = structlog.get_logger()


class _SharedSettings(MutualTlsSettings):
    # An error about one setting must not show the others.
    model_config = SettingsConfigDict(hide_input_in_errors=True)

    send_engine_database_url: SecretStr
    broker_url: SecretStr
    public_base_url: str
    member_center_address: str
    send_engine_client_id: str
    send_engine_client_secret: SecretStr
    # Encrypt the credentials of the tenants' own ESP accounts, and the key of the audit log. A worker goes without
    # as long as no tenant has an account.
    send_engine_master_keys: SecretStr = SecretStr("")


class ServiceSettings(_SharedSettings):
    """Settings of the gRPC server, from its environment."""

    send_engine_listen: str = "127.0.0.1:50052"
    # Whether to listen beyond this machine without TLS.
    send_engine_insecure: bool = False


class WorkerSettings(_SharedSettings, SmtpSettings):
    """Settings of a worker, from its environment. Times are in seconds."""

    send_engine_smtp_url: SecretStr
    send_engine_lease_seconds: float = Field(default=60.0, ge=1)
    send_engine_give_up_seconds: float = Field(default=GIVE_UP_SECONDS, ge=0)
    # A job of which more than this share was refused within so long is paused, once there are enough results to tell.
    send_engine_error_budget_percent: float = Field(default=25, ge=0, le=100)
    send_engine_error_budget_results: int = Field(default=200, ge=1)
    send_engine_error_budget_seconds: float = Field(default=600, gt=0)


class OwnerSettings(BaseSettings):
    """Settings of what the owner of the database does, from its environment."""

    # An error about one setting must not show the others.
    model_config = SettingsConfigDict(hide_input_in_errors=True)

    send_engine_database_url: SecretStr
    send_engine_app_password: SecretStr = SecretStr("")
    # Deliveries older than this are dropped, by whole weeks in which no batch is open any more. Left out: none are.
    send_engine_keep_weeks: int | None = Field(default=None, ge=1)


def start(settings: ServiceSettings) -> RunningServer:
    """Starts the gRPC server; its caller stops it. Raises RuntimeError for settings that are not safe."""
    tls = settings.mutual_tls_of_server()
    check_listen(
        "SEND_ENGINE_LISTEN",
        settings.send_engine_listen,
        "set up mutual TLS, listen on 127.0.0.1, or set SEND_ENGINE_INSECURE=true where the network keeps others out",
        allowed=settings.send_engine_insecure or tls is not None,
    )
    keys = read_master_keys("SEND_ENGINE_MASTER_KEYS", settings.send_engine_master_keys.get_secret_value())
    with ExitStack() as opened:
        running = _start(settings, keys, tls, opened)
        opened.pop_all()
    return running


def _start(settings: ServiceSettings, keys: MasterKeys, tls: MutualTls | None, opened: ExitStack) -> RunningServer:
    """Starts what opened is to close when that fails half-way."""
    database = _checked_database(settings, 16, NAME)
    opened.callback(database.close)
    audit = AuditLog(database, keys)
    audit.start()
    opened.callback(audit.close)
    doorbell = Doorbell(settings.broker_url.get_secret_value())
    recipients = _recipients(settings)
    servicer = SendEngineServicer(
        SendJobs(database, recipients, doorbell.ring, audit),
        Rounds(database, doorbell.ring),
        Unknowns(database),
        DeliveryPages(database),
    )
    accounts = EspAccountAdmin(database, keys, audit)
    issuer_keys = FetchedKeys(settings.member_center_address, tls)
    verifier = TokenVerifier(settings.public_base_url, issuer_keys, Revocations(recipients.revocations).includes)
    admin = SendEngineAdminServicer(accounts, SendLimits(database, audit), PersonDeliveries(database, audit))
    services = [
        audit_service(audit, AuditCheck(database, keys)),
        Service(
            "messmail.send_engine.v1.SendEngine",
            lambda server: send_engine_pb2_grpc.add_SendEngineServicer_to_server(servicer, server),
        ),
        Service(
            "messmail.send_engine.v1.SendEngineAdmin",
            lambda server: send_engine_admin_pb2_grpc.add_SendEngineAdminServicer_to_server(admin, server),
        ),
    ]
    return start_server(
        settings.send_engine_listen,
        services,
        verifier,
        audit=audit,
        tls=tls,
        closers=[issuer_keys.close, doorbell.close, audit.close, database.close],
    )


def serve(settings: ServiceSettings | None = None) -> None:
    """Serves gRPC until SIGTERM."""
    configure_logging(NAME)
    forbid_core_dumps()
    serve_until_stopped(NAME, start(settings or ServiceSettings()))


class RunningWorker:
    """A worker: its lanes, its sweeper, its ear at the doorbell and its confirmation thread."""

    def __init__(self, settings: WorkerSettings) -> None:
        """Starts everything. Raises RuntimeError for settings that are not safe."""
        self._stopping, self._hurrying = threading.Event(), threading.Event()
        keys = _master_keys(settings)
        database = _checked_database(settings, 12, "worker")
        terms = LedgerTerms(
            worker=f"{socket.gethostname()}:{os.getpid()}",
            lease_seconds=settings.send_engine_lease_seconds,
            give_up_seconds=settings.send_engine_give_up_seconds,
            budget=ErrorBudget(
                share=settings.send_engine_error_budget_percent / 100,
                least_results=settings.send_engine_error_budget_results,
                window_seconds=settings.send_engine_error_budget_seconds,
            ),
        )
        self._database = database
        ledger, recipients = Ledger(database, terms), _recipients(settings)
        self._loop = MailLoop()
        newsletter_accounts, confirmation_accounts = (_accounts(settings, database, keys) for _ in range(2))
        self._accounts = (newsletter_accounts, confirmation_accounts)
        passed_by = PassedBy()
        pacing = Pacing(Permits(database), passed_by)
        self._trials = Trials()
        sending = Sending(
            ledger,
            pacing,
            recipients,
            newsletter_accounts,
            self._loop,
            self._trials,
            passed_by,
            self._stopping,
            self._hurrying,
        )
        self._doorbell = Doorbell(settings.broker_url.get_secret_value(), self._answer)
        rounds = Rounds(database, self._doorbell.ring)
        planning = Planning(database, recipients, rounds, terms.lease_seconds, self._doorbell.ring, self._stopping)
        carriers = {
            Lane.PLAN: planning.carry_out,
            Lane.BULK: sending.carry_out,
            Lane.RETRY: sending.carry_out,
            Lane.HELD: sending.carry_out,
        }
        self._lanes = Lanes(ledger, carriers, passed_by, self._stopping)
        # One thread more than slots: a ring for a lane that is full is heard, and forgotten, at once.
        self._listener = self._doorbell.listen(sum(SLOTS.values()) + 1)
        sweeper = Sweeper(ledger, self._lanes, self._doorbell.ring, self._stopping)
        confirmations = Confirmations(recipients, confirmation_accounts, self._loop, self._stopping)
        self._threads = [
            threading.Thread(target=sweeper.run, name="sweeper", daemon=True),
            threading.Thread(target=confirmations.run, name="confirmations", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends the groups under way, gives their batches back and stops everything; takes less than a minute.

        A group of which a relay keeps its answers longer than that stays marked, as if the worker had been killed.
        """
        self._stopping.set()
        if not self._lanes.wait_idle(_PEACE_SECONDS):
            self._hurrying.set()
            if not self._lanes.wait_idle(_HURRY_SECONDS):
                _log.warning("stopped_in_mid_group", process="worker")
        for thread in self._threads:
            thread.join(timeout=2.0)
        # A thread that waits for a broker which is away is a daemon, and left behind.
        with suppress(Exception):
            self._listener.stop(timeout=1000)
        self._trials.close()
        partings = [self._loop.submit(esp.close()) for accounts in self._accounts for esp in accounts.opened()]
        wait(partings, timeout=_PARTING_SECONDS)
        self._loop.close()
        self._doorbell.close()
        self._database.close()

    def _answer(self, lane: Lane) -> None:
        self._lanes.run(lane)


def run_worker(settings: WorkerSettings | None = None) -> None:
    """Works until SIGTERM."""
    configure_logging("worker")
    forbid_core_dumps()
    stop = StopSignals()
    worker = RunningWorker(settings or WorkerSettings())
    # What was made until now stays, and of the thousands of objects of a group nothing does. To look at them again and
    # again for what refers to itself would take a twentieth of the time.
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    _log.info("ready", process="worker", pid=os.getpid())
    stop.wait()
    _log.info("stopping", process="worker")
    worker.stop()
    _log.info("stopped", process="worker")


def migrate(owner_url: str | None = None, app_password: str | None = None) -> str:
    """Brings the database to this version's schema, as its owner, and returns the URL of the app role.

    What is not given comes from the environment.
    """
    if owner_url is None:
        settings = OwnerSettings()
        owner_url = settings.send_engine_database_url.get_secret_value()
        app_password = settings.send_engine_app_password.get_secret_value()
    app_url = migrations.migrate(owner_url, app_password or "", _REVISIONS)
    maintain(owner_url)
    return app_url


def maintain(owner_url: str | None = None, keep_weeks: int | None = None) -> None:
    """Makes partitions ahead, and drops old ones and old idempotency keys, as the owner of the database."""
    if owner_url is None:
        settings = OwnerSettings()
        owner_url, keep_weeks = settings.send_engine_database_url.get_secret_value(), settings.send_engine_keep_weeks
    with migrations.owner(owner_url) as connection:
        now: datetime = connection.execute(sa.text("SELECT messmail_now()")).scalar_one()
        made = partitions.make_ahead(connection, now)
        dropped, open_weeks = list[str](), list[str]()
        if keep_weeks is not None:
            dropped, open_weeks = partitions.drop_before(connection, now - timedelta(weeks=keep_weeks))
        keys = idempotency_keys.remove_old(connection)
    _log.info("maintained", database=NAME, made=made, dropped=dropped, still_open=open_weeks, idempotency_keys=keys)


def _checked_database(settings: _SharedSettings, connections: int, name: str) -> Database:
    check_client_secret("SEND_ENGINE_CLIENT_SECRET", settings.send_engine_client_secret.get_secret_value())
    database = Database(settings.send_engine_database_url.get_secret_value(), pool_size=connections, name=name)
    try:
        check_database("SEND_ENGINE_DATABASE_URL", database)
    except BaseException:
        database.close()
        raise
    return database


def _recipients(settings: _SharedSettings) -> Recipients:
    tokens = AccessTokens(
        settings.member_center_address,
        settings.send_engine_client_id,
        settings.send_engine_client_secret.get_secret_value(),
        _FEED_SCOPE,
        settings.mutual_tls,
    )
    return Recipients(open_internal_channel(settings.member_center_address, tokens, settings.mutual_tls))


def _accounts(settings: WorkerSettings, database: Database, keys: MasterKeys | None) -> EspAccounts:
    return EspAccounts(
        database,
        keys,
        settings.send_engine_smtp_url.get_secret_value(),
        settings.open_esp,
    )


def _master_keys(settings: WorkerSettings) -> MasterKeys | None:
    keys = settings.send_engine_master_keys.get_secret_value()
    return read_master_keys("SEND_ENGINE_MASTER_KEYS", keys) if keys else None
