"""Runs the mailbox as a process of its own: `python -m local_stack.mailbox --smtp HOST:PORT --http HOST:PORT`.

It logs the event "ready" with both bound addresses, and ends on SIGTERM or Ctrl-C.
"""

import argparse
import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import structlog
import uvicorn
import uvloop

from local_stack.errors import StackError
from local_stack.mailbox.smtp import SmtpSession
from local_stack.mailbox.store import MailStore
from local_stack.mailbox.web import MailboxApp
from local_stack.ports import Address, bind, bound_address
from servicekit.telemetry import configure_logging


async def serve(store: MailStore, smtp: socket.socket, http: socket.socket, delay: float) -> None:
    """Serves both sides until a signal asks to stop."""
    log = structlog.get_logger()
    loop = asyncio.get_running_loop()
    smtp_server = await loop.create_server(lambda: SmtpSession(store, delay), sock=smtp, backlog=1024)
    # From here on a request waits for an answer, so "ready" is true before the web server has quite started.
    http.listen(1024)
    config = uvicorn.Config(MailboxApp(store), log_config=None, access_log=False, lifespan="off", server_header=False)
    web_server = _WebServer(config)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, web_server.ask_to_stop)
    log.info("ready", smtp=str(bound_address(smtp)), http=str(bound_address(http)))
    await web_server.serve(sockets=[http])
    smtp_server.close()
    log.info("stopped", accepted=store.accepted)


def main(arguments: list[str] | None = None) -> int:
    """Reads the options and serves; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m local_stack.mailbox", description="The development mailbox.")
    parser.add_argument("--smtp", default="127.0.0.1:1025", metavar="HOST:PORT", help="where mail comes in")
    parser.add_argument("--http", default="127.0.0.1:8025", metavar="HOST:PORT", help="where mail can be read")
    parser.add_argument("--keep", type=int, default=20_000, metavar="N", help="how many mails are kept")
    parser.add_argument("--keep-mb", type=int, default=512, metavar="MB", help="how much memory kept mails may take")
    parser.add_argument("--delay-ms", type=float, default=0, metavar="MS", help="wait before a final dot is answered")
    parser.add_argument("--record", type=Path, metavar="FILE", help="append a JSON line for each accepted recipient")
    options = parser.parse_args(arguments)
    configure_logging("mailbox")
    try:
        smtp, http = bind(Address.parse(options.smtp)), bind(Address.parse(options.http))
    except StackError as error:
        parser.error(str(error))
    store = MailStore(options.keep, options.keep_mb * 1024 * 1024, options.record)
    with smtp, http:
        uvloop.run(serve(store, smtp, http, options.delay_ms / 1000))
    return 0


class _WebServer(uvicorn.Server):
    """A web server that leaves signals to the loop, which has two servers to stop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def ask_to_stop(self) -> None:
        self.should_exit = True


if __name__ == "__main__":
    sys.exit(main())
