"""An SMTP relay as an ESP account: a bounded pool of pipelining sessions, shared by all sends of the process."""

import asyncio
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path

from send_engine.esp.port import Category, ComposedMail, Outcome, Verdict
from send_engine.esp.queue import MailQueue
from send_engine.esp.session import Introduction, Session, SessionRefused, open_session, quit_session
from send_engine.esp.timeouts import Timeouts
from send_engine.esp.transactions import Transactions
from send_engine.esp.url import SmtpAccount, parse_smtp_url

# How often a send that waits for a session asks whether it is still wanted.
_GLANCE = 0.5
_GIVEN_UP = Outcome(Verdict.deferred, None, None, "the server closes every session", Category.network)


class SmtpEsp:
    """Sends over at most `connections` sessions, those that are just ending included.

    All of its life belongs to one event loop.

    A session carries `mails_per_session` mails at most and none after `session_seconds`, and ends after `idle_seconds`
    without one, since relays limit all three. `tls` replaces the system's trust store; access tokens for XOAUTH2 lie in
    `token_folder`.
    """

    def __init__(
        self,
        account: SmtpAccount | str,
        *,
        connections: int = 4,
        mails_per_session: int = 1_000,
        session_seconds: float = 300,
        idle_seconds: float = 30,
        timeouts: Timeouts | None = None,
        hello_name: str | None = None,
        tls: ssl.SSLContext | None = None,
        token_folder: Path | None = None,
    ) -> None:
        account = parse_smtp_url(account) if isinstance(account, str) else account
        self._introduction = Introduction(account, hello_name, tls, token_folder)
        self._connections = connections
        self._mails_per_session = mails_per_session
        self._session_seconds = session_seconds
        self._idle_seconds = idle_seconds
        self._timeouts = timeouts or Timeouts()
        self._slots = asyncio.Semaphore(connections)
        self._idle: list[Session] = []
        self._in_use = 0
        self._partings: set[asyncio.Task[None]] = set()

    async def send(
        self,
        mails: Sequence[ComposedMail],
        abort: Callable[[], bool],
        settled: Callable[[int, Outcome], None] | None = None,
    ) -> list[Outcome]:
        """Sends the mails; see `port.Esp`. Mails that no session could be had for are deferred."""
        queue = MailQueue(mails, abort, settled)
        # Workers that hold no session yet; these may be told to stop waiting.
        waiting: set[asyncio.Task[None]] = set()
        workers = {asyncio.create_task(self._carry(queue, waiting)) for _ in range(min(self._connections, len(mails)))}
        unneeded = workers
        try:
            pending = set(workers)
            while pending and not queue.settled.done():
                _, rest = await asyncio.wait(
                    {*pending, queue.settled}, timeout=_GLANCE, return_when=asyncio.FIRST_COMPLETED
                )
                pending &= rest
                if abort():
                    for worker in waiting:
                        worker.cancel()
            # Every mail has its outcome, so whoever holds a session gives it back now. Cancelled, it would drop it.
            unneeded = waiting
        finally:
            for worker in unneeded:
                worker.cancel()
            results = await asyncio.gather(*workers, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result
        return queue.outcomes((queue.refusal or _GIVEN_UP)._replace(begun=False))

    async def close(self) -> None:
        """Says QUIT on every idle session and waits a moment for the answers."""
        while self._idle:
            self._part(self._idle.pop())
        if self._partings:
            await asyncio.wait(self._partings)

    async def _carry(self, queue: MailQueue, waiting: set[asyncio.Task[None]]) -> None:
        """Carries mails, session after session, until none waits, none can be had or none gets anything done."""
        me = asyncio.current_task()
        assert me is not None
        waiting.add(me)
        try:
            async with self._slots:
                while queue and queue.fruitless < 2 * self._connections:
                    waiting.add(me)
                    session = await self._session()
                    waiting.discard(me)
                    try:
                        answered = await Transactions(session, queue, self._timeouts, self._mails_per_session).run()
                    finally:
                        self._release(session)
                    if answered:
                        queue.fruitless = 0
                    elif session.wire.lost is not None:
                        queue.fruitless += 1
        except SessionRefused as refused:
            queue.refusal = refused.outcome
        finally:
            waiting.discard(me)
            # A cancelled task keeps its frames: with itself in one of them, all mails would wait for the collector.
            del me

    async def _session(self) -> Session:
        while True:
            while self._idle:
                session = self._idle.pop()
                if session.expiry is not None:
                    session.expiry.cancel()
                if session.wire.lost is not None:
                    continue
                if not self._is_used_up(session):
                    self._in_use += 1
                    return session
                self._part(session)
            if self._in_use + len(self._partings) < self._connections:
                break
            # Relays count connections, and one that has not closed yet still counts.
            await asyncio.wait(self._partings, return_when=asyncio.FIRST_COMPLETED)
        self._in_use += 1
        try:
            session = await open_session(self._introduction, self._timeouts)
        except BaseException:
            self._in_use -= 1
            raise
        session.ends_at = asyncio.get_running_loop().time() + self._session_seconds
        return session

    def _release(self, session: Session) -> None:
        self._in_use -= 1
        if session.wire.lost is not None:
            return
        if self._is_used_up(session):
            self._part(session)
            return
        session.expiry = asyncio.get_running_loop().call_later(self._idle_seconds, self._expire, session)
        self._idle.append(session)

    def _is_used_up(self, session: Session) -> bool:
        return session.begun >= self._mails_per_session or asyncio.get_running_loop().time() >= session.ends_at

    def _expire(self, session: Session) -> None:
        if session in self._idle:
            self._idle.remove(session)
            self._part(session)

    def _part(self, session: Session) -> None:
        if session.expiry is not None:
            session.expiry.cancel()
        parting = asyncio.create_task(quit_session(session, self._timeouts))
        self._partings.add(parting)
        parting.add_done_callback(self._partings.discard)
