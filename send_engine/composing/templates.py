"""Tenants' templates: checked once at create, rendered for each recipient (minijinja, bounded).

Bounds: 256 KiB of source, fuel for the work, 1 MB of output. Since minijinja 3.1 fuel also pays for most memory, but
not for lists within lists shown as text, and an allocation that fails there ends the process; so
`template_check` also renders once in a limited child. Filters and methods that fuel does not see are taken away.

Names a template may use: `preferences`, `email`, `unsubscribe_url`, `preferences_url`, `list_name`. A missing
preference renders empty.
"""

import html
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from minijinja import Environment, TemplateError, safe

from send_engine.composing.bodies import encoded
from send_engine.composing.content import Content, ContentError, Recipient

NAMES = frozenset({"preferences", "email", "unsubscribe_url", "preferences_url", "list_name"})
_BUILT_IN = frozenset({"range", "dict", "namespace", "cycler", "joiner"})
MAX_SOURCE = 256 * 1024
MAX_OUTPUT = 1_000_000
_FUEL = 100_000

_TAG = re.compile(r"\{#.*?#\}|\{\{.*?\}\}|\{%.*?%\}", re.DOTALL)
_STRING = re.compile(r"""'[^']*'|"[^"]*\"""")


def sources(content: Content) -> Iterator[tuple[str, str]]:
    """Yields field name and text of what the content has: the subject and one or two bodies."""
    yield "subject", content.subject
    if content.body_html is not None:
        yield "body_html", content.body_html
    if content.body_text is not None:
        yield "body_text", content.body_text


def compile_templates(fields: Mapping[str, str]) -> Environment:
    """Returns an environment that holds one template per field; `body_html` escapes what it shows.

    Raises ContentError with field and line for a syntax error, an unknown name or a source that is too long.
    """
    environment = Environment(
        fuel=_FUEL,
        debug=False,
        undefined_behavior="chainable",
        auto_escape_callback=lambda field: field == "body_html",
        keep_trailing_newline=True,
    )
    environment.remove_global("debug")  # It would show the environment.
    # Measured: `tojson(indent=10**9)` took 1 GB, and a padded `'…'.format(…)` 1.9 GB, both within their fuel.
    environment.remove_filter("tojson")
    environment.pycompat = False
    for field, source in fields.items():
        if len(encoded(field, source)) > MAX_SOURCE:
            raise ContentError(field, f"is longer than {MAX_SOURCE // 1024} KiB, the most a template may have")
        try:
            environment.add_template(field, source)
            unknown = environment.undeclared_variables_in_template(field) - NAMES - _BUILT_IN
        except TemplateError as error:
            raise _as_content_error(field, error) from None
        if unknown:
            line, name = min((_line_of(name, source), name) for name in unknown)
            raise ContentError(field, f"uses the unknown name {name!r}", line)
    return environment


def uses(environment: Environment, fields: Iterable[str], name: str) -> bool:
    """Tells whether one of these fields uses a name, in whatever way."""
    return any(name in environment.undeclared_variables_in_template(field) for field in fields)


def render(environment: Environment, field: str, names: Mapping[str, Any]) -> str:
    """Returns the rendered field. Raises ContentError; one recipient's values may fail where others' do not."""
    try:
        rendered = environment.render_template(field, **names)
    except TemplateError as error:
        raise _as_content_error(field, error) from None
    except Exception:  # What a value's own methods raise comes through as it is.
        raise ContentError(field, "cannot be rendered") from None
    if len(rendered) > MAX_OUTPUT:
        raise ContentError(field, f"renders to more than {MAX_OUTPUT} characters")
    return rendered


def names_for(recipient: Recipient, list_name: str) -> dict[str, Any]:
    """Returns the names for one recipient. The preferences are a copy, since a template may call their methods."""
    return {
        "preferences": {key: value for key, value in recipient.preferences.items() if value is not None},
        "email": recipient.address,
        "unsubscribe_url": recipient.one_click_url,
        "preferences_url": recipient.preferences_url,
        "list_name": list_name,
    }


def names_for_html(names: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the same names for HTML: the links escaped once, by us, so that their slashes stay readable."""
    return {
        **names,
        "unsubscribe_url": safe(html.escape(names["unsubscribe_url"])),
        "preferences_url": safe(html.escape(names["preferences_url"])),
    }


def _as_content_error(field: str, error: TemplateError) -> ContentError:
    # `detail` may quote the template, which the tenant wrote, but never a recipient's values.
    detail = error.detail if error.kind in {"SyntaxError", "UnknownFunction", "UnknownFilter", "UnknownTest"} else None
    reason = {"OutOfFuel": "asks for too much work"}.get(error.kind, detail or f"cannot be rendered ({error.kind})")
    return ContentError(field, reason, error.line)


def _line_of(name: str, source: str) -> int:
    """Returns the line where a tag first uses this name."""
    word = re.compile(rf"(?<![\w.]){re.escape(name)}\b")
    for tag in _TAG.finditer(source):
        # Strings are blanked out, line breaks and lengths kept.
        code = _STRING.sub(lambda string: re.sub(".", " ", string.group()), tag.group())
        use = None if code.startswith("{#") else word.search(code)
        if use:
            return source.count("\n", 0, tag.start() + use.start()) + 1
    return 1
