"""Whoever fills in a form can have a mail sent to anybody: nothing that a stranger typed is in it."""

from __future__ import annotations

import email
import re
import uuid
from collections.abc import Callable, Iterator
from email.policy import default
from typing import Any

import pytest

from messmail.member_center.v1 import member_center_pb2 as pb
from tests.gateway_fixtures import gateway as gateway
from tests.member_center_fixtures import Engines, MemberCenter, Newsletter, reason_of
from tests.rpc.gateway_under_test import GatewayProcess
from tests.rpc.test_confirmations import worker
from tests.send_engine_fixtures import Sink, wait_until

# Nothing of the mail's own begins so.
CANARY = "zqcanary"


@pytest.fixture
def sink() -> Iterator[Sink]:
    """The mailbox at the end."""
    made = Sink()
    yield made
    made.stop()


def canary(name: str) -> str:
    return f"{CANARY}{name}{uuid.uuid4().hex[:6]}"


def everything(typed: str) -> dict[str, Any]:
    """Preferences with canaries in every place, also as markup, as a template and as headers."""
    return {
        "lang": typed,
        "name": f"<b>{typed}</b>",
        "html": f'<a href="https://{typed}.example">{typed}</a>',
        "template": "{{ " + typed + " }}",
        "header": f"x\r\nBcc: {typed}@evil.example",
        typed: typed,
        "deep": {"a": [typed, {typed: typed}]},
        "list_name": typed,
        "confirm_url": f"https://{typed}.example",
        "subject": typed,
    }


def test_nothing_that_a_stranger_typed_is_in_a_confirmation_mail(
    engines: Engines, member_center: MemberCenter, gateway: GatewayProcess, sink: Sink
) -> None:
    newsletter = member_center.make_newsletter()
    site = member_center.public_as(member_center.make_client(newsletter.tenant_id))
    people = {name: f"{name}.{uuid.uuid4().hex[:8]}@mail.example" for name in ("stranger", "site", "again", "plain")}

    def over_rest(address: str, typed: str) -> None:
        body = {"list_id": newsletter.list_id, "email": address, "preferences": everything(typed)}
        answer = gateway.post_json(
            "/newsletter/subscribe",
            body,
            User_Agent=f"{typed}/1.0",
            Referer=f"https://{typed}.example/",
            Origin=f"https://{typed}.example",
            Accept_Language=typed,
            X_Request_Id=f"{typed}-request",
            X_Forwarded_For="203.0.113.77",
            Host=f"{typed}.example",
            X_Forwarded_Host=f"{typed}.example",
        )
        assert answer.status == 200, answer.body

    def over_grpc(address: str, typed: str) -> None:
        request = pb.SubscribeRequest(list_id=newsletter.list_id, email=address)
        request.preferences.update(everything(typed))
        request.client.ip = "203.0.113.77"
        request.client.user_agent = typed
        request.client.source_url = f"https://{typed}.example/{typed}?{typed}"
        site.Subscribe(request)

    def over_and_over(address: str, typed: str) -> None:
        member_center.subscribe(newsletter.list_id, address)
        over_grpc(address, typed)
        over_rest(address, typed)

    ways: dict[str, Callable[[str, str], None]] = {
        "stranger": over_rest, "site": over_grpc, "again": over_and_over,
    }  # fmt: skip
    for name, way in ways.items():
        way(people[name], canary(name))
    member_center.subscribe(newsletter.list_id, people["plain"])
    with worker(engines, member_center, member_center.server.address, sink):
        wait_until(lambda: len(sink.accepted) == len(people), "the confirmation mails")
    mails = dict(sink.accepted)
    assert mails.keys() == set(people.values())
    plain = without_what_is_its_own(mails[people["plain"]], people["plain"])
    for address in people.values():
        data = mails[address]
        shown = data.decode() + "".join(texts_of(data))
        assert CANARY not in shown.lower()
        assert "203.0.113.77" not in shown
        message = email.message_from_bytes(data, policy=default)
        assert [name for name, text in message.items() if address in text] == ["To"]
        assert sum(text.count(address) for text in texts_of(data)) == 0
        # A mail is the same for everybody, but for the address, the link, and its id and time.
        assert without_what_is_its_own(data, address) == plain


@pytest.mark.parametrize(
    "typed",
    [
        "zqcanary name <{}>",
        '"zqcanary" <{}>',
        "<{}>",
        "{} (zqcanary)",
        "(zqcanary) {}",
        "{}, zqcanary@evil.example",
        "{}\r\nBcc: zqcanary@evil.example",
        "{}\nSubject: zqcanary",
        "=?UTF-8?Q?zqcanary?= <{}>",
        "mailto:{}?subject=zqcanary",
    ],
)
def test_an_address_has_no_part_that_is_only_shown(member_center: MemberCenter, typed: str) -> None:
    newsletter: Newsletter = member_center.make_newsletter()
    address = typed.format(f"reader.{uuid.uuid4().hex[:8]}@mail.example")
    assert reason_of(lambda: member_center.subscribe(newsletter.list_id, address)) == "INVALID_FIELD"
    assert member_center.lease_mails(newsletter) == []


def texts_of(data: bytes) -> list[str]:
    """The texts of a mail, decoded as a mail program shows them: its parts and its headers except To."""
    message = email.message_from_bytes(data, policy=default)
    parts = [str(part.get_content()) for part in message.walk() if not part.is_multipart()]
    return parts + [str(text) for name, text in message.items() if name != "To"]


def without_what_is_its_own(data: bytes, address: str) -> str:
    text = re.sub(r"=\r\n", "", data.decode()).replace(address, "ADDRESS")
    text = re.sub(r"token=(3D)?[A-Za-z0-9_-]{124}", "token=TOKEN", text)
    return re.sub(r"(?m)^(Date|Message-ID|X-Messmail-Delivery): .*$", r"\1", text)
