"""How answers are printed: for people as text, for programs as one JSON object on one line."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich import box
from rich.console import Console, RenderableType
from rich.table import Table

_WIDE: Final = 1000


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command found or did: facts for programs, and the same for people."""

    facts: Mapping[str, Any]
    text: RenderableType
    exit_status: int = 0


def print_answer(answer: Answer, *, as_json: bool) -> None:
    """Prints the answer on standard output, and ends the command when its exit status says so."""
    if as_json:
        print(json.dumps(answer.facts, ensure_ascii=False))
    else:
        # Identifiers must stay whole and copyable, however narrow the terminal is.
        Console(width=_WIDE, highlight=False, markup=False).print(answer.text)
    if answer.exit_status:
        raise SystemExit(answer.exit_status)


def progress_console() -> Console:
    """Returns the console for progress: standard error, so that standard output holds the answer alone."""
    return Console(file=sys.stderr, highlight=False)


def facts_of(message: Message) -> dict[str, Any]:
    """Turns a message of the contract into facts, under the contract's names."""
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Lays rows out under their column names."""
    made = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        made.add_row(*row)
    return made
