"""The other end of SMTP, and who we are held against: Postfix's smtp-sink and smtp-source, a loop of aiosmtplib."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email import message_from_bytes
from email.policy import default
from pathlib import Path

import aiosmtplib

_PROGRAMS = ("smtp-sink", "smtp-source")
_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"))
# Root has to name an account that the sink runs as.
_UNPRIVILEGED = ("-u", "nobody") if os.geteuid() == 0 else ()


def missing() -> list[str]:
    """Names the programs of Postfix that are not on this machine."""
    return [name for name in _PROGRAMS if shutil.which(name, path=_PATH) is None]


def free_port() -> int:
    """Returns a port of the loopback address that nobody has now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@dataclass(frozen=True)
class Sink:
    """A running smtp-sink: its process, and what it counted or kept."""

    port: int
    pid: int
    output: Path
    kept: Path

    def count(self) -> int:
        """Returns how many mails it has taken."""
        counted = re.findall(rb"mesg=(\d+)", self.output.read_bytes()[-200:])
        return int(counted[-1]) if counted else 0

    def mails(self) -> Iterator[tuple[str, bytes]]:
        """Yields the recipient and the content of each mail that it kept."""
        for mail in self.kept.read_bytes().split(b"X-Client-Addr: ")[1:]:
            recipient = re.search(rb"^X-Rcpt-Args: <(.*)>", mail, re.MULTILINE)
            assert recipient is not None
            # The trace that the sink puts before the mail ends with the one folded header it writes.
            yield recipient[1].decode(), re.split(rb"\n\t[^\n]*\n\t[^\n]*\n", mail, maxsplit=1)[1]


@contextmanager
def sink(folder: Path, port: int, *, keeps: bool = False) -> Iterator[Sink]:
    """Runs a sink, which counts mails, or keeps them all in a file, which is slow."""
    folder.mkdir(mode=0o777, exist_ok=True)
    folder.chmod(0o777)
    output, kept = folder / "counters", folder / "mails"
    kept.unlink(missing_ok=True)
    what = ("-D", str(kept)) if keeps else ("-c",)
    command = (_program("smtp-sink"), *_UNPRIVILEGED, *what, f"127.0.0.1:{port}", "1024")
    with output.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stdin=subprocess.DEVNULL)
    try:
        _wait_for(port)
        yield Sink(port, process.pid, output, kept)
    finally:
        process.terminate()
        process.wait(10)


def smtp_source(to: Sink, mails: int, body_bytes: int, sessions: int) -> float:
    """Sends so many mails with Postfix's own generator, in C; returns the mails a second that the sink counted."""
    started = time.perf_counter()
    subprocess.run(
        [
            *(_program("smtp-source"), "-d", "-s", str(sessions), "-m", str(mails), "-l", str(body_bytes)),
            *("-f", "news@bench.example", "-t", "member@example.com", f"127.0.0.1:{to.port}"),
        ],
        check=True,
    )
    return _counted(to, mails, started)


def aiosmtplib_loop(to: Sink, mails: int, content: bytes, sessions: int) -> float:
    """Sends so many mails with aiosmtplib; returns the mails a second that the sink counted."""

    async def session(mails: int) -> None:
        async with aiosmtplib.SMTP(hostname="127.0.0.1", port=to.port) as client:
            for _ in range(mails):
                await client.sendmail("news@bench.example", ["member@example.com"], content)

    async def run() -> None:
        await asyncio.gather(*(session(mails // sessions) for _ in range(sessions)))

    started = time.perf_counter()
    asyncio.run(run())
    return _counted(to, mails // sessions * sessions, started)


def _counted(to: Sink, mails: int, started: float) -> float:
    seconds = time.perf_counter() - started
    if to.count() != mails:
        raise RuntimeError(f"the sink counted {to.count()} of {mails} mails")
    return mails / seconds


def check_mail(content: bytes) -> None:
    """Raises ValueError unless this is a multipart mail with text and HTML, read by Python's own parser."""
    message = message_from_bytes(content, policy=default)
    kinds = [part.get_content_type() for part in message.iter_parts()]
    if kinds != ["text/plain", "text/html"]:
        raise ValueError(f"the mail of the measurement has the parts {kinds}")


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


def _program(name: str) -> str:
    found = shutil.which(name, path=_PATH)
    assert found is not None, "missing() was asked"
    return found
