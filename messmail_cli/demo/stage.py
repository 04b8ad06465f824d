"""How the walk is shown on a terminal: steps, calls with their answers, mails, and a progress bar."""

import json
from typing import Any, Final

from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.rule import Rule
from rich.text import Text

from messmail_cli.demo.site import Exchange

_LONGEST: Final = 48
_SECRETS: Final = {"client_secret", "access_token", "confirm_token", "unsubscribe_token", "token"}


class Stage:
    """Shows the walk as it happens."""

    def __init__(self) -> None:
        self.console = Console(highlight=False)

    def step(self, number: str, title: str) -> None:
        """Begins a step."""
        self.console.print()
        self.console.print(Rule(Text(f" {number}  {title} ", style="bold"), align="left"))

    def say(self, text: str) -> None:
        """Says something in a line."""
        self.console.print(text, markup=False)

    def call(self, exchange: Exchange) -> None:
        """Shows a call and its answer, secrets shortened."""
        path, _, query = exchange.path.partition("?")
        shown = f"{path}?{_shorten_query(query)}" if query else path
        self.console.print(Text.assemble(("→ ", "cyan"), (f"{exchange.method} {shown}", "bold cyan")), soft_wrap=True)
        if exchange.sent is not None:
            self._indented(exchange.sent)
        style = "green" if exchange.status < 400 else "red"
        self.console.print(Text.assemble(("← ", style), (str(exchange.status), f"bold {style}")))
        self._indented(exchange.answer)

    def mail(self, to: str, sender: str, subject: str, text: str) -> None:
        """Shows a mail that arrived."""
        shown = Text("\n".join(_shorten_line(line) for line in text.strip().splitlines()[:14]))
        title = Text(f"✉  {subject}")
        self.console.print(Panel(shown, title=title, subtitle=Text(f"{sender} → {to}"), border_style="magenta"))

    def progress(self) -> Progress:
        """Returns a progress bar, not yet shown."""
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=40),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.console,
        )

    def _indented(self, value: Any) -> None:
        if isinstance(value, str):
            first = next((line for line in value.splitlines() if line.strip()), "")
            text = f"{first.strip()[:_LONGEST]} … ({len(value):,} characters)"
        else:
            text = json.dumps(shorten(value), ensure_ascii=False, indent=2)
        self.console.print(Text("\n".join("    " + line for line in text.splitlines()), style="dim"))


def shorten(value: Any, name: str = "") -> Any:
    """Returns the value with secrets and very long texts cut short."""
    if isinstance(value, dict):
        return {key: shorten(inner, key) for key, inner in value.items()}
    if isinstance(value, list):
        return [shorten(inner) for inner in value]
    if isinstance(value, str) and (name in _SECRETS or len(value) > 2 * _LONGEST):
        return f"{value[:10]}…"
    return value


def _shorten_query(query: str) -> str:
    return "&".join(f"{part[:16]}…" if part.startswith("token=") else part for part in query.split("&"))


def _shorten_line(line: str) -> str:
    before, mark, token = line.partition("token=")
    return f"{before}{mark}{token[:10]}…" if mark else line
