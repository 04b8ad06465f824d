"""Builds and runs a gRPC server that fails closed.

A server does not start when one of its RPCs has no access option or when its address is taken. It says NOT_SERVING
before it stops, so that callers go elsewhere while what is under way finishes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import grpc
import structlog
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from servicekit.arrival import Arrivals
from servicekit.audit import AuditLog
from servicekit.mutual_tls import MutualTls
from servicekit.rpc import Guard
from servicekit.stop_signals import StopSignals
from servicekit.tokens import TokenVerifier

STOP_GRACE_SECONDS = 10.0
MAX_MESSAGE_BYTES = 4 * 1024 * 1024
# What waits for one of the threads, too. Beyond it a call would not be answered before its caller gives up.
MAX_CONCURRENT_RPCS = 2000

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Service:
    """A service to serve: its full name in the contract, and what adds its servicer to a server."""

    full_name: str
    add_to: Callable[[grpc.Server], None]


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that answers, and the address it is bound to."""

    server: grpc.Server
    address: str
    health: health.HealthServicer
    closers: Sequence[Callable[[], None]] = ()

    def stop(self, grace: float = STOP_GRACE_SECONDS) -> None:
        """Stops taking calls, waits for those under way for at most grace seconds, and closes what they used."""
        self.health.enter_graceful_shutdown()
        self.server.stop(grace).wait()
        for close in self.closers:
            close()


def start_server(
    listen: str,
    services: Sequence[Service],
    verifier: TokenVerifier,
    *,
    audit: AuditLog | None = None,
    tls: MutualTls | None = None,
    threads: int = 24,
    reflection: bool = False,
    closers: Sequence[Callable[[], None]] = (),
) -> RunningServer:
    """Starts a server on HOST:PORT (port 0: a free one); closers are called once it has stopped. What somebody was not
    allowed to call goes into the audit log.

    Raises RuntimeError when an RPC lacks its access option or the address cannot be bound.
    """
    methods = _methods([service_descriptor(service.full_name) for service in services])
    arrivals = Arrivals()
    guard = Guard(methods, verifier, audit, tls.allowed_names if tls else None, arrivals=arrivals)
    server = grpc.server(
        ThreadPoolExecutor(threads, thread_name_prefix="rpc"),
        interceptors=[guard],
        maximum_concurrent_rpcs=MAX_CONCURRENT_RPCS,
        options=[
            # Two servers on one port would share its calls at random; a taken port is an error.
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            # Beyond these gRPC answers a burst with CANCELLED: 4,000 calls at once lost 1,430 with the defaults.
            ("grpc.server.max_pending_requests", 10_000),
            ("grpc.server.max_pending_requests_hard_limit", 10_000),
        ],
    )
    healthy = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    for service in services:
        service.add_to(server)
        healthy.set(service.full_name, health_pb2.HealthCheckResponse.SERVING)
    healthy.set("", health_pb2.HealthCheckResponse.SERVING)
    if reflection:
        from grpc_reflection.v1alpha import reflection as grpc_reflection

        names = [service.full_name for service in services]
        grpc_reflection.enable_server_reflection([*names, grpc_reflection.SERVICE_NAME], server)
    host = listen.rpartition(":")[0]
    port = server.add_secure_port(listen, tls.of_server()) if tls else server.add_insecure_port(listen)
    server.start()
    return RunningServer(server, f"{host}:{port}", healthy, (arrivals.close, *closers))


def serve_until_stopped(name: str, running: RunningServer) -> None:
    """Says that the server is ready, and returns after SIGTERM or SIGINT once it has stopped."""
    stop = StopSignals()
    _log.info("ready", process=name, address=running.address)
    stop.wait()
    _log.info("stopping", process=name)
    running.stop()
    _log.info("stopped", process=name)


def service_descriptor(full_name: str) -> ServiceDescriptor:
    """Finds a service of the contract; its generated module must have been imported."""
    return descriptor_pool.Default().FindServiceByName(full_name)


def _methods(services: Sequence[ServiceDescriptor]) -> dict[str, MethodDescriptor]:
    return {f"/{service.full_name}/{method.name}": method for service in services for method in service.methods}
