"""Whether a caller would rather have a page, and in which language (RFC 9110 section 12.5).

Neither decides what a request does, only how its answer looks.
"""

from __future__ import annotations

from collections.abc import Iterator

from servicekit.languages import ENGLISH, spoken


def prefers_html(accept: str) -> bool:
    """Tells whether an Accept header ranks HTML above JSON, as browsers' do. Anything else gets JSON."""
    ranges = dict(_ranked(accept))
    anything = ranges.get("*/*", 0.0)
    html = ranges.get("text/html", ranges.get("text/*", anything))
    json = ranges.get("application/json", ranges.get("application/*", anything))
    return html > json


def preferred_language(accept_language: str) -> str:
    """Returns the language of the pages for an Accept-Language header: Chinese in any form, else English."""
    ranked = sorted(_ranked(accept_language), key=lambda ranked: -ranked[1])
    wished = (spoken(tag) for tag, quality in ranked if quality > 0)
    return next((language for language in wished if language is not None), ENGLISH)


def _ranked(header: str) -> Iterator[tuple[str, float]]:
    for element in header.lower().split(","):
        name, *parameters = (part.strip() for part in element.split(";"))
        quality = next((parameter[2:] for parameter in parameters if parameter.startswith("q=")), "1")
        try:
            yield name, min(1.0, max(0.0, float(quality)))
        except ValueError:
            yield name, 0.0
