"""What a run shows of each claim, as a table: cases asked for, cases run, violations.

A test marked `claim` is so many cases of it. One that finds out only as it runs hands in how many it saw.
`make faults` writes what its tests show into docs/reliability.md, `make claims` what those of SECURITY do into
docs/security.md.
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

PROPERTY = "messmail-claim"
# The claims that `make claims` is about: consent, tokens, tenants, hostile input, privacy.
SECURITY = frozenset(
    (
        *("S7", "S8", "S9"),
        *(f"A{number}" for number in range(1, 13)),
        *(f"T{number}" for number in range(1, 10)),
        *("I1", "I2", "I3", "I4", "I5", "I9", "I10", "I11", "I12", "I13"),
        *("L4", "L5", "L6"),
    )
)
_DOCUMENT = Path(__file__).parents[1] / "docs" / "security.md"
_BEGIN, _END = "<!-- claims: written by make claims -->", "<!-- claims: end -->"
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
    """Returns how many cases to run of those that a claim asks for: all of them where MESSMAIL_CLAIMS_SHARE is 1."""
    return max(least, round(full * float(os.environ.get("MESSMAIL_CLAIMS_SHARE", "0.02"))))


def shows_a_security_claim(item: pytest.Item) -> bool:
    """Tells whether a test is marked with a claim of SECURITY, or hands in cases of whatever claim as it runs."""
    if any(marker.args[0] in SECURITY for marker in item.iter_markers("claim")):
        return True
    if not isinstance(item, pytest.Function) or not hasattr(item.module, hand_in_claim.__name__):
        return False
    return "record_property" in inspect.signature(item.function).parameters


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


def write_security_claims(rows: Sequence[ClaimRow], said: str) -> None:
    """Writes the table, and a line about the run, into docs/security.md."""
    text = _DOCUMENT.read_text(encoding="utf-8")
    before, _, rest = text.partition(_BEGIN)
    after = rest.partition(_END)[2]
    _DOCUMENT.write_text(f"{before}{_BEGIN}\n\n{said}\n\n{claims_as_markdown(rows)}\n\n{_END}{after}", encoding="utf-8")


def _number(number: int) -> str:
    return f"{number:,}" if number else ""
