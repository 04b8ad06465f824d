"""SMTP replies: read within bounds, classified, made fit for the ledger (RFC 5321 4.2, RFC 2034, RFC 3463).

The basic code decides the verdict, the enhanced code whose trouble it is. What a server says is quoted without the
addresses in it, since the ledger holds none.
"""

import re
from enum import StrEnum

from send_engine.esp.port import Category, Outcome, Verdict

# RFC 5321 4.5.3.1.5 allows 512; servers that explain themselves at length are let be.
MAX_LINE = 2_048
MAX_LINES = 128
MAX_QUOTED = 512

_CODES = {str(code).encode(): code for code in range(200, 600)}
_ONE_LINE = {start + b" ": code for start, code in _CODES.items()}
_ENHANCED = re.compile(r"[245]\.[0-9]{1,3}\.[0-9]{1,3}(?= |$)")
_ADDRESS = re.compile(r'(?:"[^"]*"|[^\s<>"]+)(?:@|%40)[^\s<>"]*', re.IGNORECASE)
_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f-\x9f\u2028\u2029]+")


class Phase(StrEnum):
    """The steps of a session, each with its own time limit and its own meaning of a refusal."""

    greeting = "greeting"
    hello = "EHLO"
    starttls = "STARTTLS"
    auth = "AUTH"
    rset = "RSET"
    mail = "MAIL"
    rcpt = "RCPT"
    data = "DATA"
    lone_dot = "lone dot"
    final_dot = "final dot"
    quit = "QUIT"


_ABOUT_RECIPIENT = frozenset({Phase.rcpt, Phase.data, Phase.final_dot})

# One reply: its code and its text, the lines of a longer one joined by line feeds. A bare tuple, for speed.
Reply = tuple[int, bytes]


class ReplyReader:
    """Cuts a byte stream into replies. Once `broken` says why, nothing more is read."""

    def __init__(self) -> None:
        self.broken: str | None = None
        self._tail = b""
        self._lines: list[bytes] = []
        self._code = 0
        # What came last behind the first reply, and what it said.
        self._usual = b""
        self._usual_replies: list[Reply] = []

    @property
    def has_rest(self) -> bool:
        """True in the middle of a reply."""
        return bool(self._tail or self._lines)

    def feed(self, data: bytes) -> list[Reply]:
        """Returns the replies that are complete now; those before a broken line are still good."""
        if not self._tail and not self._lines and self.broken is None and data.endswith(b"\r\n"):
            # Nearly always: whole replies of one line each, and those behind the first the same as ever.
            line, _, rest = data.partition(b"\r\n")
            code = _ONE_LINE.get(line[:4])
            if code is not None and len(line) <= MAX_LINE and b"\n" not in line:
                if not rest:
                    return [(code, line[4:])]
                if rest != self._usual or not self._usual_replies:
                    self._usual, self._usual_replies = rest, _read_one_liners(rest)
                if self._usual_replies:
                    return [(code, line[4:]), *self._usual_replies]
        return self._feed_carefully(data)

    def _feed_carefully(self, data: bytes) -> list[Reply]:
        replies: list[Reply] = []
        if self.broken:
            return replies
        lines = (self._tail + data).split(b"\n")
        self._tail = lines.pop()
        for line in lines:
            code = _CODES.get(line[:3])
            separator = line[3:4]
            if code is None or len(line) > MAX_LINE or separator not in b" -\r":
                self.broken = "a reply line that is none"
            elif self._lines and code != self._code:
                self.broken = "a reply of several codes"
            elif len(self._lines) == MAX_LINES:
                self.broken = "a reply of too many lines"
            if self.broken or code is None:
                return replies
            self._lines.append(line[4:].rstrip())
            self._code = code
            if separator != b"-":
                replies.append((code, b"\n".join(self._lines)))
                self._lines = []
        if len(self._tail) > MAX_LINE:
            self.broken = "a reply line that is too long"
        return replies


def _read_one_liners(data: bytes) -> list[Reply]:
    """Returns the replies in data that ends with a line, nothing unless all are whole replies of one line each."""
    lines = data[:-2].split(b"\r\n")
    if len(data) > MAX_LINE or data.count(b"\n") != len(lines) or any(line[:4] not in _ONE_LINE for line in lines):
        return []
    return [(_ONE_LINE[line[:4]], line[4:]) for line in lines]


def classify(code: int, text: bytes, phase: Phase) -> Outcome:
    """Returns what a final reply means for a mail: 2xx accepted, 4xx deferred, 5xx failed.

    Only for replies of these classes; anything else is for the caller to call a broken protocol.
    """
    if code < 300:
        return accepted(code, text)
    reply = quote(text)
    enhanced = _enhanced(reply)
    verdict = Verdict.deferred if code < 500 else Verdict.failed
    category = _category_of_enhanced(enhanced) if enhanced else None
    category = category or _category_of_code(code, phase)
    return Outcome(verdict, code, enhanced, reply, category, about_recipient=phase in _ABOUT_RECIPIENT)


def accepted(code: int, text: bytes) -> Outcome:
    """Returns what a reply of 2xx means for a mail."""
    reply = quote(text)
    return Outcome(Verdict.accepted, code, _enhanced(reply), reply)


def quote(text: bytes) -> str:
    """Returns a server's text as one printable line of at most 512 characters, with no address in it."""
    words = text.decode("utf-8", "replace")
    if len(words) <= MAX_QUOTED and words.isprintable() and "@" not in words and "%40" not in words:
        return words
    # Bounded before the search for addresses, at a gap, so that no half of one is left.
    words = _UNPRINTABLE.sub(" ", words)
    if len(words) > 4 * MAX_QUOTED:
        words = words[: 4 * MAX_QUOTED].rpartition(" ")[0]
    return _ADDRESS.sub("[address]", words)[:MAX_QUOTED]


def _enhanced(reply: str) -> str | None:
    match = _ENHANCED.match(reply)
    return match[0] if match else None


def _category_of_enhanced(enhanced: str) -> Category | None:
    """RFC 3463 3: the subject is the second number."""
    _, subject, detail = enhanced.split(".")
    match int(subject), int(detail):
        case (1, 7 | 8):  # The sender's own address is at fault.
            return Category.policy
        case (1 | 2, _):
            return Category.mailbox
        case (3, 4):  # Message too big for the system.
            return Category.content
        case (3 | 4 | 5, _):
            return Category.network
        case (6, _):
            return Category.content
        case (7, _):
            return Category.policy
    return None


def _category_of_code(code: int, phase: Phase) -> Category:
    if code in {530, 534, 535, 538, 454}:
        return Category.policy
    if code in {421, 451, 452} or code < 450 or 500 <= code <= 504 or code == 555:
        return Category.network
    if phase is Phase.rcpt:
        return Category.policy if code == 554 else Category.mailbox
    if code == 552 or (code == 554 and phase in {Phase.data, Phase.final_dot}):  # RFC 1870: also to MAIL's SIZE.
        return Category.content
    return Category.policy
