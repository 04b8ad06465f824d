"""A Chromium and the real stack, for every test that looks at a page."""

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.conftest import CHROMIUM
from tests.stack import stack as stack


# While Playwright runs, its event loop counts as this thread's: it must have ended before tests of other rooms begin.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The machine's own Chromium, without a window."""
    program = next(found for found in map(shutil.which, CHROMIUM) if found)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=program)
        try:
            yield launched
        finally:
            launched.close()
