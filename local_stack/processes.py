"""The processes of Messmail as children of the local stack: the command and the environment of each.

Every process gets its own settings and none of another's: what one of them is given here is withheld from the others,
even where it came with the environment of `up`. Other variables pass through, so that a setting can be tried out.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote, urlsplit

from local_stack.children import MARK, Child
from local_stack.ports import Address

# The stages in which the parts stop, the last first; engines have stage 0.
_MAILBOX, _WORKERS, _SERVICES, _GATEWAY = 1, 2, 3, 4

_WITHHELD = {
    "BROKER_URL",
    "GATEWAY_CLIENT_ID",
    "GATEWAY_CLIENT_SECRET",
    "GATEWAY_LISTEN",
    "GATEWAY_SERVICES",
    "MEMBER_CENTER_ADDRESS",
    "MEMBER_CENTER_APP_PASSWORD",
    "MEMBER_CENTER_DATABASE_URL",
    "MEMBER_CENTER_LISTEN",
    "MEMBER_CENTER_MASTER_KEYS",
    "MESSMAIL_SMTP_URL",
    "PUBLIC_BASE_URL",
    "SEND_ENGINE_ADDRESS",
    "SEND_ENGINE_APP_PASSWORD",
    "SEND_ENGINE_CLIENT_ID",
    "SEND_ENGINE_CLIENT_SECRET",
    "SEND_ENGINE_DATABASE_URL",
    "SEND_ENGINE_LISTEN",
    "SEND_ENGINE_MASTER_KEYS",
    "SEND_ENGINE_SMTP_URL",
}


@dataclass(frozen=True)
class Database:
    """One service's database: its owner's URL and the password of its app role."""

    owner_url: str = field(repr=False)
    app_password: str = field(repr=False)

    @property
    def app_url(self) -> str:
        """The URL of the app role `<database>_app`, on the same server and database."""
        parts = urlsplit(self.owner_url)
        server = parts.netloc.rpartition("@")[2]
        user = f"{parts.path.strip('/')}_app"
        return parts._replace(netloc=f"{user}:{quote(self.app_password, safe='')}@{server}").geturl()


@dataclass(frozen=True)
class Credential:
    """An OAuth client of this installation."""

    client_id: str
    client_secret: str = field(repr=False)


@dataclass(frozen=True)
class Addresses:
    """Where the parts listen; the mailbox's two are None with a relay."""

    http: Address
    member_center: Address
    send_engine: Address
    mailbox: Address | None = None
    smtp: Address | None = None


@dataclass(frozen=True)
class Installation:
    """What the processes of one stack have to agree on."""

    data: Path
    addresses: Addresses
    member_center: Database
    send_engine: Database
    broker_url: str = field(repr=False)
    smtp_url: str = field(repr=False)
    member_center_master_keys: str = field(repr=False)
    send_engine_master_keys: str = field(repr=False)

    @property
    def public_base_url(self) -> str:
        """What links and the issuer of tokens are built from."""
        return f"http://{self.addresses.http.reachable}"

    def migrate(self) -> Child:
        """Brings both databases to this version's schema, as their owners."""
        settings = {
            "MEMBER_CENTER_DATABASE_URL": self.member_center.owner_url,
            "MEMBER_CENTER_APP_PASSWORD": self.member_center.app_password,
            "SEND_ENGINE_DATABASE_URL": self.send_engine.owner_url,
            "SEND_ENGINE_APP_PASSWORD": self.send_engine.app_password,
        }
        return self._messmail("migrate", "migrate", settings)

    def bootstrap(self) -> Child:
        """Prints the first credentials as JSON; forced, for an earlier try may have been killed before it kept them."""
        return self._messmail("bootstrap", "bootstrap --json --with-services --force", self._member_center_settings())

    def mailbox(self) -> Child:
        """Takes the mails of this stack."""
        options = ("--smtp", str(self.addresses.smtp), "--http", str(self.addresses.mailbox))
        return self._python("mailbox", ("local_stack.mailbox", *options), {}, _MAILBOX)

    def serve_member_center(self) -> Child:
        """Serves Member Center."""
        settings = {"MEMBER_CENTER_LISTEN": str(self.addresses.member_center), **self._member_center_settings()}
        return self._messmail("member-center", "serve member-center", settings, _SERVICES)

    def serve_send_engine(self, credential: Credential) -> Child:
        """Serves Send Engine, which calls Member Center with the credential."""
        settings = {"SEND_ENGINE_LISTEN": str(self.addresses.send_engine), **self._send_engine_settings(credential)}
        return self._messmail("send-engine", "serve send-engine", settings, _SERVICES)

    def worker(self, number: int, credential: Credential) -> Child:
        """Plans and sends."""
        settings = {
            "SEND_ENGINE_SMTP_URL": self.smtp_url,
            **self._send_engine_settings(credential),
        }
        # A worker ends the mails it has begun, and a relay may be slow to answer.
        return replace(self._messmail(f"worker-{number}", "worker", settings, _WORKERS), grace=60.0)

    def serve_gateway(self, credential: Credential) -> Child:
        """Serves REST for both services, which it calls with the credential."""
        settings = {
            "GATEWAY_LISTEN": str(self.addresses.http),
            "GATEWAY_SERVICES": "member-center,send-engine",
            "GATEWAY_CLIENT_ID": credential.client_id,
            "GATEWAY_CLIENT_SECRET": credential.client_secret,
            "MEMBER_CENTER_ADDRESS": str(self.addresses.member_center.reachable),
            "SEND_ENGINE_ADDRESS": str(self.addresses.send_engine.reachable),
            "PUBLIC_BASE_URL": self.public_base_url,
        }
        return self._messmail("gateway", "serve gateway", settings, _GATEWAY)

    def _member_center_settings(self) -> dict[str, str]:
        return {
            "MEMBER_CENTER_DATABASE_URL": self.member_center.app_url,
            "MEMBER_CENTER_MASTER_KEYS": self.member_center_master_keys,
            "BROKER_URL": self.broker_url,
            "PUBLIC_BASE_URL": self.public_base_url,
        }

    def _send_engine_settings(self, credential: Credential) -> dict[str, str]:
        return {
            "SEND_ENGINE_DATABASE_URL": self.send_engine.app_url,
            "SEND_ENGINE_CLIENT_ID": credential.client_id,
            "SEND_ENGINE_CLIENT_SECRET": credential.client_secret,
            "SEND_ENGINE_MASTER_KEYS": self.send_engine_master_keys,
            "MEMBER_CENTER_ADDRESS": str(self.addresses.member_center.reachable),
            "BROKER_URL": self.broker_url,
            "PUBLIC_BASE_URL": self.public_base_url,
        }

    def _messmail(self, name: str, command: str, settings: Mapping[str, str], stage: int = 0) -> Child:
        return self._python(name, ("messmail_cli", *command.split()), settings, stage)

    def _python(self, name: str, module: tuple[str, ...], settings: Mapping[str, str], stage: int) -> Child:
        inherited = {key: value for key, value in os.environ.items() if key not in _WITHHELD}
        # The child imports exactly what this process would, wherever both were started from.
        path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
        return Child(
            name=name,
            command=(sys.executable, "-P", "-m", *module),
            environment=inherited | {"PYTHONPATH": path, MARK: str(self.data)} | dict(settings),
            stage=stage,
        )
