"""Reads a CSV file of members, row by row, however large; what is wrong with a row is told with the row.

Only the shape is judged here: whether an address is one, and who may be imported, is Member Center's to say.
"""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from messmail_cli.failures import CommandFailed
from servicekit.json_bounds import BoundsError, Json, check_json_object, without_twins

COLUMNS: Final = ("email", "preferences")
_UTF_16: Final = (b"\xff\xfe", b"\xfe\xff")
_AS_UTF_8: Final = 'Save it as "CSV UTF-8", then import it again.'


@dataclass(frozen=True, slots=True)
class MemberRow:
    """One member as the file has it: the line it ends on, and either preferences that can be read or the problem."""

    line: int
    email: str
    preferences_text: str = ""
    preferences: dict[str, Json] | None = None
    problem: str = ""


class MemberFile:
    """An open file of members. `position` is how many bytes of `size` have been read."""

    def __init__(self, path: Path) -> None:
        """Opens the file and reads its header; raises CommandFailed when it is no CSV file with an email column."""
        self._path = path
        self.size = path.stat().st_size
        self._binary = path.open("rb")
        # A byte order mark, as Excel writes one, is no part of the first column's name.
        self._text = io.TextIOWrapper(self._binary, encoding="utf-8-sig", newline="")
        self._rows = csv.reader(self._text, strict=True)
        try:
            self._columns = self._header()
        except CommandFailed:
            self.close()
            raise

    @property
    def position(self) -> int:
        """How many bytes have been read."""
        return self._binary.tell()

    @property
    def ignored_columns(self) -> list[str]:
        """The columns that mean nothing here."""
        return [name for name in self._columns if name not in COLUMNS]

    def __iter__(self) -> Iterator[MemberRow]:
        """Reads the rows; raises CommandFailed where the file cannot be read on."""
        while (fields := self._next()) is not None:
            if not any(fields):
                continue
            line = self._rows.line_num
            if len(fields) != len(self._columns):
                problem = f"has {len(fields)} fields instead of {len(self._columns)}"
                yield MemberRow(line, self._email_of(fields), problem=problem)
                continue
            row = dict(zip(self._columns, fields, strict=True))
            yield _member(line, row["email"].strip(), row.get("preferences", "").strip())

    def close(self) -> None:
        """Closes the file."""
        self._text.close()

    def _email_of(self, fields: list[str]) -> str:
        column = self._columns.index("email")
        return fields[column].strip() if column < len(fields) else ""

    def _header(self) -> list[str]:
        if self._binary.peek(2)[:2] in _UTF_16:
            raise CommandFailed(f"{self._path} is encoded in UTF-16", _AS_UTF_8)
        fields = [name.strip().lower() for name in self._next() or []]
        if "email" in fields and len(set(fields)) == len(fields):
            return fields
        if len(fields) == 1 and any(mark in fields[0] for mark in ";\t"):
            raise CommandFailed(f"The columns of {self._path} are not separated by commas", "Save it with commas.")
        raise CommandFailed(
            f"The first line of {self._path} must name the columns: email and, where wanted, preferences, each once"
        )

    def _next(self) -> list[str] | None:
        first = self._rows.line_num + 1
        try:
            return next(self._rows, None)
        except UnicodeDecodeError:
            raise CommandFailed(f"{self._path}, near line {first}: is not UTF-8", _AS_UTF_8) from None
        except csv.Error as error:
            raise CommandFailed(
                f"{self._path}, in the row that begins on line {first}: {error}",
                "Correct its quotes, then import it again.",
            ) from None


def _member(line: int, email: str, preferences: str) -> MemberRow:
    if not preferences:
        return MemberRow(line, email)
    try:
        value = check_json_object(json.loads(preferences, object_pairs_hook=without_twins))
    except BoundsError as error:
        problem = f"preferences: {error.problem}"
    except (ValueError, RecursionError):
        problem = "preferences: is not JSON"
    else:
        return MemberRow(line, email, preferences, value)
    return MemberRow(line, email, preferences, problem=problem)
