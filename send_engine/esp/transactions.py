"""Mail transactions over one session: the hot path, a state machine fed by replies.

With PIPELINING (RFC 2920) one write carries a body, its final dot and the next mail's MAIL, RCPT and DATA, so a mail
costs one round trip and about one system call each way. Replies come in the same order with and without it, so there
is one sequence of phases; only what is written when differs.

The 250 boundary is kept here: `_dot_out` says whether the final dot may have left.
"""

import asyncio
import re
from collections.abc import Sequence

from send_engine.esp.port import Category, ComposedMail, Outcome, Verdict
from send_engine.esp.queue import MailQueue
from send_engine.esp.replies import Phase, Reply, accepted, classify
from send_engine.esp.session import Session
from send_engine.esp.seven_bit import seven_bit
from send_engine.esp.timeouts import Timeouts
from servicekit.failpoints import ARMED, reached

# Up to here a body and the next mail's commands are one write. A larger body goes alone, so that it is known whether
# its dot has left; a small one counts as gone at once, which can only make a loss `unknown` instead of deferred.
_ONE_WRITE = 16_384
# A session looks at its clock and at the caller's wish to stop this often, or eight times in its shortest time limit.
_GLANCE = 1.0
_DOT = b".\r\n"
_PATH = re.compile(
    r'(?:"(?:[^"\\\x00-\x1f\x7f\ud800-\udfff]|\\[\x20-\x7e])*"@)?[^\x00-\x20<>"\x7f\ud800-\udfff]+', re.ASCII
)

# Looking a member up in its enum costs as much as comparing it three times.
_MAIL, _RCPT, _DATA, _FINAL_DOT = Phase.mail, Phase.rcpt, Phase.data, Phase.final_dot
_LONE_DOT, _RSET = Phase.lone_dot, Phase.rset

_UNSENT = Outcome(Verdict.unsent, begun=False)
_NO_SMTPUTF8 = Outcome(
    Verdict.failed, None, "5.6.7", "the server does not offer SMTPUTF8, which this address needs", Category.mailbox
)
_NO_8BITMIME = Outcome(
    Verdict.failed, None, "5.6.3", "the server does not offer 8BITMIME, which this address needs", Category.mailbox
)
_TOO_BIG = Outcome(Verdict.failed, None, "5.3.4", "the mail is larger than the server allows", Category.content)
_NO_PATH = Outcome(Verdict.failed, None, "5.1.3", "the address cannot stand in an SMTP command", Category.mailbox)


