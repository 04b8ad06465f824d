"""Claims A12, T4 and D8: a process does not start with settings that are not safe, and says what to do."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from cryptography.fernet import Fernet
from pydantic import SecretStr

from gateway.wiring import GatewaySettings
from gateway.wiring import serve as serve_gateway
from member_center import wiring as center_wiring
from send_engine import wiring as engine_wiring
from servicekit.preflight import is_loopback
from tests.member_center_fixtures import Engines

PASSWORD = "app-password"
SECRET = "s" * 43
PROCESSES = ("member center", "send engine", "worker")


class Deployment:
    """Migrated databases of both services, and what starts each process on one of them, as any role."""

    def __init__(self, engines: Engines) -> None:
        self.engines = engines
        self.names = {"center": f"center_{uuid.uuid4().hex[:8]}", "engine": f"engine_{uuid.uuid4().hex[:8]}"}
        self.owner_urls = {kind: engines.postgres.create_database(name) for kind, name in self.names.items()}
        self.app_urls = {
            "center": center_wiring.migrate(self.owner_urls["center"], PASSWORD),
            "engine": engine_wiring.migrate(self.owner_urls["engine"], PASSWORD),
        }

    def superuser_url(self, kind: str) -> str:
        return self.engines.postgres.superuser_url(self.names[kind])

    def execute(self, kind: str, statement: str) -> None:
        with psycopg.connect(self.superuser_url(kind), autocommit=True) as connection:
            connection.execute(statement.encode())

    def _forget(self, kind: str, *keys: str) -> None:
        """Removes keys that were made under other master keys, which are another matter."""
        self.execute(kind, "ALTER TABLE audit_log DISABLE TRIGGER append_only")
        for table in ("audit_log", "audit_head", *keys):
            self.execute(kind, f"DELETE FROM {table}")

    def start(self, process: str, **changes: Any) -> None:
        """Starts a process and stops it again; changes are settings by their name without the service's."""
        url = changes.pop("database_url", None)
        keys = SecretStr(changes.pop("master_keys", Fernet.generate_key().decode()))
        if process == "member center":
            settings = center_wiring.MemberCenterSettings(
                member_center_listen=changes.pop("listen", "127.0.0.1:0"),
                member_center_insecure=changes.pop("insecure", False),
                member_center_database_url=SecretStr(url or self.app_urls["center"]),
                broker_url=SecretStr(self.engines.valkey.url),
                public_base_url="http://news.example",
                member_center_master_keys=keys,
            )
            self._forget("center", "signing_keys", "link_keys", "address_hash_keys")
            center_wiring.start(settings).stop(0)
            return
        shared: dict[str, Any] = {
            "send_engine_database_url": SecretStr(url or self.app_urls["engine"]),
            "broker_url": SecretStr(self.engines.valkey.url),
            "public_base_url": "http://news.example",
            "member_center_address": "127.0.0.1:1",
            "send_engine_client_id": str(uuid.uuid4()),
            "send_engine_client_secret": SecretStr(changes.pop("client_secret", SECRET)),
            "send_engine_master_keys": keys,
        }
        if process == "worker":
            worker = engine_wiring.WorkerSettings(**shared, send_engine_smtp_url=SecretStr("smtp://127.0.0.1:1"))
            engine_wiring.RunningWorker(worker).stop()
            return
        self._forget("engine")
        engine_wiring.start(
            engine_wiring.ServiceSettings(
                **shared,
                send_engine_listen=changes.pop("listen", "127.0.0.1:0"),
                send_engine_insecure=changes.pop("insecure", False),
            )
        ).stop(0)


@pytest.fixture(scope="module")
def deployment(engines: Engines) -> Deployment:
    return Deployment(engines)


def kind_of(process: str) -> str:
    return "center" if process == "member center" else "engine"


def refused(start: Callable[[], object]) -> str:
    with pytest.raises(RuntimeError) as told:
        start()
    return str(told.value)


@pytest.mark.parametrize("process", PROCESSES)
def test_a_process_starts_with_settings_that_are_safe(deployment: Deployment, process: str) -> None:
    deployment.start(process)


@contextmanager
def role(deployment: Deployment, kind: str, options: str, member_of: str = "") -> Iterator[str]:
    """Makes a role, and yields the URL of the database as this role."""
    name = f"role_{uuid.uuid4().hex[:8]}"
    deployment.execute(kind, f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}' {options}")
    if member_of:
        deployment.execute(kind, f'GRANT "{member_of}" TO {name}')
    app = f"{deployment.names[kind]}_app"
    try:
        yield deployment.app_urls[kind].replace(f"//{app}:", f"//{name}:")
    finally:
        deployment.execute(kind, f"DROP ROLE {name}")


