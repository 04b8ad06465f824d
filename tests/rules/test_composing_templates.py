"""Tenants' templates: what they may show, what is refused with its line, and what never harms the process."""

import email
import os
import time
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import default
from typing import Any

import pytest

from send_engine.composing import Content, ContentError, JobComposer, ListProfile, Recipient, check_template

NOW = datetime(2026, 11, 23, 9, 30, tzinfo=UTC)
LEAVE = "https://mail.example/u/AbC?list=7&x=1"
PREFERENCES = "https://mail.example/p/xyz?a=1&b=2"
I3 = pytest.mark.claim("I3", "template escapes and bombs: nothing leaks, the process lives", asked=60)
PROFILE = ListProfile("list-1", "Fish & Chips", "Acme", "news@acme.example", None, "bounce@acme.example", "en")


def compose(
    body_html: str | None = None, body_text: str | None = None, subject: str = "Hello", **preferences: Any
) -> EmailMessage:
    composer = JobComposer(PROFILE, Content(subject, body_html, body_text, True), "mail.example")
    to = Recipient("reader@example.org", preferences, LEAVE, PREFERENCES)
    message = email.message_from_bytes(composer.compose(to, "d-1", NOW).data, policy=default)
    assert isinstance(message, EmailMessage)
    return message


def part(message: EmailMessage, subtype: str) -> str:
    found = message.get_body((subtype,))
    assert found is not None
    content = found.get_content()
    assert isinstance(content, str)
    return content.replace("\r\n", "\n")


def text(template: str, **preferences: Any) -> str:
    return part(compose(body_text=template, **preferences), "plain").partition("\n-- \n")[0].rstrip("\n")


def html(template: str, **preferences: Any) -> str:
    return (
        part(compose(body_html=template, body_text="x", **preferences), "html").partition("\n<div lang")[0].rstrip("\n")
    )


def check(body_text: str = "x", subject: str = "x", body_html: str | None = None) -> None:
    check_template(Content(subject, body_html, body_text, True))


# ---- what a template shows


def test_preferences_and_names_are_shown() -> None:
    assert text("Hi {{ preferences.name }}, {{ email }} reads {{ list_name }}", name="王") == (
        "Hi 王, reader@example.org reads Fish & Chips"
    )
    assert (
        compose(body_text="x", subject="News for {{ preferences.name }}", name="王小明")["Subject"] == "News for 王小明"
    )


@pytest.mark.parametrize(
    "template",
    [
        "{{ preferences.missing }}",
        "{{ preferences.missing.deeper.still }}",
        "{{ preferences.nothing }}",
        "{{ preferences['missing']|upper }}",
        "{% for tag in preferences.missing %}x{% endfor %}",
        "{% if preferences.missing %}x{% endif %}",
    ],
)
def test_a_missing_preference_renders_empty(template: str) -> None:
    assert text(template, nothing=None) == ""


def test_values_are_escaped_in_html_and_nowhere_else() -> None:
    name = '<b>"O\'Neil" & co</b>'
    assert html("{{ preferences.name }}", name=name) == "&lt;b&gt;&quot;O&#x27;Neil&quot; &amp; co&lt;&#x2f;b&gt;"
    assert text("{{ preferences.name }}", name=name) == name


def test_a_value_cannot_start_a_header() -> None:
    for name in ("x\r\nBcc: evil@example.net", "=?utf-8?q?=0a?=", "\x00", "\u2028"):
        with pytest.raises(ContentError, match="subject"):
            compose(body_text="x", subject="News for {{ preferences.name }}", name=name)


def test_a_value_is_no_template() -> None:
    assert text("{{ preferences.name }}", name="{{ email }}{% raw %}") == "{{ email }}{% raw %}"


