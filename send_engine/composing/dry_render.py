"""The child that `template_check` starts: renders a template once, with nobody's values, within tight limits.

Never imported; what it writes to standard output is its whole contract.
"""

import json
import resource
import sys

from send_engine.composing.content import ContentError, Recipient
from send_engine.composing.headers import check_header_text
from send_engine.composing.templates import compile_templates, names_for, names_for_html, render

_MEMORY = 256 * 1024 * 1024
_SECONDS = 2
_NOBODY = Recipient("reader@example.org", {}, "https://example.org/leave", "https://example.org/preferences")


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
            rendered = render(environment, field, names_for_html(names) if field == "body_html" else names)
            if field == "subject":
                check_header_text(field, rendered)
        except ContentError as error:
            print(json.dumps({"field": field, "error": error.message, "line": error.line}), flush=True)
            return


if __name__ == "__main__":
    main()
