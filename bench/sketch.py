"""A subscribe without what Messmail adds: the least that the same parts can do, to tell the machine from the work.

HTTP by uvicorn, a message of the contract over gRPC to another process, one transaction of two rows in PostgreSQL, and
back. There is no row level security, no limit, no validation, no consent log, no link, no mail, no log, no access
check, and nobody already known is looked for. `python -m bench.sketch service URL` and `… gateway ADDRESS` run its two
processes; each prints where it listens.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import orjson
import psycopg
import uvicorn
from google.protobuf.json_format import ParseDict

from messmail.member_center.v1 import member_center_pb2

_THREADS = 8
_METHOD = "/sketch/Subscribe"
_TABLES = """
CREATE TABLE IF NOT EXISTS sketch_subscriptions (
    id uuid PRIMARY KEY, list_id uuid NOT NULL, email text NOT NULL, preferences jsonb, UNIQUE (list_id, email));
CREATE TABLE IF NOT EXISTS sketch_mails (id uuid PRIMARY KEY, subscription_id uuid NOT NULL);
"""


class _Subscribe(grpc.GenericRpcHandler):
    def __init__(self, url: str) -> None:
        self._url = url
        self._own = threading.local()
        self._handler = grpc.unary_unary_rpc_method_handler(
            self._answer,
            member_center_pb2.SubscribeRequest.FromString,
            member_center_pb2.SubscribeResponse.SerializeToString,
        )

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Returns the one handler for every method."""
        return self._handler

    def _answer(
        self, request: member_center_pb2.SubscribeRequest, _: grpc.ServicerContext
    ) -> member_center_pb2.SubscribeResponse:
        if not hasattr(self._own, "connection"):
            self._own.connection = psycopg.connect(self._url)
        connection, subscription_id = self._own.connection, uuid.uuid4()
        connection.execute(
            "INSERT INTO sketch_subscriptions VALUES (%s, %s, %s, '{}') ON CONFLICT DO NOTHING",
            (subscription_id, request.list_id, request.email),
        )
        connection.execute("INSERT INTO sketch_mails VALUES (%s, %s)", (uuid.uuid4(), subscription_id))
        connection.commit()
        return member_center_pb2.SubscribeResponse(confirm_token=subscription_id.hex)


def serve(url: str) -> None:
    """Serves the gRPC half, and never returns."""
    with psycopg.connect(url) as connection:
        connection.execute(_TABLES.encode())
    server = grpc.server(ThreadPoolExecutor(_THREADS))
    server.add_generic_rpc_handlers((_Subscribe(url),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    server.wait_for_termination()


class _Gateway:
    def __init__(self, address: str) -> None:
        self._address = address
        self._subscribe: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self._subscribe is None:
            self._subscribe = grpc.aio.insecure_channel(self._address).unary_unary(
                _METHOD,
                request_serializer=member_center_pb2.SubscribeRequest.SerializeToString,
                response_deserializer=member_center_pb2.SubscribeResponse.FromString,
            )
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        request = ParseDict(orjson.loads(body), member_center_pb2.SubscribeRequest())
        answer = await self._subscribe(request, timeout=10)
        told = orjson.dumps({"status": "pending", "confirm_token": answer.confirm_token})
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(told)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": told})


def serve_gateway(address: str) -> None:
    """Serves the HTTP half, and never returns."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=128)
    print(listening.getsockname()[1], flush=True)
    config = uvicorn.Config(
        _Gateway(address), loop="uvloop", http="httptools", lifespan="off", log_config=None, access_log=False
    )
    uvicorn.Server(config).run(sockets=[listening])


@contextmanager
def running(url: str) -> Iterator[int]:
    """Runs both halves on a database; yields the port of the HTTP half."""
    service = _start("service", url)
    try:
        gateway = _start("gateway", f"127.0.0.1:{_port(service)}")
        try:
            yield _port(gateway)
        finally:
            gateway.kill()
            gateway.wait()
    finally:
        service.kill()
        service.wait()


def _start(half: str, argument: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "bench.sketch", half, argument], stdout=subprocess.PIPE, text=True)


def _port(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    return int(process.stdout.readline())


if __name__ == "__main__":
    {"service": serve, "gateway": serve_gateway}[sys.argv[1]](sys.argv[2])