@pytest.mark.claim("T4", "roles above the fences that a process does not start as", asked=15, run=5)
@pytest.mark.parametrize("process", PROCESSES)
def test_no_process_starts_as_a_role_that_the_fences_do_not_hold(deployment: Deployment, process: str) -> None:
    kind = kind_of(process)
    for url in (deployment.owner_urls[kind], deployment.superuser_url(kind)):
        told = refused(lambda url=url: deployment.start(process, database_url=url))  # type: ignore[misc]
        assert "DATABASE_URL names the role" in told and "messmail migrate" in told
    with psycopg.connect(deployment.owner_urls[kind]) as connection:
        (owner,) = connection.execute("SELECT current_user").fetchone() or ("",)
    for options, member_of in (("SUPERUSER", ""), ("BYPASSRLS", ""), ("NOINHERIT", owner)):
        with role(deployment, kind, options, member_of) as url:
            told = refused(lambda url=url: deployment.start(process, database_url=url))  # type: ignore[misc]
        assert "DATABASE_URL names the role" in told
        assert PASSWORD not in told


@pytest.mark.claim("D8", "databases that forget what they confirmed, refused at start", asked=6, run=2)
@pytest.mark.parametrize("process", PROCESSES)
def test_no_process_starts_on_a_database_that_forgets_what_it_confirmed(deployment: Deployment, process: str) -> None:
    kind = kind_of(process)
    app = f"{deployment.names[kind]}_app"
    deployment.execute(kind, f'ALTER ROLE "{app}" SET synchronous_commit = off')
    try:
        assert "synchronous_commit = off" in refused(lambda: deployment.start(process))
    finally:
        deployment.execute(kind, f'ALTER ROLE "{app}" RESET synchronous_commit')
    deployment.execute(kind, "ALTER SYSTEM SET full_page_writes = off")
    deployment.execute(kind, "SELECT pg_reload_conf()")
    try:
        assert "full_page_writes = off" in refused(lambda: deployment.start(process))
    finally:
        deployment.execute(kind, "ALTER SYSTEM RESET full_page_writes")
        deployment.execute(kind, "SELECT pg_reload_conf()")


@pytest.mark.parametrize("process", PROCESSES)
def test_no_process_starts_with_master_keys_that_somebody_thought_of(deployment: Deployment, process: str) -> None:
    weak = {
        "zeros": base64.urlsafe_b64encode(bytes(32)).decode(),
        "a word": base64.urlsafe_b64encode(b"change-me-change-me-change-me-32").decode(),
        "too short": base64.urlsafe_b64encode(b"sixteen bytes!!!").decode(),
        "no base64": "secret",
        "a weak one behind a good one": f"{Fernet.generate_key().decode()},{'A' * 43}=",
        "separators": ",",
    }
    for name, keys in weak.items():
        told = refused(lambda keys=keys: deployment.start(process, master_keys=keys))  # type: ignore[misc]
        assert "MASTER_KEYS" in told, name
        assert keys == "," or keys not in told
    if process != "worker":
        assert "MASTER_KEYS" in refused(lambda: deployment.start(process, master_keys=""))


@pytest.mark.parametrize("process", ["send engine", "worker"])
def test_a_client_secret_that_was_never_made_here_is_refused(deployment: Deployment, process: str) -> None:
    told = refused(lambda: deployment.start(process, client_secret="changeme"))
    assert "SEND_ENGINE_CLIENT_SECRET" in told and "changeme" not in told


@pytest.mark.claim("A12", "listeners beyond loopback without TLS", asked=15, run=5)
@pytest.mark.parametrize("process", ["member center", "send engine", "gateway"])
def test_no_process_listens_beyond_loopback_without_a_word(deployment: Deployment, process: str) -> None:
    setting = process.replace(" ", "_").upper()
    for host in ("0.0.0.0", "[::]", "", "news.example", "192.0.2.1"):
        told = refused(lambda host=host: listen(deployment, process, f"{host}:0"))  # type: ignore[misc]
        assert f"{setting}_LISTEN" in told and f"{setting}_INSECURE=true" in told, told


def listen(deployment: Deployment, process: str, address: str) -> None:
    if process == "gateway":
        serve_gateway(
            GatewaySettings(
                gateway_listen=address,
                member_center_address="127.0.0.1:1",
                send_engine_address="127.0.0.1:1",
                gateway_client_id="id",
                gateway_client_secret=SecretStr(SECRET),
                public_base_url="http://127.0.0.1",
            )
        )
    else:
        deployment.start(process, listen=address)


@pytest.mark.parametrize("process", ["member center", "send engine"])
def test_with_the_word_it_listens(deployment: Deployment, process: str) -> None:
    deployment.start(process, listen="0.0.0.0:0", insecure=True)


def test_what_is_loopback() -> None:
    assert all(is_loopback(host) for host in ("localhost", "127.0.0.1", "127.9.9.9", "::1"))
    assert not any(is_loopback(host) for host in ("", "0.0.0.0", "::", "10.0.0.1", "localhost.evil.example", "fe80::1"))
