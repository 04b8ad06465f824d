"""The port to an e-mail service provider (ESP): what goes in, what became of it.

Adapters (`smtp.SmtpEsp`) live beside this file. It knows neither jobs nor consent nor the ledger: by the time a mail
gets here it is decided that it may go.
"""

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import NamedTuple, Protocol

# Of these two one is made for every mail, and a tuple is made in a third of the time.


class ComposedMail(NamedTuple):
    """One mail for one recipient, ready for the wire.

    `data` has CRLF line ends, is dot-stuffed, ends with CRLF and lacks only the final dot.
    """

    envelope_sender: str
    recipient: str
    data: bytes
    smtputf8: bool
    eight_bit: bool


class Verdict(StrEnum):
    """What became of one mail.

    The line between `deferred` and `unknown` is the 250 boundary: a loss before the final dot was written is a
    deferral; after it, any end without a reply is unknown.
    """

    accepted = "accepted"
    deferred = "deferred"
    failed = "failed"
    unknown = "unknown"
    unsent = "unsent"  # Never begun, because the caller asked to stop.


class Category(StrEnum):
    """Whose trouble it is when a mail was not accepted."""

    mailbox = "mailbox"
    policy = "policy"
    content = "content"
    network = "network"


class Outcome(NamedTuple):
    """The last reply to one mail. `reply` holds no address and at most 512 characters.

    A mail that no session took was not `begun`; `reply` then says why not. A reply is `about_recipient` when it came
    to RCPT, DATA or the final dot: before, a server cannot know, or speaks of the sender.
    """

    verdict: Verdict
    code: int | None = None
    enhanced: str | None = None
    reply: str = ""
    category: Category | None = None
    begun: bool = True
    about_recipient: bool = False


class Esp(Protocol):
    """One ESP account."""

    async def send(
        self,
        mails: Sequence[ComposedMail],
        abort: Callable[[], bool],
        settled: Callable[[int, Outcome], None] | None = None,
    ) -> list[Outcome]:
        """Sends the mails and returns one outcome for each, in their order.

        Who cannot wait for the last of them is told each outcome once, as it comes, by `settled` in the event loop.

        Must not raise for anything the provider or the network does. Asks `abort` before it begins a mail; once that
        is true no further mail is begun, and those not begun are `unsent`. A mail whose final dot is out is waited
        for. Must be callable from several tasks of one event loop at once.
        """
        ...

    async def close(self) -> None:
        """Ends idle connections politely. No send may be running."""
        ...
