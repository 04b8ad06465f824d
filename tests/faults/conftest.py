"""One installation to be hurt, for all faults of a test worker, and the table at the end."""

import os
import random
import time
from collections.abc import Iterator

import pytest

from tests.claims_table import claim_rows_of, claims_as_markdown
from tests.faults.faults_table import as_markdown, rows_of, share, write
from tests.rig.proving_ground import ProvingGround, proving_ground


@pytest.fixture(scope="session")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProvingGround]:
    """The installation. Each test has workers and jobs of its own."""
    with proving_ground(tmp_path_factory.mktemp("ground")) as made:
        yield made


@pytest.fixture
def chance() -> random.Random:
    """Chance that can be repeated."""
    seed = int(os.environ.get("MESSMAIL_SEED", str(random.SystemRandom().randrange(2**32))))
    print(f"seed {seed} (MESSMAIL_SEED repeats it)")
    return random.Random(seed)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """At full count puts first what may take longest, so that nothing long is begun when all else is done."""
    if share() is None:
        return

    def patience(item: pytest.Item) -> float:
        marker = item.get_closest_marker("timeout")
        return float(marker.args[0]) if marker else 0.0

    items.sort(key=patience, reverse=True)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Notes when the run began."""
    session.config.stash[_BEGAN] = time.monotonic()


_BEGAN = pytest.StashKey[float]()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Prints the tables, and writes them where that was asked for."""
    passed = [one for one in terminalreporter.stats.get("passed", []) if isinstance(one, pytest.TestReport)]
    failed = [
        one
        for outcome in ("failed", "error")
        for one in terminalreporter.stats.get(outcome, [])
        if isinstance(one, pytest.TestReport)
    ]
    rows = rows_of([*passed, *failed])
    if not rows:
        return
    terminalreporter.section("faults")
    terminalreporter.line(as_markdown(rows))
    claims = claim_rows_of(passed, failed)
    terminalreporter.line("")
    terminalreporter.line(claims_as_markdown(claims))
    if os.environ.get("MESSMAIL_FAULTS_WRITE"):
        minutes = (time.monotonic() - config.stash[_BEGAN]) / 60
        part = share()
        names = ", ".join(sorted(f"`{one.nodeid.rpartition('::')[2]}`" for one in failed)) or "none"
        said = f"Run with a share of {part:g} of the full counts, in {minutes:.0f} minutes. Tests that failed: {names}."
        if skipped := terminalreporter.stats.get("skipped"):
            said += f" Not run on that machine: {len(skipped)} tests, so their rows are missing."
        write(rows, claims, said)
