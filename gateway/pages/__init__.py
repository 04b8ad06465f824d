"""What a browser is shown: pages around a link, and what went wrong with it.

Plain HTML without scripts. Pages never decide what a link does: they show an answer, and post its token back.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Any

from minijinja import Environment

from gateway.exchange import Answer, HttpRequest
from gateway.pages.negotiation import preferred_language, prefers_html
from gateway.pages.texts import LANGUAGES, TEXTS, problem_text
from servicekit.errors import MessmailError
from servicekit.languages import ENGLISH

HTML = "text/html; charset=utf-8"
PAGE_HEADERS = (
    (
        "content-security-policy",
        "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    ("referrer-policy", "no-referrer"),
    ("vary", "accept, accept-language"),
)
STYLESHEET = "/assets/pages.css"


class Pages:
    """Renders the pages."""

    def __init__(self) -> None:
        self._environment = Environment(loader=read_asset, undefined_behavior="strict")

    def show(self, page: str, request: HttpRequest, fields: Mapping[str, str], answer: Mapping[str, Any]) -> Answer:
        """Shows the answer of an RPC on its page; fields are those of its request, for the form to post again."""
        language = answer.get("language") or preferred_language(request.headers.get("accept-language", ""))
        acted = request.method == "POST"
        return self._page(f"{page}.html", language, path=request.path, fields=fields, answer=answer, acted=acted)

    def show_problem(self, error: MessmailError, request: HttpRequest, headers: tuple[tuple[str, str], ...]) -> Answer:
        """Shows what went wrong and what to do next."""
        language = error.metadata.get("language") or preferred_language(request.headers.get("accept-language", ""))
        text = problem_text(error.status.name, language if language in TEXTS else ENGLISH)
        return self._page(
            "problem.html",
            language,
            status=error.status.http,
            headers=headers,
            text={"title": text.title, "next_step": text.next_step},
            request_id=request.request_id,
        )

    def _page(
        self,
        template: str,
        language: str,
        status: int = 200,
        headers: tuple[tuple[str, str], ...] = (("cache-control", "no-store"),),
        **context: Any,
    ) -> Answer:
        language = language if language in TEXTS else ENGLISH
        html = self._environment.render_template(
            template, lang=language, t=TEXTS[language], languages=LANGUAGES, stylesheet=STYLESHEET, **context
        )
        return Answer(status, html.encode(), HTML, (*headers, *PAGE_HEADERS))


def read_asset(name: str) -> str:
    """Returns the text of a template or stylesheet of this package."""
    return resources.files(__name__).joinpath(name).read_text(encoding="utf-8")


__all__ = ["PAGE_HEADERS", "STYLESHEET", "Pages", "prefers_html", "read_asset"]
