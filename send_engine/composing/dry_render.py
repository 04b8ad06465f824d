"""Renders a template once, with nobody's values, in a child that may use little memory and time.

It catches what fuel does not: a list doubled thirty times and shown would end the whole process. What only happens
with some recipient's preferences is not seen here.
"""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Mapping

from send_engine.composing.content import ContentError, Recipient
from send_engine.composing.templates import compile_templates, names_for, names_for_html, render

_MEMORY = 256 * 1024 * 1024
_SECONDS = 2
_NOBODY = Recipient("nobody", "reader@example.org", {}, "https://example.org/leave", "https://example.org/preferences")


def render_in_child(fields: Mapping[str, str]) -> None:
    """Raises ContentError when a field does not render, or the child runs out of memory or time."""
    try:
        child = subprocess.run(
            [sys.executable, "-m", __name__],
            input=json.dumps(dict(fields)).encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=10 * _SECONDS,
            env={"PYTHONPATH": os.pathsep.join(sys.path), "PATH": os.environ.get("PATH", "")},
        )
    except subprocess.TimeoutExpired:
        raise ContentError("template", "takes too long to render") from None
    try:
        verdicts = [json.loads(line) for line in child.stdout.splitlines()]
    except ValueError:
        verdicts = []
    if verdicts and verdicts[-1].get("error"):
        raise ContentError(verdicts[-1]["field"], verdicts[-1]["error"], verdicts[-1]["line"])
    if child.returncode != 0:
        raise ContentError(verdicts[-1]["field"] if verdicts else "template", "asks for too much memory or time")


def main() -> None:
    """Reads the fields from standard input and writes one JSON line before each render, and one for an error."""
    fields: dict[str, str] = json.load(sys.stdin)
    resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    environment = compile_templates(fields)
    names = names_for(_NOBODY, "list")
    for field in fields:
        print(json.dumps({"field": field}), flush=True)
        try:
            render(environment, field, names_for_html(names) if field == "body_html" else names)
        except ContentError as error:
            print(json.dumps({"field": field, "error": error.message, "line": error.line}), flush=True)
            return


if __name__ == "__main__":
    main()
