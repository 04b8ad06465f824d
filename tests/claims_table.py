"""What a run shows of each claim, as a table: cases asked for, cases run, violations.

A test marked `claim` is so many cases of it. One that finds out only as it runs hands in how many it saw.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import pytest

PROPERTY = "messmail-claim"
_HEAD = ("claim", "what", "asked", "run", "violations")


@dataclass(frozen=True)
class ClaimRow:
    """Cases of a claim. asked is how many the claim itself asks for, 0 where it names no number.

    Without a number of violations, the end of the test tells whether there was one.
    """

    claim: str
    what: str
    asked: int = 0
    run: int = 1
    violations: int | None = None

    @property
    def order(self) -> tuple[str, int, str]:
        """Sorts rows as the claims are numbered."""
        return self.claim[0], int(self.claim[1:]), self.what


def cases(full: int, least: int = 1) -> int:
    """Returns how many of so many cases this run does: all of them when MESSMAIL_CLAIMS_SHARE is 1."""
    return max(least, round(full * float(os.environ.get("MESSMAIL_CLAIMS_SHARE", "0.02"))))


def hand_in_claim(record_property: object, row: ClaimRow) -> None:
    """Puts cases into the table."""
    assert callable(record_property)
    record_property(PROPERTY, json.dumps(asdict(row)))


def claim_rows_of(passed: Iterable[pytest.TestReport], failed: Iterable[pytest.TestReport]) -> list[ClaimRow]:
    """Adds up what tests handed in, in the order of the claims."""
    found: dict[tuple[str, str], ClaimRow] = {}
    for reports, untold in ((passed, 0), (failed, 1)):
        for report in reports:
            for name, value in report.user_properties:
                if name != PROPERTY:
                    continue
                row = ClaimRow(**json.loads(str(value)))
                before = found.get((row.claim, row.what), ClaimRow(row.claim, row.what, row.asked, 0, 0))
                found[row.claim, row.what] = ClaimRow(
                    row.claim,
                    row.what,
                    max(before.asked, row.asked),
                    before.run + row.run,
                    (before.violations or 0) + (untold if row.violations is None else row.violations),
                )
    return sorted(found.values(), key=lambda row: row.order)


def claims_as_markdown(rows: Sequence[ClaimRow]) -> str:
    """Returns the table."""
    lines: list[Sequence[str]] = [_HEAD, ("---", "---", "--:", "--:", "--:")]
    lines += [(row.claim, row.what, _number(row.asked), _number(row.run), str(row.violations)) for row in rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _number(number: int) -> str:
    return f"{number:,}" if number else ""
