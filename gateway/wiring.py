"""The gateway's process: its settings, what it is put together from, and serving it until SIGTERM."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Generator
from contextlib import asynccontextmanager, contextmanager
from ipaddress import ip_network
from typing import Annotated, Final, Literal, TypeAlias

import orjson
import structlog
import uvicorn
from google.protobuf.descriptor import ServiceDescriptor
from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from gateway.app import Gateway, Routes
from gateway.backends import Backend, GatewayToken, open_channel
from gateway.connection import BoundedProtocol
from gateway.cross_origin import CrossOrigin
from gateway.endpoint import Endpoint
from gateway.exchange import Answer
from gateway.fixed import Fixed, unchanging
from gateway.openapi import openapi_document, reasons
from gateway.pages import STYLESHEET, Pages, read_asset
from gateway.pages.reference import REFERENCE_STYLESHEET, reference_page
from gateway.routes import Route, RouteTable, read_routes
from messmail.member_center.v1 import member_center_pb2
from messmail.send_engine.v1 import send_engine_pb2
from servicekit.mutual_tls import MutualTlsSettings
from servicekit.preflight import check_client_secret, check_listen, forbid_core_dumps
from servicekit.telemetry import configure_logging

ServiceName: TypeAlias = Literal["member-center", "send-engine"]
MEMBER_CENTER: Final = "member-center"
SEND_ENGINE: Final = "send-engine"
SERVICES: dict[ServiceName, ServiceDescriptor] = {
    MEMBER_CENTER: member_center_pb2.DESCRIPTOR.services_by_name["MemberCenter"],
    SEND_ENGINE: send_engine_pb2.DESCRIPTOR.services_by_name["SendEngine"],
}
_STOP_GRACE_SECONDS = 15

_log = structlog.get_logger()


class GatewaySettings(MutualTlsSettings):
    """Settings of the gateway, from its environment."""

    # An error about one setting must not show the others.
    model_config = SettingsConfigDict(hide_input_in_errors=True)

    gateway_listen: str = "127.0.0.1:8080"
    # Needed whatever is served: it issues the gateway's own token.
    member_center_address: str = Field(min_length=1)
    gateway_client_id: str
    gateway_client_secret: SecretStr
    public_base_url: str
    gateway_services: Annotated[tuple[ServiceName, ...], NoDecode] = Field(
        default=(MEMBER_CENTER, SEND_ENGINE), min_length=1
    )
    # Stands after the services, by which it is judged.
    send_engine_address: str = Field(default="", validate_default=True)
    # The proxies whose X-Forwarded-For is believed: addresses and networks, separated by commas. None by default.
    gateway_trusted_proxies: str = ""
    # Whether to listen beyond this machine without TLS and without a trusted proxy in front.
    gateway_insecure: bool = False

    @field_validator("gateway_services", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(name.strip() for name in value.split(",")) if isinstance(value, str) else value

    @field_validator("gateway_trusted_proxies")
    @classmethod
    def _name_proxies(cls, value: str) -> str:
        """Refuses what is no address, and all of them: every caller would be believed; a name would never match."""
        for name in filter(None, value.split(",")):
            try:
                network = ip_network(name.strip())
            except ValueError:
                raise ValueError("write IP addresses and networks, separated by commas: 10.0.0.7, fd00::/8") from None
            if network.prefixlen == 0:
                raise ValueError("name the proxies only: a network of all addresses would believe every caller")
        return value

    @field_validator("send_engine_address")
    @classmethod
    def _require_for_send_engine(cls, value: str, info: ValidationInfo) -> str:
        if not value and SEND_ENGINE in info.data.get("gateway_services", ()):
            raise ValueError("needed, for GATEWAY_SERVICES names send-engine")
        return value


def create_app(settings: GatewaySettings) -> Gateway:
    """Puts the application together. Channels are opened when its lifespan begins, in the loop that serves it."""
    addresses = {MEMBER_CENTER: settings.member_center_address, SEND_ENGINE: settings.send_engine_address}

    @asynccontextmanager
    async def opened() -> AsyncIterator[Routes]:
        tls = settings.mutual_tls
        async with open_channel(settings.member_center_address, tls) as member_center:
            token = GatewayToken(
                member_center, settings.gateway_client_id, settings.gateway_client_secret.get_secret_value()
            )
            channels = {name: open_channel(addresses[name], tls) for name in settings.gateway_services}
            backends = [Backend(name, SERVICES[name], channel, token) for name, channel in channels.items()]
            try:
                yield _routes(backends, settings.public_base_url)
            finally:
                for channel in channels.values():
                    await channel.close()

    return Gateway(opened, _documentation(settings.public_base_url))


def serve(settings: GatewaySettings | None = None) -> None:
    """Serves until SIGTERM or SIGINT, then finishes what is under way; without settings, by the environment.

    Raises RuntimeError for an address that is not safe.
    """
    settings = settings or GatewaySettings()
    host, _, port = settings.gateway_listen.rpartition(":")
    host = host.strip("[]")
    check_listen(
        "GATEWAY_LISTEN",
        settings.gateway_listen,
        "name the proxy in front of it in GATEWAY_TRUSTED_PROXIES, or set GATEWAY_INSECURE=true",
        allowed=bool(settings.gateway_trusted_proxies) or settings.gateway_insecure,
    )
    check_client_secret("GATEWAY_CLIENT_SECRET", settings.gateway_client_secret.get_secret_value())
    configure_logging("gateway")
    forbid_core_dumps()
    config = uvicorn.Config(
        create_app(settings),
        host=host,
        port=int(port),
        loop="uvloop",
        http=BoundedProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        # Without a named proxy nobody's X-Forwarded-For is believed, not even one from this machine.
        proxy_headers=bool(settings.gateway_trusted_proxies),
        forwarded_allow_ips=settings.gateway_trusted_proxies or None,
        timeout_graceful_shutdown=_STOP_GRACE_SECONDS,
    )
    _Server(config).run()
    _log.info("stopped")


class _Server(uvicorn.Server):
    """Says when it is ready and where; a signal that stopped it is not raised once more, so that it ends with 0."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        _log.info("ready", address=f"[{host}]:{port}" if ":" in host else f"{host}:{port}")

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield


