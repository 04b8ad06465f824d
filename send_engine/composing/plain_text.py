"""The text part of a mail whose author gave only HTML, derived once per job with inscriptis.

A template's tags ride through the conversion as single private-use characters. Where that disturbs the order of its
blocks (a loop around table rows), there is no text template, and the caller converts each rendered mail instead.
"""

import re

from inscriptis import get_text  # type: ignore[import-untyped]
from inscriptis.model.config import ParserConfig  # type: ignore[import-untyped]

_CONFIG = ParserConfig(display_links=True)
_TAG = re.compile(r"\{#.*?#\}|\{\{.*?\}\}|\{%.*?%\}", re.DOTALL)
_FIRST_PLACE = 0xF0000
_PLACES = 0xFFFD
_PLACE = re.compile("[\U000f0000-\U000ffffd]")
_BLANK_LINES = re.compile(r"\n{3,}")


def derive_text(html: str) -> str:
    """Returns what the HTML says as plain text, links as `[shown](url)`."""
    text: str = get_text(html.replace("\x00", ""), _CONFIG)
    lines = (line.rstrip() for line in text.split("\n"))
    return _BLANK_LINES.sub("\n\n", "\n".join(lines)).strip("\n") + "\n"


def derive_text_template(html: str) -> str | None:
    """Returns a text template that shows what this HTML template shows, or None when its blocks cannot be kept."""
    tags = [tag for tag in _TAG.findall(html) if not tag.startswith("{#")]
    if len(tags) > _PLACES or _PLACE.search(html):
        return None
    numbers = iter(range(len(tags)))
    marked = _TAG.sub(lambda tag: "" if tag.group().startswith("{#") else chr(_FIRST_PLACE + next(numbers)), html)
    text = derive_text(marked)
    places = [ord(place) - _FIRST_PLACE for place in _PLACE.findall(text)]
    if [place for place in places if tags[place].startswith("{%")] != [
        place for place, tag in enumerate(tags) if tag.startswith("{%")
    ] or places != sorted(places):
        return None
    return _PLACE.sub(lambda place: tags[ord(place.group()) - _FIRST_PLACE], text)
