"""Reads a mailbox that speaks Mailpit's JSON API, as the development mailbox does."""

import json
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

_PAGE: Final = 500
_POLL_SECONDS: Final = 0.1
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class NoMailError(Exception):
    """Says that a mail has not arrived in time."""


@dataclass(frozen=True, slots=True)
class Mail:
    """One mail as the mailbox lists it."""

    id: str
    to: str
    sender: str
    subject: str


class Mailbox:
    """The mailbox at a base URL."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url.rstrip("/")

    def mails(self, to: str = "") -> Iterator[Mail]:
        """Lists all mails, or those to addresses that contain a text, newest first; each once, whatever arrives."""
        seen: set[str] = set()
        start = 0
        while True:
            page = self._json(f"/api/v1/{_listing(to)}limit={_PAGE}&start={start}")["messages"]
            for found in page:
                if found["ID"] not in seen:
                    seen.add(found["ID"])
                    yield _mail(found)
            if len(page) < _PAGE:
                return
            start += len(page)

    def count(self, to: str = "") -> int:
        """Returns how many mails there are, or how many to addresses that contain a text."""
        return int(self._json(f"/api/v1/{_listing(to)}limit=1")["messages_count"])

    def content(self, mail: Mail) -> dict[str, Any]:
        """Returns a mail with its parts, among them Text and HTML."""
        content: dict[str, Any] = self._json(f"/api/v1/message/{urllib.parse.quote(mail.id, safe='')}")
        return content

    def raw(self, mail: Mail) -> bytes:
        """Returns a mail as it came over the wire."""
        return self._get(f"/api/v1/message/{urllib.parse.quote(mail.id, safe='')}/raw")

    def wait_for(self, to: str, subject: str = "", seconds: float = 30.0) -> Mail:
        """Waits for the newest mail to an address, with a subject where one is given; raises NoMailError."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for mail in self.mails(to):
                if mail.to == to and (not subject or mail.subject == subject):
                    return mail
            time.sleep(_POLL_SECONDS)
        raise NoMailError(f"no such mail arrived within {seconds:.0f} s")

    def _json(self, path: str) -> Any:
        return json.loads(self._get(path))

    def _get(self, path: str) -> bytes:
        with _opener.open(self._base_url + path, timeout=30) as response:
            content: bytes = response.read()
            return content


def _listing(to: str) -> str:
    return f"search?query={urllib.parse.quote(f'to:{to}')}&" if to else "messages?"


def _mail(found: dict[str, Any]) -> Mail:
    to = [*found["To"], *found["Cc"], *found["Bcc"]][0]
    return Mail(found["ID"], to["Address"], found["From"]["Address"], found["Subject"])
