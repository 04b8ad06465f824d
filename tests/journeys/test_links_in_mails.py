"""The links of real mails: one click by any program that RFC 8058 allows unsubscribes, and no visit changes anything.

What a link changed is read from the consent log and the subscription itself, as PostgreSQL's superuser sees them.
"""

from __future__ import annotations

import http.client
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from email import message_from_bytes
from email.message import Message
from typing import Any
from urllib.parse import urlsplit

import pytest

from messmail.member_center.v1 import member_center_admin_pb2 as admin_pb
from tests.recount import Ledger
from tests.stack import Newsletter, Stack, unique_address

pytestmark = pytest.mark.timeout(240)

FORM, MULTIPART = "application/x-www-form-urlencoded", "multipart/form-data; boundary=one"
ONE_CLICK = b"List-Unsubscribe=One-Click"
PART = b'--one\r\nContent-Disposition: form-data; name="List-Unsubscribe"\r\n\r\nOne-Click\r\n--one--\r\n'
BROWSER = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0 Safari/537.36"
AGENTS = (None, "", "curl/8.5", BROWSER, "GoogleImageProxy", "x" * 2000, "Outlook-iOS/2.0 \xe9")
ACCEPTS = (None, "*/*", "text/html", "application/json", "text/html,*/*;q=0.8", "image/png", "nonsense;;q=x", "")
PREFETCHES: tuple[dict[str, str], ...] = (
    {},
    {"Purpose": "prefetch"},
    {"Sec-Purpose": "prefetch;prerender"},
    {"X-Moz": "prefetch"},
    {"Range": "bytes=0-99"},
    {"If-None-Match": "*"},
    {"Cookie": "session=1"},
)
CENTRE = "newsletter/preference-center"
TEMPLATE = "Read on. {{ unsubscribe_url }} {{ preferences_url }}"


@dataclass(frozen=True)
class HttpAnswer:
    """An answer as it came over the wire."""

    status: int
    headers: Message
    body: bytes


@dataclass(frozen=True)
class Reader:
    """Somebody on a list, and where that is written down."""

    stack: Stack
    newsletter: Newsletter
    email: str

    def record(self) -> tuple[list[Any], list[Any]]:
        """Returns the person's subscription and its consent log, as they are stored."""
        rows = Ledger(self.stack).rows
        found = rows("SELECT s::text, id FROM subscriptions s WHERE address = %s", self.email, database="member_center")
        log = "SELECT l::text FROM consent_log l WHERE subscription_id = %s ORDER BY generation"
        return found, rows(log, found[0][1], database="member_center")

    def events(self) -> list[tuple[str, str]]:
        """Returns what the consent log says: states, and through what."""
        log = (
            "SELECT l.status, l.through FROM consent_log l JOIN subscriptions s ON s.id = l.subscription_id "
            "WHERE s.address = %s ORDER BY l.generation"
        )
        return Ledger(self.stack).rows(log, self.email, database="member_center")


