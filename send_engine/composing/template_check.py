"""Whether a template may be used: checked when a job is created, so that its author hears of it, with the line.

Besides compiling, it is rendered once with nobody's values in a child process (`dry_render`) that may use little memory
and time. That catches what fuel does not: a list doubled thirty times and shown would end the whole process. What only
happens with some recipient's preferences is not seen here.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping

from send_engine.composing.content import Content, ContentError
from send_engine.composing.headers import check_header_text
from send_engine.composing.templates import compile_templates, sources

_SECONDS = 20


def check_template(content: Content) -> None:
    """Raises ContentError, with field and line, for a template that cannot be rendered or asks for too much.

    Starts a child process for a moment; call it when a job is created, never per recipient.
    """
    check_header_text("subject", content.subject)
    fields = dict(sources(content))
    compile_templates(fields)
    _render_in_child(fields)


def _render_in_child(fields: Mapping[str, str]) -> None:
    """Raises ContentError when a field does not render, or the child runs out of memory or time."""
    try:
        child = subprocess.run(
            [sys.executable, "-m", "send_engine.composing.dry_render"],
            input=json.dumps(dict(fields)).encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_SECONDS,
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
