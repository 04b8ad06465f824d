"""Texts that end up in a mail header, on a page or in a log: nothing in them may break out of its line."""

from __future__ import annotations

import unicodedata

from servicekit.errors import invalid_field

# Control and surrogate characters, line and paragraph separators: what header injection is made of.
_BREAKING_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})


def check_plain_text(field: str, text: str) -> None:
    """Raises INVALID_FIELD for control characters, line breaks, encoded words (RFC 2047), and nothing but spaces."""
    if text.isspace():
        raise invalid_field(field, "write something that can be seen")
    if any(unicodedata.category(character) in _BREAKING_CATEGORIES for character in text):
        raise invalid_field(field, "leave out control characters and line breaks")
    if "=?" in text:
        raise invalid_field(field, 'leave out encoded words ("=?…?="): write the characters themselves')


def one_line(text: str, longest: int) -> str:
    """Returns the text with breaking characters replaced, and cut: for what somebody else's program says of itself."""
    return "".join(
        "\N{REPLACEMENT CHARACTER}" if unicodedata.category(character) in _BREAKING_CATEGORIES else character
        for character in text[:longest]
    )
