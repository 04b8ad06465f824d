"""Opening and ending an SMTP session: connect, greeting, EHLO, STARTTLS, AUTH; QUIT.

Here one command waits for one reply; what must be fast, the mails, is `transactions`. Whatever goes wrong here is no
recipient's fault, so it can only ever defer a mail.
"""

import asyncio
import base64
import contextlib
import functools
import ipaddress
import math
import ssl
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from send_engine.esp.access_tokens import read_access_token
from send_engine.esp.port import Category, Outcome, Verdict
from send_engine.esp.replies import Phase, Reply, classify
from send_engine.esp.timeouts import Timeouts
from send_engine.esp.url import SmtpAccount, StartTls
from send_engine.esp.wire import Wire
from servicekit.failpoints import reached


class SessionRefused(Exception):  # noqa: N818  (it is an answer, not a fault of ours)
    """No session could be had. `outcome` is what that means for the mails that waited for it."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.reply)
        self.outcome = outcome


@dataclass(frozen=True, slots=True)
class Extensions:
    """What the server offered in its answer to EHLO. `size` is the largest mail, 0 when it names none."""

    pipelining: bool = False
    eight_bit: bool = False
    smtputf8: bool = False
    sizes: bool = False
    size: int = 0
    starttls: bool = False
    auth: frozenset[bytes] = frozenset()


@dataclass(slots=True)
class Session:
    """An open session. `begun` counts its mails; `dirty` means a transaction is open that RSET must end.

    `ends_at` is when, by the loop's clock, it is to carry no further mail.
    """

    wire: Wire
    extensions: Extensions
    ends_at: float = math.inf
    begun: int = 0
    dirty: bool = False
    expiry: asyncio.TimerHandle | None = None


class _Dialogue:
    """One command, one reply."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._replies: deque[Reply] = deque()
        self._waiter: asyncio.Future[None] | None = None
        wire.listener = self

    async def reply(self, phase: Phase, timeout: float) -> Reply:
        if not self._replies and self._wire.lost is None:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await asyncio.wait_for(self._waiter, timeout)
            except TimeoutError:
                raise refusal(f"no answer to {phase} in time") from None
        if self._replies:
            return self._replies.popleft()
        raise refusal(f"{self._wire.lost}, before the answer to {phase}")

    async def ask(self, line: bytes, phase: Phase, timeout: float) -> Reply:
        if not self.is_quiet:
            # One reply too many, and every later one would be taken for that to the command after.
            raise refusal(f"the server spoke unasked, before {phase}")
        self._wire.transport.write(line + b"\r\n")
        return await self.reply(phase, timeout)

    @property
    def is_quiet(self) -> bool:
        return not self._replies and self._wire.is_quiet

    def on_replies(self, replies: Sequence[Reply]) -> None:
        self._replies.extend(replies)
        self._wake()

    def on_drained(self) -> None:
        pass

    def on_lost(self, reason: str) -> None:
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


@dataclass(frozen=True, slots=True)
class Introduction:
    """How to present ourselves to whom. `tls` replaces the system's trust store.

    Without a `hello_name` it is our address; `token_folder` is where access tokens lie.
    """

    account: SmtpAccount
    hello_name: str | None = None
    tls: ssl.SSLContext | None = None
    token_folder: Path | None = None


async def open_session(introduction: Introduction, timeouts: Timeouts) -> Session:
    """Returns a session ready for MAIL. Raises SessionRefused.

    Credentials are never sent in clear except over loopback.
    """
    wire = Wire()
    # Listening before the connection is up: the greeting may come with it.
    dialogue = _Dialogue(wire)
    await _connect(wire, introduction.account, timeouts, introduction.tls)
    try:
        extensions = await _prepare(wire, dialogue, introduction, timeouts)
    except BaseException:
        wire.drop("not opened")
        raise
    if wire.lost is None and not dialogue.is_quiet:
        wire.drop("the server spoke unasked")
    if wire.lost is not None:
        raise refusal(wire.lost)
    wire.listener = None
    reached("connected")
    return Session(wire, extensions)


@functools.cache
def _system_trust() -> ssl.SSLContext:
    """Returns the system's trust store; reading it takes tens of milliseconds, so it is read once."""
    return ssl.create_default_context()


