"""The HTTP side of the mailbox: a small ASGI application with the API and the pages.

Pages need nothing from the network and no script. A mail's own HTML is shown in a sandbox that loads nothing.
"""

import ipaddress
import re
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs

import minijinja
import orjson

from local_stack.mailbox import api
from local_stack.mailbox.reading import header_lines, read_words
from local_stack.mailbox.store import Mail, MailStore

_PAGE_SIZE = 50
_OURS = (
    "default-src 'none'; style-src 'self'; frame-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
_THEIRS = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'self'; sandbox allow-popups allow-popups-to-escape-sandbox"
)
_WEB_ADDRESS = re.compile(r"(https?://[^\s<>\"]+)")
_HTML = "text/html; charset=utf-8"
_TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True)
class Response:
    """What a route answers."""

    body: bytes
    content_type: str = "application/json"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


_NOT_FOUND = Response(b"There is no such mail or page.\n", _TEXT, 404)


class UnreadableError(ValueError):
    """The request asks for something that cannot be understood."""


class MailboxApp:
    """Serves one store."""

    def __init__(self, store: MailStore) -> None:
        self._store = store
        pages = files(__package__) / "pages"
        self._style = (pages / "style.css").read_bytes()
        self._pages = minijinja.Environment(loader=lambda name: (pages / name).read_text())
        self._routes: list[tuple[str, re.Pattern[str], Callable[..., Response]]] = [
            ("GET", re.compile("/"), self._list_page),
            ("GET", re.compile("/style.css"), lambda _: Response(self._style, "text/css")),
            ("GET", re.compile("/view/([^/]+)"), self._mail_page),
            ("GET", re.compile("/view/([^/]+)/html"), self._mail_html),
            ("GET", re.compile("/api/v1/messages"), self._messages),
            ("DELETE", re.compile("/api/v1/messages"), self._delete),
            ("GET", re.compile("/api/v1/search"), self._search),
            ("GET", re.compile("/api/v1/message/([^/]+)"), self._message),
            ("GET", re.compile("/api/v1/message/([^/]+)/headers"), self._headers),
            ("GET", re.compile("/api/v1/message/([^/]+)/raw"), self._raw),
            ("GET", re.compile("/readyz"), lambda _: Response(b"ready\n", _TEXT)),
        ]

    async def __call__(
        self,
        scope: Mapping[str, Any],
        receive: Callable[[], Awaitable[Mapping[str, Any]]],
        send: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> None:
        assert scope["type"] == "http"
        response = self._answer(scope)
        head = {
            "content-security-policy": _OURS,
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
            "cache-control": "no-store",
            "content-type": response.content_type,
            "content-length": str(len(response.body)),
        } | dict(response.headers)
        lines = [(name.encode(), value.encode()) for name, value in head.items()]
        await send({"type": "http.response.start", "status": response.status, "headers": lines})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else response.body})

    def _answer(self, scope: Mapping[str, Any]) -> Response:
        if not _is_local(scope):
            return Response(b"Ask for this mailbox by IP address or as localhost.\n", _TEXT, 421)
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        query = {name: values[-1] for name, values in parse_qs(scope["query_string"].decode("latin-1")).items()}
        allowed = []
        for wanted, pattern, answer in self._routes:
            if matched := pattern.fullmatch(scope["path"]):
                if wanted == method:
                    try:
                        return answer(query, *matched.groups())
                    except UnreadableError as error:
                        return _json({"Error": str(error)}, 400)
                allowed.append(wanted)
        if allowed:
            return Response(b"Method not allowed.\n", _TEXT, 405, {"allow": ", ".join(allowed)})
        return _NOT_FOUND

    def _messages(self, query: Mapping[str, str]) -> Response:
        start, limit = _window(query)
        return _json(api.message_list(self._store, list(self._store.newest(start, limit)), len(self._store), start))

    def _search(self, query: Mapping[str, str]) -> Response:
        start, limit = _window(query)
        name, _, value = query.get("query", "").partition(":")
        if name != "to" or not value:
            raise UnreadableError("This mailbox searches by recipient only: query=to:ADDRESS")
        found = self._store.to(value.strip('"'))
        return _json(api.message_list(self._store, found[start : start + limit], len(found), start))

    def _message(self, _: Mapping[str, str], mail_id: str) -> Response:
        mail = self._store.find(mail_id)
        return _json(api.message(mail)) if mail else _NOT_FOUND

    def _headers(self, _: Mapping[str, str], mail_id: str) -> Response:
        mail = self._store.find(mail_id)
        return _json(api.headers(mail)) if mail else _NOT_FOUND

    def _raw(self, _: Mapping[str, str], mail_id: str) -> Response:
        mail = self._store.find(mail_id)
        return Response(mail.raw, _TEXT) if mail else _NOT_FOUND

    def _delete(self, _: Mapping[str, str]) -> Response:
        self._store.clear()
        return Response(b"ok", _TEXT)

    def _list_page(self, query: Mapping[str, str]) -> Response:
        start, _ = _window(query)
        recipient = query.get("to", "")
        found: list[Mail] = self._store.to(recipient) if recipient else list(self._store.newest())
        return self._page(
            "list.html",
            mails=[api.summary(mail) for mail in found[start : start + _PAGE_SIZE]],
            recipient=recipient,
            total=len(found),
            accepted=self._store.accepted,
            start=start,
            newer=max(0, start - _PAGE_SIZE) if start else None,
            older=start + _PAGE_SIZE if start + _PAGE_SIZE < len(found) else None,
        )

    def _mail_page(self, _: Mapping[str, str], mail_id: str) -> Response:
        mail = self._store.find(mail_id)
        if mail is None:
            return _NOT_FOUND
        shown = api.message(mail)
        return self._page(
            "mail.html",
            mail=shown,
            # Every second part is a web address.
            text=_WEB_ADDRESS.split(shown["Text"]),
            headers=[(name, read_words(value)) for name, value in header_lines(mail.raw)],
            recipients=mail.recipients,
        )

    def _mail_html(self, _: Mapping[str, str], mail_id: str) -> Response:
        mail = self._store.find(mail_id)
        if mail is None:
            return _NOT_FOUND
        # Links open beside the sandbox, so that a confirmation link can be followed from here.
        html = '<base target="_blank">' + api.message(mail)["HTML"]
        return Response(html.encode(errors="replace"), _HTML, headers={"content-security-policy": _THEIRS})

    def _page(self, name: str, **values: Any) -> Response:
        return Response(self._pages.render_template(name, **values).encode(errors="replace"), _HTML)


def _json(value: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(value), status=status)


def _window(query: Mapping[str, str]) -> tuple[int, int]:
    try:
        start, limit = int(query.get("start", 0)), int(query.get("limit", _PAGE_SIZE))
    except ValueError:
        start = limit = -1
    if start < 0 or limit < 0:
        raise UnreadableError("start and limit are whole numbers, zero or more")
    # No mailbox is that large, and Python's slices cannot be.
    return min(start, sys.maxsize // 2), min(limit, sys.maxsize // 2)


def _is_local(scope: Mapping[str, Any]) -> bool:
    """Refuses names other than localhost: a foreign page could make its own name point here and read the mails."""
    host = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")
    name = host.rpartition(":")[0] if re.search(r":\d*$", host) else host
    if name in ("localhost", ""):
        return True
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