class Transactions:
    """Carries mails of a queue over a session until the queue is empty, the limit is reached or the session is lost."""

    def __init__(self, session: Session, queue: MailQueue, timeouts: Timeouts, mails_per_session: int) -> None:
        self._session = session
        self._wire = session.wire
        self._extensions = session.extensions
        self._pipelining = session.extensions.pipelining
        self._queue = queue
        self._timeouts = timeouts
        self._limit = mails_per_session
        self._loop = asyncio.get_running_loop()
        self._done: asyncio.Future[None] = self._loop.create_future()
        self._phase = _MAIL
        self._current = -1
        self._ahead: int | None = None  # The mail whose commands are out behind the current body.
        self._refusal: Outcome | None = None  # What MAIL or RCPT was refused with, while later replies are due.
        self._parting: Outcome | None = None  # The 421 that ends the session.
        self._has_recipient = False  # RCPT was taken although MAIL was not.
        self._stopping = False
        self._dot_out = False
        self._sender = ""  # The last one that can stand in an SMTP command.
        self._answered = 0
        self._behind = 0  # Replies that came in one piece with the one looked at, and after it.
        self._steps = 0
        self._progress = (-1, 0)
        self._since = 0.0
        self._next_glance: asyncio.TimerHandle | None = None
        shortest = min(timeouts.mail, timeouts.rcpt, timeouts.data, timeouts.block, timeouts.final_dot)
        self._glance_seconds = min(_GLANCE, shortest / 8)

    async def run(self) -> int:
        """Returns how many mails the server answered for good. Afterwards no mail is held here.

        When cancelled, drops the session.
        """
        if self._wire.lost is not None:
            return 0
        self._wire.listener = self
        self._advance()
        if not self._done.done():
            self._glance()
        try:
            await self._done
        except asyncio.CancelledError:
            self._wire.drop("the sender was stopped")
            raise
        return self._answered

    def on_replies(self, replies: Sequence[Reply]) -> None:
        """Takes the replies to the oldest commands without one."""
        if len(replies) == 4 and self._ahead is not None and self._phase is _FINAL_DOT and self._dot_out and not ARMED:
            # Nearly always: a mail was taken, and so were the next one's MAIL, RCPT and DATA. Half the work of the
            # careful way.
            (code, text), (mail_code, _), (rcpt_code, _), (data_code, _) = replies
            if code == mail_code == rcpt_code == 250 and data_code == 354 and not self._queue.abort():
                self._steps += 4
                self._answered += 1
                self._queue.settle(self._current, accepted(code, text))
                self._current, self._ahead = self._ahead, None
                self._write_body(self._queue.mails[self._current].data)
                return
        self._behind = len(replies)
        for code, text in replies:
            self._behind -= 1
            self._on_reply(code, text)
            if self._done.done():
                break
        if self._behind and self._wire.lost is None:
            self._wire.drop("the server spoke unasked")

    def _on_reply(self, code: int, text: bytes) -> None:
        self._steps += 1
        phase = self._phase
        reached(phase)
        if code == 421:
            self._parting = classify(code, text, phase)
            self._wire.drop("the server closes the session")
        elif phase is _DATA:
            self._on_data(code, text)
        elif phase is _FINAL_DOT:
            self._on_final_dot(code, text)
        elif phase is _LONE_DOT:
            self._session.dirty = False
            self._conclude(self._refusal or classify(code, text, phase))
        elif phase is _RSET:
            self._on_rset(code)
        else:
            self._on_envelope(code, text)

    def on_drained(self) -> None:
        """Learns that the body, its dot included, has left."""
        if self._phase is _FINAL_DOT:
            self._dot_out = True
            self._steps += 1

    def on_lost(self, reason: str) -> None:
        """Settles what was under way; a mail not begun goes back to the queue."""
        if self._ahead is not None:
            self._queue.give_back(self._ahead)
            self._ahead = None
        loss = Outcome(Verdict.deferred, None, None, f"{reason}, before the answer to {self._phase}", Category.network)
        # Between two mails a server may close as it likes, perhaps before it saw the command.
        untouched = self._phase is _RSET or (self._phase is _MAIL and self._session.begun > 1)
        outcome: Outcome | None
        if self._phase is _FINAL_DOT and self._parting is None and self._dot_out:
            outcome = Outcome(Verdict.unknown, None, None, loss.reply, Category.network)
        elif self._refusal is not None:
            outcome = self._refusal
        elif self._stopping:
            outcome = _UNSENT
        elif untouched and self._queue.give_back_once(self._current):
            outcome = None
        else:
            outcome = self._parting or loss
        if outcome is not None:
            self._queue.settle(self._current, outcome)
        self._finish()

    def _on_envelope(self, code: int, text: bytes) -> None:
        """MAIL and RCPT: a refusal is kept until the replies to what was pipelined behind it are in."""
        phase = self._phase
        if code < 300:
            self._session.dirty = True
            self._has_recipient = phase is _RCPT
        elif code >= 400:
            self._refusal = self._refusal or classify(code, text, phase)
        else:
            self._wire.drop(f"the server answered {code} to {phase}")
            return
        if not self._pipelining:
            if self._refusal is not None:
                self._conclude(self._refusal)
                return
            recipient = self._queue.mails[self._current].recipient
            self._wire.write(f"RCPT TO:<{recipient}>\r\n".encode() if phase is _MAIL else b"DATA\r\n")
        self._phase = _RCPT if phase is _MAIL else _DATA

    def _on_data(self, code: int, text: bytes) -> None:
        if code == 354 and self._behind:
            self._wire.drop("the server answered a body it had not got")
        elif code == 354:
            if self._refusal is not None and self._has_recipient:
                # The server refused MAIL and took the rest: a lone dot could reach the recipient as an empty mail.
                self._wire.drop("the server is in disorder")
            elif self._refusal is not None:
                # RFC 2920 3.1: the server waits for a body nobody will get, so it gets none.
                self._wire.write(_DOT + self._commands_ahead())
                self._phase = _LONE_DOT
            elif self._queue.abort():
                self._stop()
            else:
                self._write_body(self._queue.mails[self._current].data)
        elif code >= 400:
            self._conclude(self._refusal or classify(code, text, _DATA))
        else:
            self._wire.drop(f"the server answered {code} to {_DATA}")

    def _on_final_dot(self, code: int, text: bytes) -> None:
        if not self._dot_out or 300 <= code < 400:
            # A refusal in the middle of the body counts, but where the server is in the stream is anybody's guess.
            self._parting = classify(code, text, _FINAL_DOT) if code >= 400 else None
            self._wire.drop(f"the server answered {code} too early")
            return
        self._session.dirty = False
        self._conclude(classify(code, text, _FINAL_DOT))

    def _on_rset(self, code: int) -> None:
        if not 200 <= code < 300:
            self._wire.drop(f"the server answered {code} to {_RSET}")
            return
        self._session.dirty = False
        if not self._pipelining:
            self._wire.write(self._commands(self._queue.mails[self._current]))
        self._phase = _MAIL

    def _write_body(self, data: bytes) -> None:
        wire = self._wire
        self._phase = _FINAL_DOT
        if len(data) <= _ONE_WRITE:
            self._dot_out = True
            wire.write(b"".join((data, _DOT, self._commands_ahead())))
        else:
            self._dot_out = False
            wire.write(data + _DOT)
            if not wire.paused and wire.lost is None:
                self._dot_out = True
                ahead = self._commands_ahead()
                if ahead:
                    wire.write(ahead)
        reached("dot written")

    def _commands_ahead(self) -> bytes:
        """Draws the next mail, where the server pipelines, and returns its commands."""
        if not self._pipelining:
            return b""
        self._ahead = self._draw()
        return b"" if self._ahead is None else self._commands(self._queue.mails[self._ahead])

    def _commands(self, mail: ComposedMail) -> bytes:
        """Returns all commands of a mail where the server pipelines, else MAIL alone."""
        size = f" SIZE={len(mail.data)}" if self._extensions.sizes else ""
        body = " BODY=8BITMIME" if mail.eight_bit else ""
        utf8 = " SMTPUTF8" if mail.smtputf8 else ""
        start = f"MAIL FROM:<{mail.envelope_sender}>{size}{body}{utf8}\r\n"
        return (f"{start}RCPT TO:<{mail.recipient}>\r\nDATA\r\n" if self._pipelining else start).encode()

    def _conclude(self, outcome: Outcome) -> None:
        self._queue.settle(self._current, outcome)
        self._answered += 1
        self._advance()

    def _advance(self) -> None:
        """Turns to the next mail: the one whose commands are out already, or a new one."""
        self._refusal = None
        self._has_recipient = False
        if self._ahead is not None:
            self._current, self._ahead = self._ahead, None
            self._phase = _MAIL
            return
        index = None if self._queue.abort() else self._draw()
        if index is None:
            self._finish()
            return
        self._current = index
        commands = self._commands(self._queue.mails[index])
        if self._session.dirty:
            self._phase = _RSET
            self._wire.write(b"RSET\r\n" + commands if self._pipelining else b"RSET\r\n")
        else:
            self._phase = _MAIL
            self._wire.write(commands)

    def _draw(self) -> int | None:
        """Takes the next mail this server can carry from the queue; those it cannot are settled here."""
        while self._session.begun < self._limit:
            index = self._queue.take()
            if index is None:
                return None
            mail = self._queue.mails[index]
            if mail.eight_bit and not self._extensions.eight_bit and not mail.smtputf8:
                # Any server takes it in this form, should it have to wait for another session.
                mail = self._queue.mails[index] = seven_bit(mail)
            obstacle = self._obstacle(mail)
            if obstacle is None:
                self._session.begun += 1
                return index
            self._queue.settle(index, obstacle)
        return None

    def _obstacle(self, mail: ComposedMail) -> Outcome | None:
        extensions = self._extensions
        if mail.smtputf8 and not extensions.smtputf8:
            return _NO_SMTPUTF8
        if mail.eight_bit and not extensions.eight_bit:
            return _NO_8BITMIME
        if 0 < extensions.size < len(mail.data):
            return _TOO_BIG
        sender, recipient = mail.envelope_sender, mail.recipient
        if not mail.smtputf8 and not (recipient.isascii() and sender.isascii()):
            return _NO_PATH
        # One sender has many mails.
        if sender != self._sender:
            if sender and not _PATH.fullmatch(sender):
                return _NO_PATH
            self._sender = sender
        return None if _PATH.fullmatch(recipient) else _NO_PATH

    def _glance(self) -> None:
        """Looks at the clock and at the caller's wish, and comes back: cheaper than a timer per command.

        A phase is timed from the first glance that finds it, so it may last one glance longer than its limit.
        """
        if self._done.done():
            return
        now = self._loop.time()
        progress = (self._steps, self._wire.transport.get_write_buffer_size() if self._wire.paused else 0)
        if progress != self._progress:
            self._progress = progress
            self._since = now
        if now >= self._session.ends_at:
            self._limit = 0
        if now - self._since >= self._limit_of_phase():
            self._wire.drop("time ran out")
        elif self._phase is not _FINAL_DOT and self._queue.abort():
            self._stop()
        else:
            self._next_glance = self._loop.call_later(self._glance_seconds, self._glance)

    def _limit_of_phase(self) -> float:
        timeouts = self._timeouts
        if self._wire.paused:
            return timeouts.block
        match self._phase:
            case Phase.rcpt:
                return timeouts.rcpt
            case Phase.data:
                return timeouts.data
            case Phase.final_dot | Phase.lone_dot:
                return timeouts.final_dot
        return timeouts.mail

    def _stop(self) -> None:
        self._stopping = True
        self._wire.drop("the caller asked to stop")

    def _finish(self) -> None:
        self._wire.listener = None
        if self._next_glance is not None:
            # It holds on to this, and so to all mails of the queue.
            self._next_glance.cancel()
        if not self._done.done():
            self._done.set_result(None)