def test_bodies_that_are_no_template_are_sent_as_typed() -> None:
    composer = JobComposer(PROFILE, Content("{{ x }}", None, "{{ y }} {% z", False), "mail.example")
    to = Recipient("reader@example.org", {}, LEAVE, PREFERENCES)
    message = email.message_from_bytes(composer.compose(to, "d-1", NOW).data, policy=default)
    assert message["Subject"] == "{{ x }}"
    assert "{{ y }} {% z" in str(message.get_payload())


# ---- the unsubscribe link


def test_a_part_that_shows_the_link_gets_no_footer_and_one_that_does_not_does() -> None:
    message = compose(body_html="<a href='{{ unsubscribe_url }}'>leave</a>", body_text="Hi")
    assert part(message, "html") == f"<a href='{LEAVE.replace('&', '&amp;')}'>leave</a>\n"
    assert part(message, "plain") == (
        'Hi\n\n-- \nYou receive this mail because you subscribed to "Fish & Chips".\n' + f"Unsubscribe: {LEAVE}\n"
    )
    message = compose(body_html="<p>Hi</p></body>", body_text="{{ unsubscribe_url }}")
    assert part(message, "plain") == LEAVE + "\n"
    assert part(message, "html").index("Fish &amp; Chips") < part(message, "html").index("</body>")


@pytest.mark.parametrize(
    "template",
    [
        "{% if unsubscribe_url %}x{% endif %}",
        "{{ unsubscribe_url|length }}",
        "{{ unsubscribe_url|upper }}",
        "{# {{ unsubscribe_url }} #}",
        "{% set u = unsubscribe_url %}",
        "{% if preferences.vip %}{{ unsubscribe_url }}{% endif %}",
    ],
)
def test_using_the_link_without_showing_it_does_not_save_the_footer(template: str) -> None:
    assert f"Unsubscribe: {LEAVE}" in part(compose(body_text=template), "plain")


def test_the_preferences_link_is_there_too() -> None:
    assert text("{{ preferences_url }}") == PREFERENCES
    assert html("<a href='{{ preferences_url }}'>") == f"<a href='{PREFERENCES.replace('&', '&amp;')}'>"


# ---- the derived text part


def test_a_text_part_derived_from_an_html_template_is_a_template_itself() -> None:
    body = (
        "<h1>Hi {{ preferences.name }}</h1>{% if preferences.vip %}<p>Thank you &amp; welcome</p>{% endif %}"
        "{# not shown #}<p><a href='{{ unsubscribe_url }}'>Leave</a></p>"
    )
    plain = part(compose(body_html=body, name="<王>", vip=True), "plain")
    assert "Hi <王>" in plain
    assert "Thank you & welcome" in plain
    assert f"[Leave]({LEAVE})" in plain
    assert "not shown" not in plain
    assert "-- \n" not in plain
    assert "Thank you" not in part(compose(body_html=body, name="x"), "plain")


def test_a_loop_that_the_conversion_would_tear_apart_is_converted_after_rendering() -> None:
    body = "<table>{% for row in preferences.rows %}<tr><td>{{ row }}</td></tr>{% endfor %}</table>"
    assert part(compose(body_html=body, rows=["one", "two"]), "plain").split()[:2] == ["one", "two"]


# ---- what is refused at create, with the line


