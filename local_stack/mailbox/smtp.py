"""The SMTP side of the mailbox: a strict and quick server (RFC 5321) that accepts mail for everybody.

It refuses what smuggles or gets mangled on the way: bare CR or LF, lines over 998 bytes, a dot that was not stuffed,
8-bit content that was not announced. It offers neither TLS nor authentication, and relays nothing.
"""

import asyncio
import re
from collections.abc import Callable
from typing import cast

from local_stack.mailbox.store import MailStore

SIZE_LIMIT = 25 * 1024 * 1024
_COMMAND_LIMIT = 2048
_LINE_LIMIT = 998
_RECIPIENT_LIMIT = 1000
_END_OF_DATA = b"\r\n.\r\n"
_PATH = re.compile(r'(FROM|TO): ?<((?:"(?:[^"\\]|\\.)*"|[^<>"\s])*)>(.*)', re.IGNORECASE | re.DOTALL)

_OK = b"250 2.0.0 OK\r\n"
_MAIL_OK = b"250 2.1.0 OK\r\n"
_RCPT_OK = b"250 2.1.5 OK\r\n"
_GO_AHEAD = b"354 End data with <CR><LF>.<CR><LF>\r\n"
_SEQUENCE = b"503 5.5.1 Bad sequence of commands\r\n"
_SYNTAX = b"501 5.5.4 Syntax error in parameters\r\n"


