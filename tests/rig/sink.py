"""A strict recording SMTP sink, a process of its own: it writes down what it takes, fsyncs, and only then answers 250.

So whatever a sender believes to be accepted is in the record, however anything dies. Mails that came while the disk was
busy share its next fsync. It refuses bare CR or LF, lines over 998 bytes and NULs. What it answers, and how late, is
scripted by rules, which can be replaced while it runs; `recording_sink` in tests/recount.py is how tests start it.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import re
import signal
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import uvloop

LINE_LIMIT = 998
_REPLIES = {
    "greeting": "220 sink.example ESMTP",
    "ehlo": "250-sink.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-ENHANCEDSTATUSCODES\r\n250 SMTPUTF8",
    "mail": "250 2.1.0 Ok",
    "rcpt": "250 2.1.5 Ok",
    "data": "354 Go ahead",
    "dot": "250 2.0.0 Kept",
    "rset": "250 2.0.0 Ok",
    "noop": "250 2.0.0 Ok",
    "quit": "221 2.0.0 Bye",
}
_WITHOUT_RECIPIENT = "554 5.5.1 No valid recipients"


@dataclass(frozen=True)
class Rule:
    """What to do instead of the default at a phase: "greeting", "ehlo", "mail", "rcpt", "data", "body" (in place of
    taking the mail), "dot" (the mail is on disk by then, unless `reply` refuses it), "quit". The first match counts.
    """

    phase: str
    recipient: str = ""
    """A regular expression found in the address; of everybody when empty."""
    attempts: int = 0
    """Only the first so many attempts for a recipient; 0 is all of them."""
    seconds: float = 0.0
    """How long to wait before the answer."""
    reply: str = ""
    then: str = "go"
    """Or "reset", "close" or "hang" after the reply; with an empty reply, instead of it."""

    def applies(self, phase: str, recipient: str, attempt: int) -> bool:
        """Tells whether this rule is meant."""
        return (
            phase == self.phase
            and (not self.attempts or attempt <= self.attempts)
            and (not self.recipient or re.search(self.recipient, recipient) is not None)
        )


class _Sink:
    """The rules, the record, and the mails that wait for the disk."""

    def __init__(self, record: Path) -> None:
        self.rules: list[Rule] = []
        self.attempts: Counter[str] = Counter()
        self._seen: Counter[str] = Counter()
        self._file = record.open("ab", buffering=0)
        self._waiting: list[tuple[bytes, Callable[[], None]]] = []
        self._loop = asyncio.get_running_loop()

    def rule(self, phase: str, recipient: str) -> Rule | None:
        if not self.rules:
            return None
        attempt = self.attempts[recipient]
        return next((rule for rule in self.rules if rule.applies(phase, recipient, attempt)), None)

    def keep(self, entry: dict[str, Any], kept: Callable[[], None]) -> None:
        """Writes an entry and calls back when it is on disk."""
        self._seen[entry["delivery"]] += 1
        line = json.dumps(entry | {"attempt": self._seen[entry["delivery"]]}).encode() + b"\n"
        if not self._waiting:
            self._loop.call_soon(self._flush)
        self._waiting.append((line, kept))

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        self._file.write(b"".join(line for line, _ in waiting))
        os.fdatasync(self._file.fileno())
        for _, kept in waiting:
            kept()


class _Connection(asyncio.Protocol):
    """One client. Commands are answered in their order; while an answer waits, nothing further is read."""

    def __init__(self, sink: _Sink) -> None:
        self._sink = sink
        self._buffer = b""
        self._busy = False
        self._in_body = False
        self._sender: str | None = None
        self._recipient: str | None = None
        self._over = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._answer("greeting")

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        self._over = True

    def _go_on(self) -> None:
        while not self._busy and not self._over:
            if self._in_body:
                # The empty body is a dot alone; any other ends behind a line.
                end = 0 if self._buffer.startswith(b".\r\n") else self._buffer.find(b"\r\n.\r\n") + 2
                if end == 1:
                    return
                body, self._buffer = self._buffer[:end], self._buffer[end + 3 :]
                self._in_body = False
                # RFC 5321 4.5.2: each line that begins with a dot has one too many.
                self._take((b"\r\n" + body).replace(b"\r\n.", b"\r\n")[2:])
                continue
            line, found, rest = self._buffer.partition(b"\r\n")
            if not found:
                return
            self._buffer = rest
            self._command(line)

    def _command(self, line: bytes) -> None:
        if b"\n" in line or b"\r" in line or len(line) > LINE_LIMIT:
            self._answer("", "500 5.5.2 Bare line end or a line too long", "close")
            return
        verb, _, rest = line.decode(errors="replace").partition(" ")
        address = rest.partition("<")[2].rpartition(">")[0]
        match verb.upper():
            case "EHLO" | "HELO":
                self._answer("ehlo")
            case "MAIL" if rest.upper().startswith("FROM:<") and self._sender is None:
                if self._answer("mail").startswith("2"):
                    self._sender = address
            case "RCPT" if rest.upper().startswith("TO:<") and self._sender is not None:
                self._sink.attempts[address] += 1
                if self._answer("rcpt", of=address).startswith("2"):
                    self._recipient = address
            case "DATA":
                if self._recipient is None:
                    self._answer("", _WITHOUT_RECIPIENT)
                elif self._answer("data").startswith("354"):
                    self._in_body = True
            case "RSET":
                self._sender = self._recipient = None
                self._answer("rset")
            case "NOOP":
                self._answer("noop")
            case "QUIT":
                self._answer("quit", then="close")
            case _:
                self._answer("", "503 5.5.1 Unknown or out of order")

    def _take(self, body: bytes) -> None:
        recipient, self._sender, self._recipient = self._recipient or "", None, None
        if not _is_strict(body):
            self._answer("", "550 5.6.0 Bare line end, NUL or a line too long", "close")
            return
        if self._sink.rule("body", recipient):
            self._answer("body", of=recipient)
            return
        rule = self._sink.rule("dot", recipient)
        if rule is not None and rule.reply and not rule.reply.startswith("2"):
            self._answer("dot", of=recipient)
            return
        head = body.partition(b"\r\n\r\n")[0]
        entry = {
            "delivery": _header(head, b"X-Messmail-Delivery"),
            "recipient": recipient,
            "date": _header(head, b"Date"),
            "sha256": hashlib.sha256(body).hexdigest(),
            "at": time.time(),
        }
        self._busy = True

        def kept() -> None:
            self._busy = False
            self._answer("dot", of=recipient)
            self._go_on()

        self._sink.keep(entry, kept)

    def _answer(self, phase: str, reply: str = "", then: str = "go", of: str | None = None) -> str:
        """Answers as the rules say, and returns the reply, though it may leave later."""
        rule = self._sink.rule(phase, of or self._recipient or "") if phase else None
        reply = reply or _REPLIES.get(phase, "")
        if rule is None:
            self._speak(reply, then)
            return reply
        if rule.reply or rule.then != "go":
            reply, then = rule.reply, rule.then
        if not rule.seconds:
            self._speak(reply, then)
            return reply
        self._busy = True

        def speak() -> None:
            self._busy = False
            self._speak(reply, then)
            self._go_on()

        asyncio.get_running_loop().call_later(rule.seconds, speak)
        return reply

    def _speak(self, reply: str, then: str) -> None:
        if self._over:
            return
        if reply:
            self._transport.write(reply.encode() + b"\r\n")
        match then:
            case "close":
                self._over = True
                self._transport.close()
            case "reset":
                self._over = True
                handle = self._transport.get_extra_info("socket")
                handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self._transport.abort()
            case "hang":
                self._busy = True


def _is_strict(body: bytes) -> bool:
    ends = body.count(b"\r\n")
    if body.count(b"\n") != ends or body.count(b"\r") != ends or b"\0" in body:
        return False
    return max(map(len, body.split(b"\r\n"))) <= LINE_LIMIT


def _header(head: bytes, name: bytes) -> str:
    found = re.search(rb"^" + name + rb":[ \t]*(.*?)\r?$", head, re.IGNORECASE | re.MULTILINE)
    return found[1].decode(errors="replace") if found else ""


async def _serve(record: Path, listen: str) -> None:
    sink = _Sink(record)
    loop = asyncio.get_running_loop()
    host, _, port = listen.rpartition(":")
    server = await loop.create_server(lambda: _Connection(sink), host, int(port), backlog=256)
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)

    def read_rules() -> None:
        """Takes each line of standard input as the new rules, and says when they hold."""
        for line in sys.stdin:
            rules = [Rule(**one) for one in json.loads(line)]

            def replace(rules: list[Rule] = rules) -> None:
                sink.rules = rules
                print("ok", flush=True)

            loop.call_soon_threadsafe(replace)

    threading.Thread(target=read_rules, daemon=True).start()
    print("{}:{}".format(*server.sockets[0].getsockname()[:2]), flush=True)
    await stop.wait()


def main() -> None:
    """Runs the sink until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", type=Path, required=True, metavar="FILE")
    parser.add_argument("--listen", default="127.0.0.1:0", metavar="HOST:PORT")
    options = parser.parse_args()
    uvloop.run(_serve(options.record, options.listen))


def as_line(rules: tuple[Rule, ...]) -> bytes:
    """Returns rules as the sink reads them."""
    return json.dumps([asdict(rule) for rule in rules]).encode() + b"\n"


if __name__ == "__main__":
    main()
