"""A person in front of a screen: opens pages, is judged no worse off than others, and leaves pictures behind.

Pages are judged by axe-core, in light and in dark. Pictures go to build/screenshots, to be looked at by people.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page

SCREENSHOTS = Path(__file__).resolve().parents[2] / "build" / "screenshots"
SCREENS = {"phone": (360, 740), "desktop": (1280, 800)}
_SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
_axe = Axe()


class Visitor:
    """One person with one language and one screen, and a judge with the same screen who sees what they see.

    The person has no JavaScript, since no page of ours may need it. axe-core is JavaScript, so the judge has.
    """

    def __init__(self, context: BrowserContext, judge: BrowserContext, name: str) -> None:
        self.context = context
        self._judge = judge
        self._name = name
        self._shots = 0

    def open(self, url: str) -> Page:
        """Opens a page in a tab of its own."""
        page = self.context.new_page()
        page.goto(url)
        return page

    def judge(self, page: Page, what: str) -> None:
        """Fails for anything that axe-core calls serious or critical, and for a page wider than the screen.

        It takes a picture in light and in dark.
        """
        self._shots += 1
        html = page.content()
        seen = self._judge.new_page()
        seen.route(page.url, lambda route: route.fulfill(body=html, content_type="text/html; charset=utf-8"))
        seen.goto(page.url)
        for scheme in _SCHEMES:
            seen.emulate_media(color_scheme=scheme)
            found = _axe.run(seen).response["violations"]
            grave = {each["id"]: each["nodes"] for each in found if each["impact"] in ("serious", "critical")}
            assert not grave, f"{what} in {scheme}: {grave}"
            seen.screenshot(path=SCREENSHOTS / f"{self._name}-{self._shots:02}-{what}-{scheme}.png", full_page=True)
        beyond = seen.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert beyond <= 0, f"{what} is wider than the screen by {beyond} pixels"
        seen.close()


@contextmanager
def visitor(browser: Browser, language: str, screen: str, name: str = "") -> Iterator[Visitor]:
    """Lets a person sit down; the browser forgets them afterwards."""
    width, height = SCREENS[screen]
    is_phone = screen == "phone"
    contexts = [
        browser.new_context(
            locale=language,
            viewport={"width": width, "height": height},
            has_touch=is_phone,
            is_mobile=is_phone,
            java_script_enabled=has_scripts,
        )
        for has_scripts in (False, True)
    ]
    for context in contexts:
        context.set_default_timeout(60_000)
    try:
        yield Visitor(contexts[0], contexts[1], "-".join(filter(None, (name, language, screen))))
    finally:
        for context in contexts:
            context.close()
