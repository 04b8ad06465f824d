"""How many faults a run makes, and the table of what came of them.

`make faults` asks for the full counts of the claims, or for a share of them; `make test` for a few. Each test hands in
one row; the rows are printed at the end, and written into docs/reliability.md when that was asked for, together with
what the run shows of the claims that no fault is about.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from tests.claims_table import ClaimRow, claims_as_markdown, hand_in_claim
from tests.rig.proving_ground import Recount

PROPERTY = "messmail-fault"
DOCUMENT = Path(__file__).parents[2] / "docs" / "reliability.md"
_BEGIN, _END = "<!-- faults: written by make faults -->", "<!-- faults: end -->"
_HEAD = ("claim", "fault", "asked", "made", "lost", "duplicates", "bound", "unknown", "recovered within")


@dataclass(frozen=True)
class FaultRow:
    """What came of one kind of fault. recovery is in seconds, None where it says nothing."""

    claim: str
    fault: str
    asked: int
    made: int
    lost: int
    duplicates: int
    bound: int
    unknown: int
    recovery: float | None = None

    def __add__(self, other: FaultRow) -> FaultRow:
        """Adds another part of the same fault."""
        counts = ("asked", "made", "lost", "duplicates", "bound", "unknown")
        sums = {name: getattr(self, name) + getattr(other, name) for name in counts}
        recoveries = [recovery for recovery in (self.recovery, other.recovery) if recovery is not None]
        return FaultRow(self.claim, self.fault, **sums, recovery=max(recoveries, default=None))

    def cells(self) -> list[str]:
        """Returns the cells of the table's row."""
        recovery = "" if self.recovery is None else f"{self.recovery:.1f} s"
        numbers = (self.asked, self.made, self.lost, self.duplicates, self.bound, self.unknown)
        return [self.claim, self.fault, *(f"{number:,}" for number in numbers), recovery]


def share() -> float | None:
    """Returns which share of the full counts was asked for; None for a short run."""
    asked = os.environ.get("MESSMAIL_FAULTS_SHARE")
    return float(asked) if asked else None


def runs(full: int, short: int) -> int:
    """Returns how many faults are to be made of those a claim asks for."""
    part = share()
    return short if part is None else max(short, round(full * part))


def hand_in(record_property: object, row: FaultRow, *recounts: Recount) -> None:
    """Puts a row into the table, and what its recounts have looked at; asserts that they found nothing wrong."""
    assert callable(record_property)
    record_property(PROPERTY, json.dumps(asdict(row)))
    for claim, what, looked_at in (
        ("S1", "counters of a job read while it is hurt: they add up", sum(count.polls for count in recounts)),
        ("S2", "rows of the ledger: all ended, with a reason where no mail went", sum(map(_rows_of, recounts))),
    ):
        wrong = [violation for count in recounts for violation in count.violations[claim]]
        hand_in_claim(record_property, ClaimRow(claim, what, run=looked_at, violations=len(wrong)))
        assert wrong == []


def _rows_of(recount: Recount) -> int:
    return recount.states.total()


def rows_of(reports: Sequence[pytest.TestReport]) -> list[FaultRow]:
    """Returns the rows that tests handed in, parts of one fault added up, in the order of their claims."""
    found: dict[tuple[str, str], FaultRow] = {}
    for report in reports:
        for name, value in report.user_properties:
            if name == PROPERTY:
                row = FaultRow(**json.loads(str(value)))
                before = found.get((row.claim, row.fault))
                found[row.claim, row.fault] = row if before is None else before + row
    return sorted(found.values(), key=lambda row: (row.claim[0], int(row.claim[1:]), row.fault))


def as_markdown(rows: Sequence[FaultRow]) -> str:
    """Returns the table."""
    lines = [_HEAD, ("---", "---", *["--:"] * (len(_HEAD) - 2)), *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def write(rows: Sequence[FaultRow], claims: Sequence[ClaimRow], said: str) -> None:
    """Writes the tables, and a line about the run, into the document."""
    text = DOCUMENT.read_text(encoding="utf-8")
    before, _, rest = text.partition(_BEGIN)
    after = rest.partition(_END)[2]
    tables = f"{as_markdown(rows)}\n\n{claims_as_markdown(claims)}"
    DOCUMENT.write_text(f"{before}{_BEGIN}\n\n{said}\n\n{tables}\n\n{_END}{after}", encoding="utf-8")
