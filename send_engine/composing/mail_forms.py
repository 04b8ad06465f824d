"""Forms: a job's mail as text with holes, for all those recipients of whom nothing but plain words differs.

A form is a mail composed as a whole for marks instead of a person, and taken apart at the marks. Whether that can be
is read from the templates' tags: `{{ email }}`, the links, the list's name and `{{ preferences.name }}`, nothing else.
What a value would change besides its own place (escapes, line ends, dots, the encoding of a part) makes it not plain,
or asks for another form. Whoever has a value that is not plain is composed as a whole, and so is everybody where a form
once filled is not the very bytes that composing as a whole gives.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter

from send_engine.composing.bodies import QUOTED_PRINTABLE
from send_engine.composing.content import ContentError, Recipient
from send_engine.composing.headers import unstructured
from send_engine.composing.texts import MailTexts

# All of a mail but its Date: what stands before the Subject, the Subject, and what follows it.
Whole = Callable[[Recipient, str, MailTexts], tuple[bytes, bytes, bytes]]
# From address, one-click link, preferences link, delivery id, Subject, and the values of the preferences, in this
# order, to the filled text.
_Form = Callable[[Sequence[str]], str]

_TAG = re.compile(
    r"\{\{ ?(?:preferences\.([A-Za-z_][A-Za-z0-9_]*)|(email|unsubscribe_url|preferences_url|list_name)) ?\}\}"
)
_OPENING = re.compile(r"\{[{%#]")
# A value could end a body element here, and the footer goes before that.
_OPEN_END_TAG = re.compile(r"</[a-z]*\s*\{\{", re.IGNORECASE)
# A mark is as long as what it stands for may be, so that a line which could get too long for SMTP shows.
_LONGEST = 64
_MARK_BYTES = _LONGEST * 4
_CONTROLS = "\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff"
_PLAIN = re.compile(rf"[^.\"&'/<>{_CONTROLS}][^\"&'/<>{_CONTROLS}]{{0,{_LONGEST - 1}}}")
_ESCAPED = re.compile("[&']")
_SUBJECT = 4
_MOST_FORMS = 64


class MailForms:
    """The forms of one job, made as recipients come who need another."""

    def __init__(self, whole: Whole, preferences: Sequence[str], subject: tuple[str, Sequence[int]] | None) -> None:
        """Takes how to compose as a whole, and which preferences are shown; and where the subject shows any, its text
        with `%s` in their places, and which they are.
        """
        self._whole = whole
        self._preferences = preferences
        self._subject = subject
        self._forms: dict[object, _Form | None] = {}

    def fill(self, recipient: Recipient, delivery_id: str, texts: MailTexts) -> bytes | None:
        """Returns all of the mail but its Date, or None when it has to be composed as a whole.

        The address, the links and the delivery id must have been checked. Raises ContentError for the subject.
        """
        address, link, preferences_link = recipient.address, recipient.one_click_url, recipient.preferences_url
        words, kinds = [address, link, preferences_link, delivery_id, ""], []
        for name in self._preferences:
            value = recipient.preferences.get(name, "")
            if value is None or value == "":
                words.append("")
                kinds.append(0)
            elif type(value) is str and _PLAIN.fullmatch(value):
                words.append(value)
                kinds.append(1 if value.isascii() else 2)
            else:
                return None
        if not (address.isascii() and _PLAIN.fullmatch(address)) or _ESCAPED.search(link + preferences_link):
            return None
        if self._subject is not None:
            text, places = self._subject
            words[_SUBJECT] = unstructured("Subject", text % tuple([words[place] for place in places])).decode()
        key = texts.tag, len(link), len(preferences_link), len(delivery_id), *kinds
        try:
            form = self._forms[key]
        except KeyError:
            form = self._add(key, kinds, recipient, delivery_id, texts, words)
        return None if form is None else form(words).encode()

    def _add(
        self,
        key: object,
        kinds: Sequence[int],
        recipient: Recipient,
        delivery_id: str,
        texts: MailTexts,
        words: Sequence[str],
    ) -> _Form | None:
        """Makes the form for this recipient and those alike; None where none can be had."""
        if len(self._forms) == _MOST_FORMS:
            return None
        expected = b"".join(self._whole(recipient, delivery_id, texts))
        try:
            form = self._make(kinds, recipient, delivery_id, texts)
        except ContentError:
            form = None
        if form is not None and form(words).encode() != expected:
            form = None
        self._forms[key] = form
        return form

    def _make(self, kinds: Sequence[int], recipient: Recipient, delivery_id: str, texts: MailTexts) -> _Form | None:
        token = secrets.token_hex(8)
        marks = [
            f"{token}a".ljust(_LONGEST, "x"),
            f"https://{token}b".ljust(len(recipient.one_click_url), "x"),
            f"https://{token}c".ljust(len(recipient.preferences_url), "x"),
            f"{token}d".ljust(len(delivery_id), "x"),
            f"{token}e",
            *(_value_mark(f"{token}v{place}v", kind) for place, kind in enumerate(kinds)),
        ]
        address, link, preferences_link, marked_id, subject_mark, *values = marks
        marked = Recipient(address, dict(zip(self._preferences, values, strict=True)), link, preferences_link)
        head, subject, rest = self._whole(marked, marked_id, texts)
        if QUOTED_PRINTABLE in rest:
            return None
        middle = subject if self._subject is None else subject_mark.encode()
        places = {mark: place for place, mark in enumerate(marks) if mark}
        pieces = re.split(f"({'|'.join(map(re.escape, places))})", (head + middle + rest).decode())
        text = "%s".join(piece.replace("%", "%%") for piece in pieces[::2])
        pick = itemgetter(*[places[mark] for mark in pieces[1::2]])
        return lambda words: text % pick(words)


def shown_preferences(fields: Mapping[str, str]) -> tuple[str, ...] | None:
    """Returns which preferences these templates show; None when anything but plain words can differ in them."""
    shown: dict[str, None] = {}
    for source in fields.values():
        if _OPENING.search(_TAG.sub("", source)) or _OPEN_END_TAG.search(source):
            return None
        shown |= dict.fromkeys(tag[1] for tag in _TAG.finditer(source) if tag[1])
    return tuple(shown)


def subject_of_words(source: str, preferences: Sequence[str], list_name: str) -> tuple[str, Sequence[int]] | None:
    """Returns the subject's text with `%s` where it shows anything of a person, and which word that is each time.

    None when it shows nothing of a person.
    """
    words = ("email", "unsubscribe_url", "preferences_url")
    places = []
    pieces = [""]
    start = 0
    for tag in _TAG.finditer(source):
        pieces[-1] += source[start : tag.start()]
        start = tag.end()
        if tag[2] == "list_name":
            pieces[-1] += list_name
        else:
            places.append(words.index(tag[2]) if tag[2] else _SUBJECT + 1 + preferences.index(tag[1]))
            pieces.append("")
    pieces[-1] += source[start:]
    return ("%s".join(piece.replace("%", "%%") for piece in pieces), places) if places else None


def _value_mark(token: str, kind: int) -> str:
    if kind == 0:
        return ""
    if kind == 1:
        return token.ljust(_LONGEST, "x")
    return token + "é" * ((_MARK_BYTES - len(token)) // 2)
