"""Turns the rounds of a measurement into medians, a table and a JSON file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from bench.machine import describe

RESULTS = Path(__file__).parent / "results"
Rounds = Mapping[str, Sequence[float]]


def ratios(rounds: Rounds, baseline: str) -> dict[str, float]:
    """Returns the median over the rounds of each rate divided by the baseline's rate of the same round.

    Interleaved rounds: what slows the machine slows a rate and its baseline alike.
    """
    return {
        name: median(rate / base for rate, base in zip(rates, rounds[baseline], strict=True))
        for name, rates in rounds.items()
        if name != baseline
    }


def table(rounds: Rounds, baseline: str, unit: str) -> str:
    """Draws one line for each name: the median rate, its ratio to the baseline, and the spread of the rounds."""
    ratio = ratios(rounds, baseline)
    lines = [f"{'':28} {unit:>12} {'ratio':>8}   rounds"]
    for name, rates in rounds.items():
        shown = f"{ratio[name]:8.3f}" if name in ratio else f"{'1':>8}"
        lines.append(f"{name:28} {median(rates):12,.0f} {shown}   {'  '.join(f'{rate:,.0f}' for rate in rates)}")
    return "\n".join(lines)


def save(file: Path, rounds: Rounds, baseline: str, **more: Any) -> None:
    """Writes the result as JSON, with the machine's description."""
    write(
        file,
        baseline=baseline,
        rates_per_second={key: [round(rate, 1) for rate in rates] for key, rates in rounds.items()},
        ratios={key: round(value, 4) for key, value in ratios(rounds, baseline).items()},
        **more,
    )


def write(file: Path, **result: Any) -> None:
    """Writes a result as JSON, with the time and the machine's description before it."""
    described = {"measured_at": datetime.now(UTC).isoformat(timespec="seconds"), "machine": describe(), **result}
    file.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