@functools.cache
def _no_trust() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def _connect(wire: Wire, account: SmtpAccount, timeouts: Timeouts, tls: ssl.SSLContext | None) -> None:
    loop = asyncio.get_running_loop()
    context = (tls or _system_trust()) if account.implicit_tls else None
    try:
        async with asyncio.timeout(timeouts.connect):
            await loop.create_connection(
                lambda: wire,
                account.host,
                account.port,
                ssl=context,
                server_hostname=account.host if context else None,
            )
    except TimeoutError:
        raise refusal("no connection in time") from None
    except ssl.SSLError:
        raise refusal("no TLS: the handshake failed") from None
    except OSError:
        raise refusal("no connection") from None


async def _prepare(wire: Wire, dialogue: _Dialogue, introduction: Introduction, timeouts: Timeouts) -> Extensions:
    account = introduction.account
    code, text = await dialogue.reply(Phase.greeting, timeouts.greeting)
    if code != 220:
        raise refused_by(code, text, Phase.greeting)
    local = _is_loopback(wire)
    name = (introduction.hello_name or _address_literal(wire)).encode()
    extensions = await _hello(dialogue, name, timeouts)
    secure = account.implicit_tls
    if not secure and (account.starttls is StartTls.require or (extensions.starttls and not local)):
        await _start_tls(wire, dialogue, account, extensions, timeouts, introduction.tls)
        extensions = await _hello(dialogue, name, timeouts)
        secure = True
    if account.user is not None:
        if not secure and not local:
            raise refusal("credentials are not sent in clear, and the server offers no TLS", Category.policy)
        await _authenticate(dialogue, introduction, extensions, timeouts)
    return extensions


async def _hello(dialogue: _Dialogue, name: bytes, timeouts: Timeouts) -> Extensions:
    code, text = await dialogue.ask(b"EHLO " + name, Phase.hello, timeouts.mail)
    if 200 <= code < 300:
        return _extensions(text)
    if code in {500, 501, 502, 504}:
        code, text = await dialogue.ask(b"HELO " + name, Phase.hello, timeouts.mail)
        if 200 <= code < 300:
            return Extensions()
    raise refused_by(code, text, Phase.hello)


def _extensions(text: bytes) -> Extensions:
    offered: dict[bytes, list[bytes]] = {}
    for line in text.upper().split(b"\n")[1:]:
        # Old servers write AUTH=LOGIN.
        keyword, *parameters = line.replace(b"AUTH=", b"AUTH ").split() or [b""]
        offered.setdefault(keyword, []).extend(parameters)
    size = offered.get(b"SIZE", [])
    return Extensions(
        pipelining=b"PIPELINING" in offered,
        eight_bit=b"8BITMIME" in offered,
        smtputf8=b"SMTPUTF8" in offered,
        sizes=b"SIZE" in offered,
        size=int(size[0]) if size and size[0].isdigit() and len(size[0]) <= 20 else 0,
        starttls=b"STARTTLS" in offered,
        auth=frozenset(offered.get(b"AUTH", [])),
    )


async def _start_tls(
    wire: Wire,
    dialogue: _Dialogue,
    account: SmtpAccount,
    extensions: Extensions,
    timeouts: Timeouts,
    tls: ssl.SSLContext | None,
) -> None:
    if not extensions.starttls:
        raise refusal("TLS is required, and the server does not offer it", Category.policy)
    code, text = await dialogue.ask(b"STARTTLS", Phase.starttls, timeouts.mail)
    if code != 220:
        raise refused_by(code, text, Phase.starttls)
    if not dialogue.is_quiet:
        # Replies sent before the handshake would be taken for protected ones (CVE-2011-0411).
        raise refusal("the server spoke before TLS was up", Category.policy)
    # Where nobody asked for TLS and no secret is at stake, an unverified peer is better than plain text.
    opportunistic = account.starttls is StartTls.if_offered and account.user is None
    context = tls or (_no_trust() if opportunistic else _system_trust())
    loop = asyncio.get_running_loop()
    try:
        transport = await loop.start_tls(
            wire.transport, wire, context, server_hostname=account.host, ssl_handshake_timeout=timeouts.connect
        )
    except (OSError, TimeoutError):
        raise refusal("no TLS: the handshake failed") from None
    if transport is None:
        raise refusal("the connection was lost in the TLS handshake")
    wire.connection_made(transport)


