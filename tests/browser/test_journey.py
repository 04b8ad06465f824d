"""A person's way from the form of a site to the last unsubscribe, through the pages as a browser shows them."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.visitor import SCREENS, Visitor, visitor
from tests.stack import Newsletter, Stack, unique_address

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(240)]

WORDS = {
    "en": {
        "confirm": "Yes, subscribe me",
        "confirmed": "You are subscribed",
        "centre": "Your newsletters",
        "saved": "Your changes are saved",
        "save": "Save language",
        "leave": "Unsubscribe Offers",
        "none": "You receive no newsletter from here any more.",
        "unsubscribe": "Unsubscribe me",
        "unsubscribed": "You are unsubscribed",
    },
    "zh-TW": {
        "confirm": "是，我要訂閱",
        "confirmed": "訂閱完成",
        "centre": "您的電子報",
        "saved": "已儲存變更",
        "save": "儲存語言",
        "leave": "取消訂閱 Offers",
        "none": "您目前沒有訂閱這裡的任何電子報。",
        "unsubscribe": "取消訂閱",
        "unsubscribed": "已取消訂閱",
    },
}
OTHER = {"en": "zh-TW", "zh-TW": "en"}
BODY = "Read on.\n\nYour newsletters: {{ preferences_url }}\n"


def follow_link(person: Visitor, stack: Stack, reader: str, path: str, subject: str = "") -> Page:
    """Opens the newest mail in the development mailbox and follows its link to a path."""
    mail = stack.mailbox.wait_for(reader, subject)
    mailbox = person.open(f"{stack.ready['mailbox']}/view/{mail.id}")
    link = mailbox.locator(f"pre a[href*='{path}']").first
    expect(link).to_be_visible()
    url = link.get_attribute("href")
    assert url is not None
    mailbox.close()
    # As the click would, in a page of its own; but a headless browser on a busy machine now and then opens none.
    return person.open(url)


def look_around(browser: Browser, url: str) -> None:
    """Visits a link as a scanner does that renders pages: it moves the mouse and scrolls, and presses nothing."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(url, wait_until="networkidle")
    for x, y in ((10, 10), (200, 300), (640, 400), (640, 500)):
        page.mouse.move(x, y)
    page.mouse.wheel(0, 2000)
    page.mouse.wheel(0, -2000)
    context.close()


def state_behind(stack: Stack, url: str) -> str:
    """Returns what a link tells a program, which changes nothing either."""
    answer = stack.site.get(url.removeprefix(stack.http))
    assert answer.status == 200, answer.answer
    return str(answer.answer["status"])


def press(page: Page, button: str, screen: str) -> None:
    """Presses a button with a finger on a phone, and with the keyboard alone on a desktop."""
    target = page.get_by_role("button", name=button, exact=True)
    if screen == "phone":
        target.tap()
        return
    for _ in range(12):
        page.keyboard.press("Tab")
        if target.evaluate("button => button === document.activeElement"):
            break
    expect(target).to_be_focused()
    page.keyboard.press("Enter")


def title(page: Page, words: str) -> None:
    """Expects a page whose title and heading say the same."""
    expect(page.get_by_role("heading", level=1)).to_have_text(words)
    expect(page).to_have_title(words)


@pytest.mark.claim("S9", "a headless browser that renders, moves the mouse and scrolls changes nothing", run=3)
@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("language", WORDS)
def test_a_person_subscribes_looks_after_their_lists_and_leaves(
    stack: Stack, browser: Browser, language: str, screen: str
) -> None:
    words, reader = WORDS[language], unique_address("reader")
    newsletter = stack.make_newsletter(OTHER[language])
    offers = Newsletter(
        newsletter.tenant_id, stack.make_list(newsletter.tenant_id, OTHER[language], "Offers"), newsletter.client
    )
    asked = {"list_id": newsletter.list_id, "email": reader, "preferences": {"lang": language}}
    assert stack.site.post_json("/newsletter/subscribe", asked).status == 200
    stack.import_members(offers, [reader])

    with visitor(browser, language, screen) as person:
        page = follow_link(person, stack, reader, "/newsletter/confirm")
        confirm_url = page.url
        look_around(browser, confirm_url)
        assert state_behind(stack, confirm_url) == "pending"
        person.judge(page, "confirm")
        press(page, words["confirm"], screen)
        title(page, words["confirmed"])
        person.judge(page, "confirmed")
        assert state_behind(stack, confirm_url) == "confirmed"
        title(person.open(confirm_url), words["confirmed"])

        token = stack.access_token(newsletter.client)
        job = {"list_id": newsletter.list_id, "subject": "First issue", "body_text": BODY, "template": True}
        stack.wait_for_job(stack.site.post_json("/api/send-jobs", job, token).answer["id"], token)
        page = follow_link(person, stack, reader, "/newsletter/preference-center", "First issue")
        centre_url = page.url
        look_around(browser, centre_url)
        page.reload()
        title(page, words["centre"])
        expect(page.get_by_role("listitem")).to_have_count(2)
        person.judge(page, "centre")
        page.get_by_role("combobox").select_option(OTHER[language])
        press(page, words["save"], screen)
        title(page, WORDS[OTHER[language]]["saved"])
        page.get_by_role("combobox").select_option(language)
        press(page, WORDS[OTHER[language]]["save"], screen)
        title(page, words["saved"])
        press(page, words["leave"], screen)
        title(page, words["saved"])
        person.judge(page, "centre-left-one")
        expect(page.get_by_role("listitem").get_by_role("button")).to_have_count(1)

        page = follow_link(person, stack, reader, "/newsletter/unsubscribe", "First issue")
        unsubscribe_url = page.url
        look_around(browser, unsubscribe_url)
        assert state_behind(stack, unsubscribe_url) == "confirmed"
        person.judge(page, "unsubscribe")
        press(page, words["unsubscribe"], screen)
        title(page, words["unsubscribed"])
        person.judge(page, "unsubscribed")
        assert state_behind(stack, unsubscribe_url) == "unsubscribed"
        title(person.open(unsubscribe_url), words["unsubscribed"])

        page = person.open(centre_url)
        expect(page.get_by_text(words["none"])).to_be_visible()
        expect(page.get_by_role("button")).to_have_count(0)
        person.judge(page, "centre-left-all")
