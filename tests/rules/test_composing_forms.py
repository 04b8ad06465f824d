"""A form makes the very bytes that composing as a whole makes, whatever a person's values are."""

import random
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from send_engine.composing import Content, ContentError, JobComposer, ListProfile, Recipient
from send_engine.composing.mail_forms import shown_preferences

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
TAGS = ["{{ email }}", "{{unsubscribe_url}}", "{{ preferences_url }}", "{{ list_name }}", "{{ preferences.name }}"]
WORDS = [
    "Hello ",
    "\n",
    ".",
    " 100% ",
    "</bo",
    "</body>",
    "<p>",
    "\r\n",
    "é",
    "x" * 120,
    "&",
    "=?utf-8?q?a?=",
    "--",
    "  ",
]
PIECES = st.sampled_from([*TAGS, "{{ preferences.lang }}", "{{ preferences.city }}", *WORDS])
BODIES = st.lists(PIECES, max_size=12).map("".join)
VALUES = st.one_of(
    st.sampled_from(["Ann", "", ".", ".x", "O'Neil", "a&b", "dy", ">", " ", "王小明", "é" * 80, "a" * 64, "a" * 65]),
    st.sampled_from([None, 7, True, 1.5, ["x"], {"a": "b"}, "a\nb", "\u2028", "\x85", "zh-TW", "%s", "\x00", "=?a?="]),
    st.text(max_size=70),
)


def compose(composer: JobComposer, recipient: Recipient) -> bytes | str:
    """Returns the mail, or what is wrong with it."""
    try:
        return composer.compose(recipient, "d-1", NOW).data
    except ContentError as error:
        return str(error)


@given(
    subject=st.lists(st.sampled_from([*TAGS, "Hi ", "ü", " 5% ", "x" * 70]), max_size=4).map("".join),
    html=st.none() | BODIES,
    text=BODIES,
    people=st.lists(st.dictionaries(st.sampled_from(["name", "city", "lang"]), VALUES), min_size=1, max_size=4),
    address=st.sampled_from(
        ["ann@example.org", "o'neil@example.org", "jürgen@example.org", "%s@example.org", "a/b@c.de"]
    ),
    path=st.sampled_from(["u", "u?a=1&b=2", "u'"]),
    list_name=st.sampled_from(["News", "Tom & Jerry's", "新聞", "100%"]),
)
@example(
    subject="{{ preferences.name }}",
    html="</bo{{ preferences.name }}>",
    text="{{ preferences.name }}.",
    people=[{"name": "Ann"}, {"name": "dy"}, {}],
    address="ann@example.org",
    path="u",
    list_name="News",
)
@example(
    subject="Hi {{ preferences.name }}",
    html="<p>\n{{ preferences.name }}</p>",
    text="Hi\n{{ preferences.name }}!",
    people=[{"name": "Bob"}, {"name": ".x"}, {"name": "O'Neil"}, {"name": "王小明"}, {"name": ""}, {"name": "a\nb"}],
    address="ann@example.org",
    path="u",
    list_name="Tom & Jerry's",
)
def test_a_mail_is_the_same_whether_it_is_filled_in_or_composed_as_a_whole(
    subject: str, html: str | None, text: str, people: list[dict[str, Any]], address: str, path: str, list_name: str
) -> None:
    profile = ListProfile("l-1", list_name, "News", "news@example.org", None, "news@example.org", "en")
    content = Content(subject, html, text, template=True)
    quick, whole = (JobComposer(profile, content, "example.org") for _ in range(2))
    whole._forms = None
    # The first makes the form that the others may fill.
    for preferences in [{"name": "Ann", "city": "Ulm", "lang": "en"}, *people]:
        recipient = Recipient(address, preferences, f"https://m.example/{path}", f"https://m.example/p/{path}")
        assert compose(quick, recipient) == compose(whole, recipient)


@pytest.mark.parametrize("template", [False, True], ids=["typed", "template"])
def test_people_with_plain_values_share_few_forms(template: bool) -> None:
    profile = ListProfile("l-1", "News", "News", "news@example.org", None, "news@example.org", "en")
    body = "Dear {{ preferences.name }}, {{ unsubscribe_url }}" if template else "Dear all"
    composer = JobComposer(profile, Content("Hi", f"<p>{body}</p>", body, template), "example.org")
    names = random.Random(7)
    for number in range(300):
        preferences = {"name": names.choice(["Ann", "Bob", "王小明", "", "Zoë"]), "lang": names.choice(["en", "zh-TW"])}
        link = f"https://m.example/{number:05}"
        composer.compose(Recipient(f"m{number}@example.org", preferences, link, link), f"d-{number:05}", NOW)
    forms = composer._forms
    assert forms is not None
    assert len(forms._forms) == (6 if template else 2)
    assert all(form is not None for form in forms._forms.values())


@pytest.mark.parametrize(
    "source",
    [
        "{% if email %}x{% endif %}",
        "{{ email|upper }}",
        "{{- email }}",
        "{# x #}",
        "{{ preferences['name'] }}",
        "</b{{ email }}",
    ],
)
def test_a_template_with_more_than_plain_words_has_no_form(source: str) -> None:
    assert shown_preferences({"body_text": source}) is None