async def _authenticate(
    dialogue: _Dialogue, introduction: Introduction, extensions: Extensions, timeouts: Timeouts
) -> None:
    account = introduction.account
    if account.token_name is not None:
        code, text = await _present_token(dialogue, introduction, extensions, timeouts)
    else:
        code, text = await _present_password(dialogue, account, extensions, timeouts)
    if code != 235:
        raise refused_by(code, text, Phase.auth)


async def _present_password(
    dialogue: _Dialogue, account: SmtpAccount, extensions: Extensions, timeouts: Timeouts
) -> Reply:
    """RFC 4954 with PLAIN (RFC 4616), or LOGIN, which has no RFC."""
    user, password = (account.user or "").encode(), (account.password or "").encode()
    if b"PLAIN" in extensions.auth:
        response = base64.b64encode(b"\x00" + user + b"\x00" + password)
        return await dialogue.ask(b"AUTH PLAIN " + response, Phase.auth, timeouts.mail)
    if b"LOGIN" not in extensions.auth:
        raise refusal("the server offers neither AUTH PLAIN nor AUTH LOGIN", Category.policy)
    code, text = await dialogue.ask(b"AUTH LOGIN", Phase.auth, timeouts.mail)
    for secret in (user, password):
        if code == 334:
            code, text = await dialogue.ask(base64.b64encode(secret), Phase.auth, timeouts.mail)
    return code, text


async def _present_token(
    dialogue: _Dialogue, introduction: Introduction, extensions: Extensions, timeouts: Timeouts
) -> Reply:
    """XOAUTH2, as Google and Microsoft document it."""
    if b"XOAUTH2" not in extensions.auth:
        raise refusal("the server does not offer AUTH XOAUTH2", Category.policy)
    account = introduction.account
    token = await asyncio.to_thread(read_access_token, introduction.token_folder, account.token_name or "")
    if token is None:
        raise refusal("there is no access token", Category.policy)
    response = base64.b64encode(b"user=%b\x01auth=Bearer %b\x01\x01" % ((account.user or "").encode(), token))
    code, text = await dialogue.ask(b"AUTH XOAUTH2 " + response, Phase.auth, timeouts.mail)
    if code == 334:
        # It says in its challenge why it refuses, and ends the exchange after an empty answer.
        code, text = await dialogue.ask(b"", Phase.auth, timeouts.mail)
    return code, text


def refusal(reason: str, category: Category = Category.network) -> SessionRefused:
    """Returns the error for a session that failed without a reply worth quoting."""
    return SessionRefused(Outcome(Verdict.deferred, None, None, reason, category))


def refused_by(code: int, text: bytes, phase: Phase) -> SessionRefused:
    """Returns the error for a session the server declined. Even a 5xx only defers: it is about us, not about a mail."""
    if code < 400:
        return refusal(f"the server answered {code} to {phase}")
    category = Category.network if code == 421 else Category.policy
    outcome = classify(code, text, phase)._replace(verdict=Verdict.deferred, category=category)
    if phase is Phase.auth:  # A careless server repeats what it was sent.
        outcome = outcome._replace(reply="the server refused the credentials")
    return SessionRefused(outcome)


async def quit_session(session: Session, timeouts: Timeouts) -> None:
    """Says QUIT and waits a moment. Whatever the answer, no mail is the worse for it."""
    wire = session.wire
    if wire.lost is None:
        dialogue = _Dialogue(wire)
        with contextlib.suppress(SessionRefused):
            await dialogue.ask(b"QUIT", Phase.quit, timeouts.quit)
        wire.listener = None
        wire.drop("quit")
    await asyncio.wait([wire.closed], timeout=timeouts.quit)


def _is_loopback(wire: Wire) -> bool:
    try:
        return ipaddress.ip_address(wire.transport.get_extra_info("peername")[0]).is_loopback
    except (TypeError, ValueError):
        return False


def _address_literal(wire: Wire) -> str:
    """RFC 5321 4.1.3: who has no name of its own greets with its address."""
    address = ipaddress.ip_address(wire.transport.get_extra_info("sockname")[0].partition("%")[0])
    return f"[IPv6:{address}]" if address.version == 6 else f"[{address}]"
