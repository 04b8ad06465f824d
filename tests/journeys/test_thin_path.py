"""The one path everything else rests on: subscribe, mail, confirm, job, mail."""

import re

import pytest

from tests.stack import Stack, unique_address

pytestmark = pytest.mark.timeout(240)

LINK = re.compile(r"https?://\S+/newsletter/confirm\?token=([\w.~-]+)")


def test_a_person_who_confirms_the_mailed_link_gets_the_next_mailing(stack: Stack) -> None:
    newsletter = stack.make_newsletter()
    reader, undecided = unique_address("ann"), unique_address("bob")
    for address in (reader, undecided):
        subscribed = stack.site.post_json(
            "/newsletter/subscribe", {"list_id": newsletter.list_id, "email": address, "preferences": {"lang": "en"}}
        )
        assert (subscribed.status, subscribed.answer["status"]) == (200, "pending")

    confirmation = stack.mailbox.wait_for(reader)
    link = LINK.search(stack.mailbox.content(confirmation)["Text"])
    assert link is not None
    assert link.group().startswith(stack.http)
    followed = stack.site.get(link.group().removeprefix(stack.http))
    assert (followed.status, followed.answer["status"]) == (200, "pending"), (
        "a GET of the mailed link must change nothing"
    )
    confirmed = stack.site.post_form("/newsletter/confirm", {"token": link.group(1)})
    assert (confirmed.status, confirmed.answer["status"]) == (200, "confirmed")

    token = stack.access_token(newsletter.client)
    made = stack.site.post_json(
        "/api/send-jobs",
        {
            "tenant_id": newsletter.tenant_id,
            "list_id": newsletter.list_id,
            "subject": "First issue",
            "body_text": "Hello",
        },
        token,
    )
    assert made.status == 201, made.answer
    job = stack.wait_for_job(made.answer["id"], token)
    assert (job["counters"]["total"], job["counters"]["sent"]) == (1, 1)

    mail = stack.mailbox.wait_for(reader, subject="First issue")
    assert mail.sender == "news@acme.example"
    assert "Hello" in stack.mailbox.content(mail)["Text"]
    stack.mailbox.wait_for(undecided)
    assert [m.subject for m in stack.mailbox.mails(undecided)].count("First issue") == 0