@pytest.mark.claim("I4", "templates that cannot work: refused when the job is created, with field and line")
@pytest.mark.parametrize(
    ("field", "source", "line", "reason"),
    [
        ("body_text", "a\nb {{ nme }}", 2, "unknown name 'nme'"),
        ("body_text", "{{ email }}\n\n{% if recipient.x %}{% endif %}", 3, "unknown name 'recipient'"),
        ("body_text", "email nme\n{{ email.nme }}\n{{ preferences['nme'] }}\n{{ nme }}", 4, "unknown name 'nme'"),
        ("body_html", "<p>\n{{ debug() }}", 2, "unknown name 'debug'"),
        ("body_html", "<p>{{ env }}", 1, "unknown name 'env'"),
        ("subject", "{{ nme }}", 1, "unknown name 'nme'"),
        ("body_text", "a\n{{ email", 2, "end of input"),
        ("body_text", "\n\n{% endif %}", 3, "endif"),
        ("body_text", "{{ email|nofilter }}", 1, "nofilter"),
        ("body_text", "\n{{ email is notest }}", 2, "notest"),
        ("body_text", "{{ 1/0 }}", 1, "cannot be rendered"),
        ("body_text", "{% include 'other' %}", 1, "cannot be rendered"),
        ("body_text", "{{ email|tojson }}", 1, "tojson"),
        ("body_text", "x" * 300_000, None, "256 KiB"),
        ("subject", "a\nb", None, "line break"),
        ("subject", '{{ "a\\nb" }}', None, "line break"),
    ],
)
def test_a_template_that_cannot_work_is_refused_with_its_line(
    field: str, source: str, line: int | None, reason: str
) -> None:
    with pytest.raises(ContentError) as refused:
        check(**{field: source})
    assert (refused.value.field, refused.value.line) == (field, line)
    assert reason in refused.value.message


def test_a_good_template_is_accepted() -> None:
    check(
        subject="News for {{ preferences.name|default('you') }}",
        body_html="{% for i in range(3) %}{% set x = i %}{{ loop.index }}{{ x }}{% endfor %}{{ unsubscribe_url }}",
        body_text="{% macro hi(n) %}Hi {{ n }}{% endmacro %}{{ hi(email) }}{{ namespace(a=1).a }}{{ preferences_url }}",
    )


_NESTED = "{% set ns = namespace(a=['x' * 9000]) %}{% for i in range(30) %}{% set ns.a = [ns.a, ns.a] %}{% endfor %}"
BOMBS = [
    "{{ 'x' * 10**9 }}",
    "{{ 'x' * 10**18 }}",
    "{% for i in range(9999) %}{% for j in range(9999) %}x{% endfor %}{% endfor %}",
    "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
    _NESTED + "{{ ns.a }}",
    _NESTED + "{{ ns.a|string|length }}",
    "{{ '{:>1000000000}'.format(1) }}",
    "{{ '%1000000000d'|format(1) }}",
    "{{ ('x' * 50000)|replace('x', 'x' * 50000)|length }}",
    "{{ range(99999)|join('x' * 50000)|length }}",
    "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
    "{{ 'a\nb'|indent(1000000000) }}",
    "{{ 'x' * 90000 ~ 'x' * 90000 }}" * 6,
    "{{ " + "(" * 50_000,
    "{% if email %}" * 5_000,
    "{% include 'body_text' %}",
    "{% macro f() %}{{ g() }}{% endmacro %}{% macro g() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% for a in range(10**9) %}{% endfor %}",
    "{{ range(10**9)|list|length }}",
    "{{ [0] * 10**9 }}",
    "{{ '" + "a" * 50_000 + "'|upper }}" + "{{ 10**10**10 }}",
]  # fmt: skip


@I3
@pytest.mark.parametrize("bomb", BOMBS, ids=lambda bomb: bomb[:40] + bomb[-40:])
def test_a_bomb_is_refused_in_seconds_and_the_process_lives(bomb: str) -> None:
    started = time.monotonic()
    with pytest.raises(ContentError):
        check(bomb)
    assert time.monotonic() - started < 15


