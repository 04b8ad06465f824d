"""Strictness for every shelf: nothing is left out in silence.

A test marked with an extra (a program this machine may lack) is skipped where the program is missing, and named at the
end. In CI nothing may be skipped, for whatever reason. What the tests run against is started elsewhere.
"""

import os
import shutil
from collections.abc import Generator

import hypothesis
import pytest

IN_CI = os.environ.get("CI", "").lower() not in ("", "0", "false")

# Where Debian's package libfaketime puts the library, on either kind of machine.
FAKETIME = tuple(f"/usr/lib/{machine}-linux-gnu/faketime/libfaketimeMT.so.1" for machine in ("x86_64", "aarch64"))
# marker → the programs, or files, of which one is enough
EXTRAS = {
    "browser": ("chromium", "chromium-browser", "google-chrome"),
    "curl": ("curl",),
    "faketime": FAKETIME,
}


def is_there(program: str) -> bool:
    """Tells whether this machine has a program or a file."""
    return shutil.which(program) is not None or os.path.exists(program)


MISSING = {marker: programs[0] for marker, programs in EXTRAS.items() if not any(map(is_there, programs))}

# The machine is shared by every worker, so how long one example takes says nothing; a failure prints what repeats it.
hypothesis.settings.register_profile("messmail", deadline=None, print_blob=True)
hypothesis.settings.load_profile("messmail")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips a test whose extra this machine lacks."""
    for marker, program in MISSING.items():
        if item.get_closest_marker(marker):
            pytest.skip(f"not run: {program} is not installed")


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


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Names the extras whose tests were asked for and did not run."""
    skipped = [report for report in terminalreporter.stats.get("skipped", []) if isinstance(report, pytest.TestReport)]
    for marker, program in MISSING.items():
        count = sum(1 for report in skipped if marker in report.keywords)
        if count:
            terminalreporter.section("extras that did not run", yellow=True)
            terminalreporter.line(f"{program}: {count} tests marked {marker!r}; CI runs them (.ci/run installs it)")
