"""Strictness for every shelf: nothing is left out in silence.

A test marked with an extra (a program this machine may lack) is skipped where the program is missing, and named at the
end. In CI nothing may be skipped, for whatever reason. What the tests run against is started elsewhere.
"""

import os
import shutil
import time
from collections.abc import Generator

import hypothesis
import pytest

from tests.claims_table import (
    SECURITY,
    ClaimRow,
    claim_rows_of,
    claims_as_markdown,
    hand_in_claim,
    shows_a_security_claim,
    write_security_claims,
)

IN_CI = os.environ.get("CI", "").lower() not in ("", "0", "false")

# Where Debian's packages libfaketime and rabbitmq-server put what no PATH leads to.
FAKETIME = tuple(f"/usr/lib/{machine}-linux-gnu/faketime/libfaketimeMT.so.1" for machine in ("x86_64", "aarch64"))
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
RABBITMQ = "/usr/lib/rabbitmq/bin/rabbitmq-server"


def one_of(*programs: str) -> bool:
    """Tells whether this machine has one of these programs or files."""
    return any(shutil.which(program) or os.path.exists(program) for program in programs)


# marker → what it needs, and whether this machine has it
EXTRAS = {
    "browser": ("chromium", one_of(*CHROMIUM)),
    "curl": ("curl", one_of("curl")),
    "faketime": ("libfaketime", one_of(*FAKETIME)),
    "rabbitmq": ("rabbitmq-server", one_of(RABBITMQ)),
    "postfix": ("postfix", one_of("smtp-sink", "/usr/sbin/smtp-sink")),
    "namespaces": ("root with iproute2", os.geteuid() == 0 and one_of("ip")),
}
MISSING = {marker: needed for marker, (needed, is_there) in EXTRAS.items() if not is_there}

# The machine is shared by every worker, so how long one example takes says nothing; a failure prints what repeats it.
hypothesis.settings.register_profile("messmail", deadline=None, print_blob=True)
hypothesis.settings.load_profile("messmail")

_BEGAN = pytest.StashKey[float]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds what `make claims` asks for."""
    parser.addoption("--claims", action="store_true", help="only what shows a claim of docs/security.md, and the table")
    parser.addoption("--write-claims", action="store_true", help="with --claims: write the table into docs/security.md")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Notes when the run began."""
    session.config.stash[_BEGAN] = time.monotonic()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what shows no claim, where only claims were asked for."""
    if config.getoption("--claims"):
        config.hook.pytest_deselected(items=[item for item in items if not shows_a_security_claim(item)])
        items[:] = [item for item in items if shows_a_security_claim(item)]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips a test whose extra this machine lacks."""
    for marker, program in MISSING.items():
        if item.get_closest_marker(marker):
            pytest.skip(f"not run: this machine lacks {program}")


@pytest.fixture(autouse=True)
def claimed(request: pytest.FixtureRequest, record_property: object) -> None:
    """Counts a test marked `claim` as cases of its claims."""
    for marker in request.node.iter_markers("claim"):
        hand_in_claim(record_property, ClaimRow(*marker.args, **marker.kwargs))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turns a skip into a failure in CI."""
    report = yield
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"in CI nothing may be left out: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turns a whole file's skip into a failure in CI."""
    report = yield
    if IN_CI and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"in CI nothing may be left out: {report.longrepr}"
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Names the extras whose tests were asked for and did not run, and prints the table of the claims."""
    if config.getoption("--claims"):
        _show_claims(terminalreporter, config)
    skipped = [report for report in terminalreporter.stats.get("skipped", []) if isinstance(report, pytest.TestReport)]
    for marker, program in MISSING.items():
        count = sum(1 for report in skipped if marker in report.keywords)
        if count:
            terminalreporter.section("extras that did not run", yellow=True)
            terminalreporter.line(f"{program}: {count} tests marked {marker!r}; CI runs them (.ci/run installs it)")


def _show_claims(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    passed, failed = (
        [
            report
            for outcome in outcomes
            for report in terminalreporter.stats.get(outcome, [])
            if isinstance(report, pytest.TestReport)
        ]
        for outcomes in (("passed",), ("failed", "error"))
    )
    rows = [row for row in claim_rows_of(passed, failed) if row.claim in SECURITY]
    terminalreporter.section("claims")
    terminalreporter.line(claims_as_markdown(rows))
    missing = sorted(SECURITY - {row.claim for row in rows}, key=lambda claim: (claim[0], int(claim[1:])))
    terminalreporter.line(f"No test of: {', '.join(missing) or 'none'}")
    if config.getoption("--write-claims"):
        minutes = (time.monotonic() - config.stash[_BEGAN]) / 60
        part = os.environ.get("MESSMAIL_CLAIMS_SHARE", "0.02")
        names = ", ".join(sorted({f"`{report.nodeid.rpartition('::')[2]}`" for report in failed})) or "none"
        write_security_claims(
            rows,
            f"Run with a share of {part} of the full counts, in {minutes:.0f} minutes. Tests that failed: {names}.",
        )
