"""The newest mails, in memory, and the optional record of every accepted one in a file.

Mails are kept as the bytes that came; who wants to read one parses it (reading.py).
"""

import hashlib
import os
import secrets
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import orjson

from local_stack.mailbox.reading import read_headers


@dataclass(frozen=True, eq=False)
class Mail:
    """One accepted mail with its envelope."""

    id: str
    received: float
    """Seconds since the epoch."""
    sender: str
    recipients: tuple[str, ...]
    raw: bytes
    """The content as sent, dot-stuffing undone, line ends CRLF."""


class MailStore:
    """Holds the last `keep` mails, and fewer when their bytes would pass `keep_bytes`."""

    def __init__(self, keep: int = 20_000, keep_bytes: int = 512 * 1024 * 1024, record: Path | None = None) -> None:
        self._keep = keep
        self._keep_bytes = keep_bytes
        self._mails: OrderedDict[str, Mail] = OrderedDict()
        self._bytes = 0
        self._run = secrets.token_hex(4)
        self._record = os.open(record, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600) if record else None
        self.accepted = 0
        """Mails accepted since the start, kept or not."""

    def __len__(self) -> int:
        return len(self._mails)

    def accept(self, sender: str, recipients: tuple[str, ...], raw: bytes) -> None:
        """Keeps a mail; with a record file, its lines are handed to the kernel before this returns."""
        self.accepted += 1
        mail = Mail(f"{self._run}{self.accepted:010d}", time.time(), sender, recipients, raw)
        if self._record is not None:
            os.write(self._record, _recorded(mail))
        self._mails[mail.id] = mail
        self._bytes += len(raw)
        while len(self._mails) > self._keep or (self._bytes > self._keep_bytes and len(self._mails) > 1):
            self._bytes -= len(self._mails.popitem(last=False)[1].raw)

    def newest(self, start: int = 0, limit: int | None = None) -> Iterator[Mail]:
        """Iterates over mails from the newest on, skipping the first `start`."""
        return islice(reversed(self._mails.values()), start, None if limit is None else start + limit)

    def to(self, text: str) -> list[Mail]:
        """Finds the mails one of whose envelope recipients contains the text, the newest first."""
        wanted = text.casefold()
        return [mail for mail in self.newest() if any(wanted in one.casefold() for one in mail.recipients)]

    def find(self, mail_id: str) -> Mail | None:
        """Finds a mail by its id, or the newest one as `latest`."""
        return next(self.newest(), None) if mail_id == "latest" else self._mails.get(mail_id)

    def clear(self) -> None:
        """Forgets all mails; the record file stays."""
        self._mails.clear()
        self._bytes = 0


def _recorded(mail: Mail) -> bytes:
    """Writes one JSON line for each recipient, so that lines can be counted against a list of people."""
    headers = read_headers(mail.raw)
    entry = {
        "time": mail.received,
        "sender": mail.sender,
        "message_id": headers.get("message-id", ""),
        "sha256": hashlib.sha256(mail.raw).hexdigest(),
        "headers": {name: value for name, value in headers.items() if name.startswith(("x-", "list-"))},
    }
    return b"".join(orjson.dumps({"recipient": one, **entry}) + b"\n" for one in mail.recipients)