class SmtpSession(asyncio.Protocol):
    """One connection. Pipelined commands are answered in one write."""

    def __init__(self, store: MailStore, delay: float = 0.0) -> None:
        """Accepts into the store; `delay` is waited for, in seconds, before a final dot is answered.

        The mail is accepted before the wait: whoever goes away meanwhile has sent it without knowing.
        """
        self._store = store
        self._delay = delay
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._searched = 0
        self._in_data = False
        self._waiting = False
        self._sender: str | None = None
        self._recipients: list[str] = []
        self._eight_bit = False
        self._international = False
        self._commands: dict[bytes, Callable[[str], bytes]] = {
            b"EHLO": self._ehlo,
            b"HELO": self._helo,
            b"MAIL": self._mail,
            b"RCPT": self._rcpt,
            b"DATA": self._data,
            b"RSET": self._rset,
            b"NOOP": lambda _: _OK,
            b"VRFY": lambda _: b"252 2.1.5 Send some mail and see\r\n",
            b"QUIT": self._quit,
        }

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports derive from none of asyncio's classes.
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(b"220 mailbox.localhost ESMTP Messmail development mailbox\r\n")

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._waiting:
            self._work()

    def _work(self) -> None:
        replies: list[bytes] = []
        while self._transport and not self._waiting and not self._transport.is_closing():
            reply = self._take_data() if self._in_data else self._take_command()
            if reply is None:
                break
            replies.append(reply)
        if replies and self._transport:
            self._transport.write(b"".join(replies))
            if replies[-1].startswith((b"221", b"421")):
                self._transport.close()

    def _take_command(self) -> bytes | None:
        line, found, rest = self._buffer.partition(b"\r\n")
        if not found:
            return self._hang_up(b"421 4.5.2 Line too long\r\n") if len(self._buffer) > _COMMAND_LIMIT else None
        self._buffer = rest
        if len(line) > _COMMAND_LIMIT or b"\n" in line or b"\r" in line or b"\0" in line:
            return b"500 5.5.2 Lines end with CRLF and have at most 2048 bytes\r\n"
        verb, _, argument = line.partition(b" ")
        command = self._commands.get(verb.upper())
        if command is None:
            return b"502 5.5.1 Command not implemented\r\n"
        try:
            return command(argument.decode())
        except UnicodeDecodeError:
            return b"501 5.6.7 Not UTF-8\r\n"

    def _take_data(self) -> bytes | None:
        # The buffer begins with the CRLF before the content, so the end and stuffed dots look alike in every line.
        end = self._buffer.find(_END_OF_DATA, self._searched)
        if end < 0:
            self._searched = max(0, len(self._buffer) - len(_END_OF_DATA))
            return self._hang_up(b"421 4.3.4 Message too big\r\n") if len(self._buffer) > 2 * SIZE_LIMIT else None
        content = self._buffer[: end + 2]
        self._buffer = self._buffer[end + len(_END_OF_DATA) :]
        self._in_data = False
        refusal = self._refusal(content)
        if refusal is None:
            assert self._sender is not None
            self._store.accept(self._sender, tuple(self._recipients), content.replace(b"\r\n.", b"\r\n")[2:])
        self._forget()
        reply = refusal or b"250 2.0.0 OK: kept\r\n"
        if self._delay:
            self._waiting = True
            asyncio.get_running_loop().call_later(self._delay, self._answer_late, reply)
            return b""
        return reply

    def _refusal(self, content: bytes) -> bytes | None:
        lines = content.split(b"\r\n")
        if content.count(b"\n") != len(lines) - 1 or content.count(b"\r") != len(lines) - 1:
            return b"554 5.6.0 Bare CR or LF\r\n"
        if len(content) > SIZE_LIMIT:
            return b"552 5.3.4 Message too big\r\n"
        if max(map(len, lines)) > _LINE_LIMIT:
            return b"554 5.6.0 A line has more than 998 bytes\r\n"
        if b"\r\n." in content and content.count(b"\r\n.") != content.count(b"\r\n.."):
            return b"554 5.6.0 A line begins with a dot that is not doubled\r\n"
        if not self._eight_bit and not content.isascii():
            return b"554 5.6.1 8-bit content without BODY=8BITMIME\r\n"
        return None

    def _answer_late(self, reply: bytes) -> None:
        self._waiting = False
        if self._transport:
            self._transport.write(reply)
            self._work()

    def _ehlo(self, argument: str) -> bytes:
        if not argument:
            return _SYNTAX
        self._forget()
        return (
            b"250-mailbox.localhost\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n"
            b"250-SIZE %d\r\n250 ENHANCEDSTATUSCODES\r\n" % SIZE_LIMIT
        )

    def _helo(self, argument: str) -> bytes:
        if not argument:
            return _SYNTAX
        self._forget()
        return b"250 mailbox.localhost\r\n"

    def _mail(self, argument: str) -> bytes:
        if self._sender is not None:
            return _SEQUENCE
        matched = _PATH.fullmatch(argument)
        if not matched or matched[1].upper() != "FROM":
            return _SYNTAX
        parameters = matched[3].upper().split()
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name == "SIZE" and value.isdigit():
                if int(value) > SIZE_LIMIT:
                    return b"552 5.3.4 Message too big\r\n"
            elif parameter not in ("BODY=7BIT", "BODY=8BITMIME", "SMTPUTF8"):
                return b"555 5.5.4 Parameter not recognised\r\n"
        self._international = "SMTPUTF8" in parameters
        self._eight_bit = self._international or "BODY=8BITMIME" in parameters
        if not self._is_writable(matched[2]):
            return b"553 5.6.7 A non-ASCII address needs SMTPUTF8\r\n"
        self._sender = matched[2]
        return _MAIL_OK

    def _rcpt(self, argument: str) -> bytes:
        if self._sender is None:
            return _SEQUENCE
        matched = _PATH.fullmatch(argument)
        if not matched or matched[1].upper() != "TO" or not matched[2]:
            return _SYNTAX
        if matched[3].strip():
            return b"555 5.5.4 Parameter not recognised\r\n"
        if not self._is_writable(matched[2]):
            return b"553 5.6.7 A non-ASCII address needs SMTPUTF8\r\n"
        if len(self._recipients) >= _RECIPIENT_LIMIT:
            return b"452 4.5.3 Too many recipients\r\n"
        self._recipients.append(matched[2])
        return _RCPT_OK

    def _data(self, argument: str) -> bytes:
        if argument:
            return _SYNTAX
        if not self._recipients:
            return b"503 5.5.1 No valid recipients\r\n" if self._sender is not None else _SEQUENCE
        self._in_data = True
        self._searched = 0
        self._buffer = b"\r\n" + self._buffer
        return _GO_AHEAD

    def _rset(self, _: str) -> bytes:
        self._forget()
        return _OK

    def _quit(self, _: str) -> bytes:
        return self._hang_up(b"221 2.0.0 Bye\r\n")

    def _hang_up(self, reply: bytes) -> bytes:
        self._buffer = b""
        return reply

    def _forget(self) -> None:
        self._sender = None
        self._recipients = []

    def _is_writable(self, address: str) -> bool:
        return self._international or address.isascii()
