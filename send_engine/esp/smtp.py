"""An SMTP relay as an ESP account: a bounded pool of pipelining sessions, shared by all sends of the process."""

import asyncio
import ssl
from collections.abc import Callable, Sequence

from send_engine.esp.port import Category, ComposedMail, Outcome, Verdict
from send_engine.esp.queue import MailQueue
from send_engine.esp.session import Session, SessionRefused, open_session, quit_session
from send_engine.esp.timeouts import Timeouts
from send_engine.esp.transactions import Transactions
from send_engine.esp.url import SmtpAccount, parse_smtp_url

# How often a send that waits for a session asks whether it is still wanted.
_GLANCE = 0.5
_GIVEN_UP = Outcome(Verdict.deferred, None, None, "the server closes every session", Category.network)


class SmtpEsp:
    """Sends over at most `connections` sessions, each renewed after `mails_per_connection` mails or a time unused.

    All of its life belongs to one event loop. `tls` replaces the system's trust store.
    """

    def __init__(
        self,
        account: SmtpAccount | str,
        *,
        connections: int = 4,
        mails_per_connection: int = 1_000,
        idle_seconds: float = 30,
        timeouts: Timeouts | None = None,
        hello_name: str | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._account = parse_smtp_url(account) if isinstance(account, str) else account
        self._connections = connections
        self._mails_per_connection = mails_per_connection
        self._idle_seconds = idle_seconds
        self._timeouts = timeouts or Timeouts()
        self._hello_name = hello_name
        self._tls = tls
        self._slots = asyncio.Semaphore(connections)
        self._idle: list[Session] = []
        self._partings: set[asyncio.Task[None]] = set()

    async def send(self, mails: Sequence[ComposedMail], abort: Callable[[], bool]) -> list[Outcome]:
        """Sends the mails; see `port.Esp`. Mails that no session could be had for are deferred."""
        queue = MailQueue(mails, abort)
        # Workers that hold no session yet; these may be told to stop waiting.
        waiting: set[asyncio.Task[None]] = set()
        workers = {asyncio.create_task(self._carry(queue, waiting)) for _ in range(min(self._connections, len(mails)))}
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
        finally:
            for worker in workers:
                worker.cancel()
            results = await asyncio.gather(*workers, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result
        return queue.outcomes(queue.refusal or _GIVEN_UP)

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
                        answered = await Transactions(session, queue, self._timeouts, self._mails_per_connection).run()
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

    async def _session(self) -> Session:
        while self._idle:
            session = self._idle.pop()
            if session.expiry is not None:
                session.expiry.cancel()
            if session.wire.lost is None:
                return session
        return await open_session(self._account, self._timeouts, self._hello_name, self._tls)

    def _release(self, session: Session) -> None:
        if session.wire.lost is not None:
            return
        if session.begun >= self._mails_per_connection:
            self._part(session)
            return
        session.expiry = asyncio.get_running_loop().call_later(self._idle_seconds, self._expire, session)
        self._idle.append(session)

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