def _routes(backends: list[Backend], public_base_url: str) -> Routes:
    table: Routes = RouteTable()
    documentation = _documentation(public_base_url)
    pages = Pages()
    routes: list[Route] = []
    for backend in backends:
        found = list(read_routes(backend.service))
        cross_origin = CrossOrigin(backend) if any(route.face.cross_origin for route in found) else None
        for route in found:
            may_cross = cross_origin if route.face.cross_origin else None
            endpoint = Endpoint(route, backend, pages, documentation, may_cross)
            table.add(route.http_method, route.template, endpoint, safe=route.safe)
            routes.append(route)

    async def ready() -> Answer:
        words = await asyncio.gather(*(backend.state() for backend in backends))
        states = {backend.name: word for backend, word in zip(backends, words, strict=True)}
        is_ready = set(words) == {"serving"}
        body = orjson.dumps({"status": "ready" if is_ready else "not ready", "backends": states})
        return Answer(200 if is_ready else 503, body, headers=(("cache-control", "no-store"),))

    document = openapi_document(routes, public_base_url)
    fixed = {
        "/healthz": unchanging(Answer(200, b'{"status":"ok"}', headers=(("cache-control", "no-store"),))),
        "/readyz": ready,
        "/openapi.json": unchanging(Answer(200, orjson.dumps(document), headers=(("cache-control", "no-cache"),))),
        "/docs": unchanging(reference_page(document, reasons())),
        STYLESHEET: unchanging(_stylesheet("pages.css")),
        REFERENCE_STYLESHEET: unchanging(_stylesheet("reference.css")),
    }
    for path, respond in fixed.items():
        table.add("GET", path, Fixed(path, respond, documentation), safe=True)
    return table


def _documentation(public_base_url: str) -> str:
    return f"{public_base_url.rstrip('/')}/docs"


def _stylesheet(name: str) -> Answer:
    headers = (("cache-control", "public, max-age=3600"),)
    return Answer(200, read_asset(name).encode(), "text/css; charset=utf-8", headers)
