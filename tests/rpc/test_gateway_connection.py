"""What is left of a connection to the gateway once it has ended: nothing, without a search for rings of objects."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from gateway.connection import BoundedProtocol


async def _answer_at_length(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200})
    for more in (True, True, False):
        await send({"type": "http.response.body", "body": bytes(8 * 1024 * 1024), "more_body": more})


async def _is_gone() -> bool:
    config = uvicorn.Config(_answer_at_length, http=BoundedProtocol, lifespan="off", log_config=None)
    config.load()
    made: list[weakref.ref[BoundedProtocol]] = []

    def make() -> BoundedProtocol:
        protocol = BoundedProtocol(config, ServerState(), {})
        made.append(weakref.ref(protocol))
        return protocol

    server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
    _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 5)
    await writer.drain()
    while not (made and (protocol := made[0]()) and protocol.pipeline):
        await asyncio.sleep(0.01)
    # As when its client does not read: nothing more is read from it either.
    protocol.transport.abort()
    del protocol
    writer.close()
    async with asyncio.timeout(5):
        while made[0]() is not None:
            await asyncio.sleep(0.01)
    server.close()
    return True


def test_nothing_is_left_of_a_connection_that_had_requests_waiting() -> None:
    gc.collect()
    gc.disable()
    try:
        assert asyncio.run(_is_gone())
    finally:
        gc.enable()
