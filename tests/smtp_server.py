"""An SMTP server that does what a script says: any reply, delay or cut at any phase, over real TCP and TLS.

It is strict where the client must be: bare line ends, lines over 998 bytes, commands sent before the answer to the one
before (unless it offers PIPELINING), and commands grouped behind DATA are violations, which tests assert to be empty.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
import socket
import ssl
import struct
from collections import Counter, deque
from dataclasses import dataclass, field, replace
from types import TracebackType

PIPELINED = ("PIPELINING", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES")
ONE_BY_ONE = ("8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES")
LINE_LIMIT = 1_000

DEFAULTS = {
    "greeting": b"220 sink.example ESMTP\r\n",
    "helo": b"250 sink.example\r\n",
    "mail": b"250 2.1.0 Ok\r\n",
    "rcpt": b"250 2.1.5 Ok\r\n",
    "data": b"354 End data with <CR><LF>.<CR><LF>\r\n",
    "dot": b"250 2.0.0 Ok: queued as 4F3A2\r\n",
    "rset": b"250 2.0.0 Ok\r\n",
    "quit": b"221 2.0.0 Bye\r\n",
    "starttls": b"220 2.0.0 Ready to start TLS\r\n",
    "noop": b"250 2.0.0 Ok\r\n",
}


@dataclass(frozen=True)
class Act:
    """What the server does instead of its default: says `reply`, then goes on or ends the connection in some way."""

    reply: bytes = b""
    then: str = "go"
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"{self.reply[:30].decode('latin-1').strip()} {self.then}".strip()


def say(text: str) -> Act:
    """Answers with these lines, CRLF added."""
    return Act(text.replace("\n", "\r\n").encode() + b"\r\n")


def say_and(then: str, text: str) -> Act:
    """Answers, then ends the connection in the named way."""
    return Act(say(text).reply, then)


RESET, CLOSE, HALF_CLOSE, HANG = Act(then="reset"), Act(then="close"), Act(then="half_close"), Act(then="hang")


@dataclass(frozen=True)
class Received:
    """One mail the server took, its body unstuffed."""

    sender: str
    recipient: str
    data: bytes
    parameters: str


@dataclass
class SmtpServer:
    """The server. `script` maps a phase to the acts of its first visits, counted over all connections."""

    script: dict[str, list[Act]] = field(default_factory=dict)
    extensions: tuple[str, ...] = PIPELINED
    tls: ssl.SSLContext | None = None
    implicit_tls: bool = False
    credentials: tuple[str, str] | None = None
    # Stop reading after so many bytes of a body, and act as scripted for "body".
    body_limit: int | None = None
    # Never send two replies in one segment.
    apart: bool = False

    mails: list[Received] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    connections: int = 0
    secure_commands: Counter[bool] = field(default_factory=Counter)
    # Bodies behind which the next mail's commands had come before this one was answered.
    pipelined_bodies: int = 0
    open_connections: int = 0
    most_connections: int = 0

    async def __aenter__(self) -> SmtpServer:
        self._script = {phase: deque(acts) for phase, acts in self.script.items()}
        self._tasks: set[asyncio.Task[None]] = set()
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", 0, ssl=self.tls if self.implicit_tls else None, limit=1 << 20
        )
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        """The account URL, without credentials."""
        return f"{'smtps' if self.implicit_tls else 'smtp'}://localhost:{self.port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        self.open_connections += 1
        self.most_connections = max(self.most_connections, self.open_connections)
        connection = _Connection(self, reader, writer)
        try:
            await connection.talk()
        except (ConnectionError, asyncio.IncompleteReadError, _Over, ssl.SSLError):
            pass
        finally:
            self._tasks.discard(task)
            self.open_connections -= 1
            writer.close()
            with contextlib.suppress(Exception):
                await writer.wait_closed()

    def next_act(self, phase: str) -> Act | None:
        """Takes the next act of a phase, None for the default."""
        acts = self._script.get(phase)
        return acts.popleft() if acts else None


class _Over(Exception):  # noqa: N818
    """The connection is done."""


class _Connection:
    def __init__(self, server: SmtpServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._server = server
        self._reader = reader
        self._writer = writer
        self._secure = server.implicit_tls
        self._pipelining = "PIPELINING" in server.extensions
        self._sender: str | None = None
        self._recipient: str | None = None
        self._parameters = ""

    async def talk(self) -> None:
        await self._answer("greeting")
        while True:
            line = await self._line()
            self._server.secure_commands[self._secure] += 1
            self._server.commands.append(line)
            verb, _, rest = line.partition(" ")
            match verb.upper():
                case "EHLO":
                    await self._answer("ehlo", self._ehlo())
                case "HELO":
                    await self._answer("helo")
                case "MAIL":
                    await self._mail(rest)
                case "RCPT":
                    await self._rcpt(rest)
                case "DATA":
                    await self._data()
                case "RSET":
                    self._recipient, self._sender = None, None
                    await self._answer("rset")
                case "STARTTLS":
                    await self._start_tls()
                case "AUTH":
                    await self._auth(rest)
                case "QUIT":
                    await self._answer("quit")
                    raise _Over
                case _:
                    await self._send(b"500 5.5.1 Unknown command\r\n")

    def _ehlo(self) -> bytes:
        offered = ["sink.example", *self._server.extensions]
        if self._server.tls is not None and not self._secure:
            offered.append("STARTTLS")
        return "".join(
            f"250{'-' if index < len(offered) - 1 else ' '}{word}\r\n" for index, word in enumerate(offered)
        ).encode()

    async def _mail(self, rest: str) -> None:
        match = re.fullmatch(r"FROM:<(.*)>((?: [A-Z0-9]+(?:=[^ ]+)?)*)", rest)
        if match is None or self._sender is not None:
            self._server.violations.append(f"MAIL {rest}")
        answer = await self._answer("mail")
        if match and answer.startswith(b"2"):
            self._sender, self._parameters = match[1], match[2].strip()

    async def _rcpt(self, rest: str) -> None:
        match = re.fullmatch(r"TO:<(.+)>", rest)
        if match is None:
            self._server.violations.append(f"RCPT {rest}")
        default = DEFAULTS["rcpt"] if self._sender is not None else b"503 5.5.1 MAIL first\r\n"
        answer = await self._answer("rcpt", default)
        if match and answer.startswith(b"2"):
            self._recipient = match[1]

    async def _data(self) -> None:
        if self._buffered():
            self._server.violations.append("something was sent behind DATA")
        default = DEFAULTS["data"] if self._recipient else b"554 5.5.1 No valid recipients\r\n"
        answer = await self._answer("data", default)
        if not answer.startswith(b"354"):
            return
        body = await self._body()
        sender, recipient, self._recipient, self._sender = self._sender or "", self._recipient, None, None
        if recipient is None:
            if body:
                self._server.violations.append("a body was sent for nobody")
            await self._answer("lone_dot", b"554 5.5.1 No valid recipients\r\n")
            return
        act = self._server.next_act("dot") or Act(DEFAULTS["dot"])
        await asyncio.sleep(act.seconds)
        self._server.pipelined_bodies += self._buffered()
        if act.reply.startswith(b"2"):
            self._server.mails.append(Received(sender, recipient, body, self._parameters))
        await self._answer("dot", act=replace(act, seconds=0))

    async def _body(self) -> bytes:
        """Reads a body as a strict server does; what a smuggler would send is a violation."""
        if self._server.body_limit is not None:
            await self._reader.readexactly(self._server.body_limit)
            await self._answer("body", b"")
        lines: list[bytes] = []
        while (line := await self._reader.readuntil(b"\n")) != b".\r\n":
            if not line.endswith(b"\r\n") or b"\r" in line[:-2] or b"\x00" in line:
                self._server.violations.append("a bare line end or NUL in a body")
            if line.startswith(b"."):
                line = line[1:]
                if line == b"\r\n":
                    self._server.violations.append("a dot alone")
            if len(line) > LINE_LIMIT:
                self._server.violations.append("a line over 998 bytes")
            lines.append(line)
        return b"".join(lines)

    async def _start_tls(self) -> None:
        answer = await self._answer("starttls")
        if answer.startswith(b"220 "):
            assert self._server.tls is not None
            await self._writer.start_tls(self._server.tls)
            self._secure = True

    async def _auth(self, rest: str) -> None:
        mechanism, _, initial = rest.partition(" ")
        if mechanism == "PLAIN":
            _, user, password = base64.b64decode(initial).decode().split("\x00")
        elif mechanism == "XOAUTH2":
            user, password, *rest_of_it = base64.b64decode(initial).decode().split("\x01")
            user, password = user.removeprefix("user="), password.removeprefix("auth=Bearer ")
            if rest_of_it != ["", ""]:
                self._server.violations.append("an XOAUTH2 response that is none")
            if (user, password) != self._server.credentials:
                await self._send(b"334 eyJzdGF0dXMiOiI0MDEifQ==\r\n")
                if await self._line():
                    self._server.violations.append("an answer to an XOAUTH2 error that is not empty")
        else:
            await self._send(b"334 VXNlcm5hbWU6\r\n")
            user = base64.b64decode(await self._line()).decode()
            await self._send(b"334 UGFzc3dvcmQ6\r\n")
            password = base64.b64decode(await self._line()).decode()
        known = (user, password) == self._server.credentials
        await self._answer(
            "auth", b"235 2.7.0 Welcome\r\n" if known else b"535 5.7.8 Wrong, " + user.encode() + b"\r\n"
        )

    async def _line(self) -> str:
        line = await self._reader.readuntil(b"\n")
        if not line.endswith(b"\r\n") or b"\r" in line[:-2]:
            self._server.violations.append("a bare line end in a command")
        if not self._pipelining and self._buffered():
            self._server.violations.append("a command was sent before the answer to the one before")
        return line.decode().rstrip("\r\n")

    def _buffered(self) -> bool:
        return bool(self._reader._buffer)  # type: ignore[attr-defined]

    async def _answer(self, phase: str, default: bytes | None = None, act: Act | None = None) -> bytes:
        act = act or self._server.next_act(phase) or Act(DEFAULTS[phase] if default is None else default)
        await asyncio.sleep(act.seconds)
        if act.reply:
            await self._send(act.reply)
        match act.then:
            case "reset":
                linger = struct.pack("ii", 1, 0)
                self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self._writer.transport.abort()
                raise _Over
            case "close":
                raise _Over
            case "half_close":
                self._writer.write_eof()
                await asyncio.sleep(3600)
            case "hang":
                await asyncio.sleep(3600)
        return act.reply

    async def _send(self, reply: bytes) -> None:
        self._writer.write(reply)
        await self._writer.drain()
        if self._server.apart:
            await asyncio.sleep(0.002)