@I3
@pytest.mark.parametrize(
    "probe",
    [
        "{{ preferences.__class__ }}",
        "{{ preferences.__class__.__mro__ }}",
        "{{ preferences.__init__.__globals__ }}",
        "{{ email.__class__ }}",
        "{{ unsubscribe_url.__html__ }}",
        "{{ preferences|attr('__class__') }}",
        "{{ preferences['__class__'] }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ range.__globals__ }}",
        "{{ namespace.__init__ }}",
        "{{ email.format(email) }}",
        "{{ '%s'|format(preferences.__dict__) }}",
        "{{ preferences.get.__self__ }}",
        "{{ preferences.items.__func__ }}",
        "{{ self }}",
        "{{ self.__class__ }}",
        "{{ loop.__class__ }}",
        "{{ cycler.__class__ }}",
        "{{ joiner.__class__ }}",
        "{{ dict.__class__ }}",
        # str.format by another way (CVE-2024-56326, CVE-2025-27516)
        "{% set f = '{0.__class__}'.format %}{{ f(preferences) }}",
        "{{ '{0.__class__}'|attr('format')(preferences) }}",
        "{{ ('{0.__class__}'|attr('for' ~ 'mat'))(preferences) }}",
        "{{ ['{0}']|map('format', preferences.__class__)|list }}",
        "{{ '{0.__class__}'.format_map({'0': preferences}) }}",
        "{{ '%(a)s'|format(a=preferences.__class__) }}",
        # attributes by way of a filter
        "{{ [email]|map(attribute='__class__')|list }}",
        "{{ [email]|map('attr', '__class__')|list }}",
        "{{ [email]|groupby('__class__') }}",
        "{{ [email]|selectattr('__class__')|list }}",
        "{{ [email]|sort(attribute='__class__') }}",
        "{{ [preferences]|sum(attribute='__class__') }}",
        "{{ preferences|dictsort(by='__class__') }}",
        # the environment, the settings, the disk
        "{{ env.PATH }}",
        "{{ env('PATH') }}",
        "{{ getenv('PATH') }}",
        "{{ environ['PATH'] }}",
        "{{ os.environ }}",
        "{{ config.items() }}",
        "{{ request.environ }}",
        "{{ debug() }}",
        "{% debug %}",
        "{% include '/etc/passwd' %}",
        "{% include '../../../etc/passwd' %}",
        "{% include ['/etc/passwd', 'x'] ignore missing %}",
        "{% extends '/proc/self/environ' %}",
        "{% import 'os' as os %}{{ os.environ }}",
        "{% from 'os' import environ %}{{ environ }}",
        # the interpreter's own names
        "{{ __builtins__ }}",
        "{{ __import__('os').environ }}",
        "{{ lipsum.__globals__ }}",
        "{{ cycler('a').next.__func__ }}",
        "{{ joiner().__call__ }}",
    ],
)
def test_no_probe_reaches_the_interpreter(probe: str) -> None:
    try:
        shown = text(probe, name="x")
    except ContentError:
        return
    assert "class" not in shown
    assert "<" not in shown
    assert os.environ["PATH"] not in shown


@pytest.mark.claim("I4", "values of one recipient that do not render: that recipient fails, the others do not")
def test_one_recipients_values_fail_that_recipient_only() -> None:
    composer = JobComposer(PROFILE, Content("x", None, "{{ preferences.n + 1 }}", True), "mail.example")

    def to(**preferences: Any) -> Recipient:
        return Recipient("reader@example.org", preferences, LEAVE, PREFERENCES)

    assert b"\r\n42\r\n" in composer.compose(to(n=41), "d-1", NOW).data.replace(b"42.0", b"42")
    with pytest.raises(ContentError) as refused:
        composer.compose(to(n="secret"), "d-1", NOW)
    assert (refused.value.field, refused.value.line) == ("body_text", 1)
    assert "secret" not in str(refused.value)
    assert composer.compose(to(n=1), "d-1", NOW)


def test_a_template_cannot_change_a_recipient() -> None:
    preferences = {"name": "王"}
    composer = JobComposer(PROFILE, Content("x", None, "{{ preferences.clear() }}", True), "mail.example")
    composer.compose(Recipient("reader@example.org", preferences, LEAVE, PREFERENCES), "d-1", NOW)
    assert preferences == {"name": "王"}


def test_output_is_bounded() -> None:
    with pytest.raises(ContentError, match="more than"):
        text("{{ preferences.x }}" * 60, x="y" * 20_000)
