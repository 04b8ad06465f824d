"""What a client makes of an error that a server of a later release sends."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from servicekit.errors import DOMAIN, Reason, from_rpc_error


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (grpc.StatusCode.UNAVAILABLE, Reason.ERROR_REASON_UNAVAILABLE),
        (grpc.StatusCode.FAILED_PRECONDITION, Reason.ERROR_REASON_INTERNAL),
    ],
    ids=["away", "anything else"],
)
def test_a_reason_that_is_not_known_yet_keeps_its_message(code: grpc.StatusCode, reason: Any) -> None:
    def refuse(_request: bytes, context: grpc.ServicerContext) -> bytes:
        status = status_pb2.Status(code=code.value[0], message="come again")
        status.details.add().Pack(error_details_pb2.ErrorInfo(reason="OF_A_LATER_RELEASE", domain=DOMAIN))
        context.abort_with_status(rpc_status.to_status(status))

    server = grpc.server(ThreadPoolExecutor(1))
    handler: Any = grpc.unary_unary_rpc_method_handler(refuse)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("later.Service", {"Ask": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel, pytest.raises(grpc.RpcError) as refused:
            ask: Any = channel.unary_unary("/later.Service/Ask")
            ask(b"", timeout=10)
    finally:
        server.stop(0).wait()
    error = from_rpc_error(refused.value)
    assert (error.reason, error.message) == (reason, "come again")
