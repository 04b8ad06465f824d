"""The pages that a person meets when a link has had its time: each says what happened and what to do next."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.visitor import visitor
from tests.rpc.gateway_under_test import EXPIRED, SUPERSEDED, GatewayUnderTest, running_gateway

pytestmark = [pytest.mark.browser, pytest.mark.slow]

STATES = {
    "expired": (f"/newsletter/confirm?token={EXPIRED}", {"en": "This link has expired", "zh-TW": "連結已過期"}),
    "superseded": (
        f"/newsletter/confirm?token={SUPERSEDED}",
        {"en": "This link no longer applies", "zh-TW": "連結已失效"},
    ),
    "cut-off": ("/newsletter/preference-center?token=", {"en": "This did not work", "zh-TW": "無法完成"}),
}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayUnderTest]:
    with running_gateway(tmp_path_factory.mktemp("gateway") / "log") as running:
        yield running


@pytest.mark.parametrize("language", ["en", "zh-TW"])
def test_a_link_that_has_had_its_time_says_what_to_do_next(
    gateway: GatewayUnderTest, browser: Browser, language: str
) -> None:
    with visitor(browser, language, "phone", "state") as person:
        for state, (path, words) in STATES.items():
            page = person.open(f"http://{gateway.host}:{gateway.port}{path}")
            expect(page.get_by_role("heading", level=1)).to_have_text(words[language])
            expect(page.get_by_role("button")).to_have_count(0)
            person.judge(page, state)


def test_a_preference_centre_with_every_state_fits_a_phone(gateway: GatewayUnderTest, browser: Browser) -> None:
    with visitor(browser, "zh-TW", "phone", "state") as person:
        page = person.open(f"http://{gateway.host}:{gateway.port}/newsletter/preference-center?token=sealed")
        expect(page.get_by_role("listitem")).to_have_count(3)
        expect(page.get_by_role("button")).to_have_count(4)
        person.judge(page, "centre")
