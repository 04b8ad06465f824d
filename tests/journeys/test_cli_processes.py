"""Each process started alone, as in production: by its command and its environment, nothing else."""

import json
import os
import signal
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography.fernet import Fernet

from tests.member_center_fixtures import Engines
from tests.member_center_fixtures import engines as engines
from tests.stack import command_line, wait_until

pytestmark = pytest.mark.timeout(240)

PASSWORD = "of@the/app:role"


@dataclass(frozen=True)
class Deployment:
    """The databases and secrets of one installation, and a folder for logs."""

    owner_urls: dict[str, str]
    settings: dict[str, str]
    folder: Path

    @property
    def app_url(self) -> str:
        """Member Center's database as its app role reaches it."""
        url = urlsplit(self.owner_urls["MEMBER_CENTER_DATABASE_URL"])
        user = f"{url.path.strip('/')}_app"
        return url._replace(netloc=f"{user}:of%40the%2Fapp%3Arole@{url.netloc.rpartition('@')[2]}").geturl()

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end."""
        return subprocess.run(
            command_line(*arguments),
            env=clean_environment() | environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    @contextmanager
    def serving_member_center(self) -> Iterator[str]:
        """Serves Member Center on a free port and gives its address; it must end well on SIGTERM."""
        log = self.folder / "member-center.log"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                command_line("serve", "member-center"), env=clean_environment() | self.settings, stderr=stream
            )

        def address() -> str | None:
            assert process.poll() is None, log.read_text()
            lines = [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")]
            return next((line["address"] for line in lines if line["event"] == "ready"), None)

        try:
            yield wait_until(address, "member-center to be ready")
        finally:
            process.send_signal(signal.SIGTERM)
            status = process.wait(30)
        assert status == 0
        assert '"stopped"' in log.read_text()


def clean_environment() -> dict[str, str]:
    ours = ("MESSMAIL_", "MEMBER_CENTER_", "SEND_ENGINE_", "GATEWAY_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


@pytest.fixture(scope="module")
def deployment(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    """Two empty databases."""
    owner_urls = {
        f"{name.upper()}_DATABASE_URL": engines.postgres.create_database(f"{name}_{uuid.uuid4().hex[:8]}")
        for name in ("member_center", "send_engine")
    }
    folder = tmp_path_factory.mktemp("deployment")
    made = Deployment(owner_urls, {}, folder)
    settings = {
        "MEMBER_CENTER_LISTEN": "127.0.0.1:0",
        "MEMBER_CENTER_DATABASE_URL": made.app_url,
        "MEMBER_CENTER_MASTER_KEYS": Fernet.generate_key().decode(),
        "BROKER_URL": engines.valkey.url,
        "PUBLIC_BASE_URL": "http://news.example",
    }
    return Deployment(owner_urls, settings, folder)


def test_an_installation_is_made_step_by_step_and_then_administered_by_environment(deployment: Deployment) -> None:
    passwords = {"MEMBER_CENTER_APP_PASSWORD": PASSWORD, "SEND_ENGINE_APP_PASSWORD": PASSWORD}
    for _ in range(2):
        migrated = deployment.run("migrate", **deployment.owner_urls, **passwords)
        assert migrated.returncode == 0, migrated.stderr
        assert migrated.stdout.splitlines() == ["member-center: at this version", "send-engine: at this version"]
    maintained = deployment.run("maintain", **deployment.owner_urls)
    assert maintained.returncode == 0, maintained.stderr

    with deployment.serving_member_center() as address:
        made = deployment.run("bootstrap", "--json", "--with-services", **deployment.settings)
        assert made.returncode == 0, made.stderr
        credentials = json.loads(made.stdout)
        assert set(credentials) == {"admin", "send_engine", "gateway"}

        again = deployment.run("bootstrap", "--json", **deployment.settings)
        assert (again.returncode, again.stdout) == (1, "")
        assert "has its first credentials already" in again.stderr
        forced = deployment.run("bootstrap", "--json", "--force", **deployment.settings)
        assert set(json.loads(forced.stdout)) == {"admin"}

        admin = credentials["admin"]
        tenant = deployment.run(
            *("tenants", "create", "--name", "Acme", "--json"),
            MESSMAIL_MEMBER_CENTER=address,
            MESSMAIL_CLIENT_ID=admin["client_id"],
            MESSMAIL_CLIENT_SECRET=admin["client_secret"],
        )
        assert tenant.returncode == 0, tenant.stderr
        assert set(json.loads(tenant.stdout)) == {"tenant_id"}


def test_a_migration_with_a_wrong_password_says_so_and_shows_none(deployment: Deployment) -> None:
    url = deployment.owner_urls["MEMBER_CENTER_DATABASE_URL"]
    ended = deployment.run(
        "migrate",
        MEMBER_CENTER_DATABASE_URL=url.replace(urlsplit(url).password or "", "geheim"),
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "The database refused" in ended.stderr
    assert "geheim" not in ended.stderr


@pytest.mark.parametrize("process", [("serve", "gateway"), ("serve", "send-engine"), ("worker",), ("bootstrap",)])
def test_a_process_names_the_settings_that_it_lacks(deployment: Deployment, process: tuple[str, ...]) -> None:
    ended = deployment.run(*process)
    assert (ended.returncode, ended.stdout) == (1, "")
    told = ended.stderr.splitlines()[-1]
    assert told.startswith("messmail: These environment variables are missing or wrong: ")
    assert "PUBLIC_BASE_URL" in told
