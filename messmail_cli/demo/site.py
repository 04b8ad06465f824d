"""A tenant's site as the guide has it: plain HTTP calls to the gateway, each kept with its answer.

It uses the standard library alone, so that it shows what any site can do.
"""

import json
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from typing import Any, Final

_SECONDS: Final = 30.0
# The stack is on this machine: a proxy of the environment has no part in it.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True, slots=True)
class Exchange:
    """One call and its answer. The answer is the parsed JSON, or the text where it is none."""

    method: str
    path: str
    sent: Any
    status: int
    answer: Any = field(repr=False)


class TenantSite:
    """Calls the gateway at a base URL."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url.rstrip("/")

    def get(self, path: str, token: str = "", accept: str = "application/json") -> Exchange:
        """Makes a GET request."""
        return self._exchange("GET", path, None, None, {"Accept": accept} | _authorization(token))

    def post_json(self, path: str, body: object, token: str = "") -> Exchange:
        """Posts JSON."""
        headers = {"Content-Type": "application/json"} | _authorization(token)
        return self._exchange("POST", path, body, json.dumps(body, ensure_ascii=False).encode(), headers)

    def post_form(self, path: str, form: dict[str, str]) -> Exchange:
        """Posts a form, as the token endpoint wants it and as the buttons of pages do."""
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        return self._exchange("POST", path, form, urllib.parse.urlencode(form).encode(), headers)

    def _exchange(self, method: str, path: str, shown: Any, body: bytes | None, headers: dict[str, str]) -> Exchange:
        request = urllib.request.Request(self._base_url + path, data=body, headers=headers, method=method)
        try:
            with _opener.open(request, timeout=_SECONDS) as response:
                status, text = response.status, response.read().decode()
        except urllib.error.HTTPError as refusal:
            with refusal:
                status, text = refusal.code, refusal.read().decode()
        try:
            answer = json.loads(text)
        except ValueError:
            answer = text
        return Exchange(method, path, shown, status, answer)


def _authorization(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}