def visit(method: str, url: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> HttpAnswer:
    """Makes one request with these headers and no others; nothing is followed."""
    target = urlsplit(url)
    assert target.hostname is not None
    connection = http.client.HTTPConnection(target.hostname, target.port, timeout=30)
    try:
        connection.putrequest(method, f"{target.path}?{target.query}", skip_accept_encoding=True)
        for name, value in (headers or {}).items():
            connection.putheader(name, value.encode("latin-1"))
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        response = connection.getresponse()
        return HttpAnswer(response.status, response.headers, response.read())
    finally:
        connection.close()


@pytest.fixture(scope="module", autouse=True)
def many_calls(stack: Stack) -> None:
    """Lets the one address of this machine call more often than one person does."""
    limits = admin_pb.Limits(anonymous_calls_per_ip_per_minute=1_000_000)
    stack.operator.member_center_admin.SetLimits(admin_pb.SetLimitsRequest(limits=limits))


@pytest.fixture
def reader(stack: Stack) -> Reader:
    """A confirmed person on a list of their own."""
    made = Reader(stack, stack.make_newsletter(), unique_address("reader"))
    stack.import_members(made.newsletter, [made.email])
    return made


def mailed(reader: Reader, **content: Any) -> Message:
    """Sends the list a mail, and returns it as it came over the wire."""
    stack, newsletter = reader.stack, reader.newsletter
    token = stack.access_token(newsletter.client)
    subject = unique_address("issue")
    made = stack.site.post_json("/api/send-jobs", {"list_id": newsletter.list_id, "subject": subject, **content}, token)
    assert made.status == 201, made.answer
    stack.wait_for_job(made.answer["id"], token)
    return message_from_bytes(stack.mailbox.raw(stack.mailbox.wait_for(reader.email, subject)))


def one_click_url(mail: Message) -> str:
    """Returns the one URI of a mail's List-Unsubscribe, as a mail program that knows RFC 8058 reads it."""
    (header,) = mail.get_all("List-Unsubscribe", [])
    (post,) = mail.get_all("List-Unsubscribe-Post", [])
    assert post == "List-Unsubscribe=One-Click"
    url = re.fullmatch(r"<(https?://[^<>\s,]+)>", header)
    assert url is not None, "exactly one URI, in one line"
    return url[1]


def text_of(mail: Message) -> str:
    """Returns the text part."""
    parts = [part for part in mail.walk() if part.get_content_type() == "text/plain"]
    payload = parts[0].get_payload(decode=True)
    assert isinstance(payload, bytes)
    return payload.decode()


def visits() -> Iterator[dict[str, str]]:
    """Yields headers of 131 visits: every Accept, every kind of prefetch, every program."""
    kinds = itertools.product(PREFETCHES, ACCEPTS, AGENTS)
    for number, (prefetch, accept, agent) in enumerate(kinds):
        if number % 3 == 0:
            named = {"Accept": accept, "User-Agent": agent}
            yield {**prefetch, **{name: value for name, value in named.items() if value is not None}}


@pytest.mark.claim("S8", "mails with one List-Unsubscribe URI and List-Unsubscribe-Post")
@pytest.mark.parametrize(
    "content",
    [
        {"body_text": "As typed"},
        {"body_html": "<p>As typed</p>", "body_text": "As typed"},
        {"body_html": "<p>Dear {{ email }}</p>", "template": True},
        {"body_text": TEMPLATE, "template": True},
    ],
)
def test_s8_every_mail_has_one_link_that_a_mail_program_can_post_to(reader: Reader, content: dict[str, Any]) -> None:
    url = one_click_url(mailed(reader, **content))
    assert url.startswith(f"{reader.stack.http}/newsletter/unsubscribe?token=")
    answer = visit("POST", url, ONE_CLICK, {"Content-Type": FORM})
    assert (answer.status, reader.events()[1:]) == (200, [("unsubscribed", "one_click")])


@pytest.mark.claim("S8", "POSTs to the one-click link: 200 without a redirect, one consent event", asked=100, run=126)
def test_s8_one_click_works_a_hundred_times_in_every_form_and_is_one_event(reader: Reader) -> None:
    url = one_click_url(mailed(reader, body_text="Hello"))
    forms: list[tuple[str | None, bytes]] = [
        (FORM, ONE_CLICK),
        (FORM, ONE_CLICK + b"\r\n"),
        (f"{FORM}; charset=UTF-8", ONE_CLICK),
        (MULTIPART, PART),
        (FORM, b""),
        (None, b""),
    ]
    answers = []
    for (content_type, body), agent, accept in itertools.product(forms, AGENTS, (None, "*/*", "text/html")):
        named = {"Content-Type": content_type, "User-Agent": agent, "Accept": accept}
        headers = {name: value for name, value in named.items() if value is not None}
        answer = visit("POST", url, body, headers)
        answers.append(answer)
        assert answer.status == 200, (headers, body, answer.body)
        assert not {"location", "refresh", "set-cookie", "www-authenticate"} & {name.lower() for name in answer.headers}
        assert answer.headers["Cache-Control"] == "no-store"
    assert len(answers) == 126
    assert reader.events()[1:] == [("unsubscribed", "one_click")]


@pytest.mark.claim("S8", "GETs and HEADs of the one-click link: 0 changes", asked=200, run=262)
def test_s8_no_visit_of_the_one_click_link_changes_anything(reader: Reader) -> None:
    url = one_click_url(mailed(reader, body_text="Hello"))
    assert_visits_change_nothing(reader, url, heads=200)


@pytest.mark.claim("S9", "GETs and HEADs of the mailed confirm link: 0 changes", asked=200, run=262)
def test_s9_no_visit_of_the_mailed_confirm_link_changes_anything_and_one_tap_confirms(stack: Stack) -> None:
    reader = Reader(stack, stack.make_newsletter(), unique_address("asked"))
    asked = {"list_id": reader.newsletter.list_id, "email": reader.email}
    confirm_token = stack.site.post_json("/newsletter/subscribe", asked).answer["confirm_token"]
    text = stack.mailbox.content(stack.mailbox.wait_for(reader.email))["Text"]
    (url,) = re.findall(r"https?://\S+/newsletter/confirm\?token=[\w-]+", text)
    # The other kind of confirmation link confirms by a GET, so a HEAD of either is refused.
    assert_visits_change_nothing(reader, url, heads=405)
    path, _, token = url.partition("?token=")
    answers = {visit("POST", f"{path}?", f"token={token}".encode(), {"Content-Type": FORM}).body for _ in range(100)}
    assert len(answers) == 1 and b'"status":"confirmed"' in answers.pop()
    assert reader.events() == [("pending", "subscribe"), ("confirmed", "mailed_link")]
    assert confirm_token != token


@pytest.mark.claim("S9", "GETs of the confirm_token of the API's answer: confirmed, one consent event", run=100)
def test_s9_a_get_of_the_answers_token_confirms_as_the_guide_has_it(stack: Stack) -> None:
    reader = Reader(stack, stack.make_newsletter(), unique_address("proven"))
    asked = {"list_id": reader.newsletter.list_id, "email": reader.email}
    token = stack.site.post_json("/newsletter/subscribe", asked).answer["confirm_token"]
    answers = {visit("GET", f"{stack.http}/newsletter/confirm?token={token}").body for _ in range(100)}
    assert len(answers) == 1 and b'"status":"confirmed"' in answers.pop()
    assert reader.events() == [("pending", "subscribe"), ("confirmed", "confirm_token")]


def test_no_visit_of_the_preference_centre_changes_anything_and_a_form_leaves(reader: Reader) -> None:
    (url,) = re.findall(
        rf"https?://\S+/{CENTRE}\?token=[\w-]+", text_of(mailed(reader, body_text=TEMPLATE, template=True))
    )
    assert_visits_change_nothing(reader, url, heads=200)
    path, _, token = url.partition("?token=")
    for body in (f"token={token}&leave_list_id={reader.newsletter.list_id}", f"token={token}&leave_all=true"):
        answer = visit("POST", f"{path}?", body.encode(), {"Content-Type": FORM})
        assert (answer.status, b'"status":"unsubscribed"' in answer.body) == (200, True)
    assert reader.events()[1:] == [("unsubscribed", "preference_center")]


def assert_visits_change_nothing(reader: Reader, url: str, *, heads: int) -> None:
    """Visits a link more than a hundred times by GET and as often by HEAD, and looks whether anything changed."""
    before, made = reader.record(), list(visits())
    for headers in made:
        looked = visit("GET", url, None, headers)
        assert (looked.status, looked.headers["Cache-Control"]) == (200, "no-store"), (headers, looked.body)
        head = visit("HEAD", url, None, headers)
        assert (head.status, head.body) == (heads, b"")
    assert len(made) == 131
    assert reader.record() == before
