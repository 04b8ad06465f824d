"""The development mailbox, as a real process over real sockets: strict SMTP in, Mailpit's JSON and a page out."""

import hashlib
import json
import random
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from local_stack.ports import Address


@dataclass(frozen=True)
class Mailbox:
    """A running mailbox."""

    smtp: Address
    http: str

    def get(self, path: str, method: str = "GET", **headers: str) -> bytes:
        with urlopen(Request(self.http + path, method=method, headers=headers), timeout=10) as response:
            return bytes(response.read())

    def json(self, path: str) -> Any:
        return json.loads(self.get(path))

    def connect(self) -> "Client":
        return Client(self.smtp)


class Client:
    """A plain SMTP client that shows every byte."""

    def __init__(self, address: Address) -> None:
        self._socket = socket.create_connection((address.host, address.port), timeout=10)
        # Without it, two writes in a row wait for the other side's delayed acknowledgement.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._answers = self._socket.makefile("rb")
        assert self.answer().startswith("220 ")

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._answers.close()
        self._socket.close()

    def write(self, data: bytes) -> None:
        self._socket.sendall(data)

    def answer(self) -> str:
        """Reads one answer, all its lines."""
        lines = []
        while True:
            line = self._answers.readline().decode()
            lines.append(line)
            if line[3:4] != "-":
                return "".join(lines)

    def say(self, line: str) -> str:
        self.write(line.encode() + b"\r\n")
        return self.answer()

    def send(self, content: bytes, to: str = "ann@example.com", parameters: str = "") -> str:
        """Sends content, which the caller has dot-stuffed and ended, and returns the answer to the final dot."""
        assert self.say(f"MAIL FROM:<news@acme.example>{parameters}").startswith("250 ")
        assert self.say(f"RCPT TO:<{to}>").startswith("250 ")
        assert self.say("DATA").startswith("354 ")
        self.write(content)
        return self.answer()


def start(*options: str) -> tuple[subprocess.Popen[bytes], Mailbox]:
    command = [sys.executable, "-m", "local_stack.mailbox", "--smtp", "127.0.0.1:0", "--http", "127.0.0.1:0", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    assert process.stderr
    ready = json.loads(process.stderr.readline())
    assert ready["event"] == "ready"
    return process, Mailbox(Address.parse(ready["smtp"]), f"http://{ready['http']}")


def stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert b"Traceback" not in errors


@pytest.fixture(scope="module")
def running() -> Iterator[Mailbox]:
    process, mailbox = start("--keep", "5000")
    yield mailbox
    stop(process)


@pytest.fixture
def mailbox(running: Mailbox) -> Mailbox:
    running.get("/api/v1/messages", method="DELETE")
    return running


def test_it_offers_what_a_quick_client_needs(mailbox: Mailbox) -> None:
    with mailbox.connect() as client:
        offered = client.say("EHLO me")
    words = {line[4:].split()[0] for line in offered.splitlines()}
    assert {"PIPELINING", "8BITMIME", "SMTPUTF8", "SIZE", "ENHANCEDSTATUSCODES"} <= words


def test_pipelined_commands_are_answered_in_order(mailbox: Mailbox) -> None:
    with mailbox.connect() as client:
        client.write(b"EHLO me\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n")
        assert [client.answer()[:3] for _ in range(5)] == ["250", "250", "501", "250", "354"]
        client.write(b"Subject: one\r\n\r\n.\r\nMAIL FROM:<e@f.example>\r\nRCPT TO:<g@h.example>\r\nDATA\r\n")
        assert [client.answer()[:3] for _ in range(4)] == ["250", "250", "250", "354"]
        client.write(b"Subject: two\r\n\r\n.\r\nQUIT\r\n")
        assert [client.answer()[:3] for _ in range(2)] == ["250", "221"]
    subjects = [one["Subject"] for one in mailbox.json("/api/v1/messages")["messages"]]
    assert subjects == ["two", "one"], "the newest mail comes first"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"a\nb\r\n.\r\n", "Bare CR or LF"),
        (b"a\rb\r\n.\r\n", "Bare CR or LF"),
        (b"a\r\n.\nMAIL FROM:<smuggled@acme.example>\r\n.\r\n", "Bare CR or LF"),
        (b"a\n.\r\nb\r\n.\r\n", "Bare CR or LF"),
        (b"a\r\n.b\r\n.\r\n", "dot that is not doubled"),
        (b".b\r\n.\r\n", "dot that is not doubled"),
        (b"x" * 999 + b"\r\n.\r\n", "more than 998 bytes"),
        ("ä".encode() + b"\r\n.\r\n", "8BITMIME"),
    ],
)
def test_content_that_gets_mangled_on_the_way_is_refused(mailbox: Mailbox, content: bytes, why: str) -> None:
    with mailbox.connect() as client:
        client.say("EHLO me")
        refusal = client.send(content)
        assert refusal.startswith("554 5.6."), refusal
        assert why in refusal
        assert client.send(b"after\r\n.\r\n").startswith("250 "), "the session goes on"
    assert [one["Size"] for one in mailbox.json("/api/v1/messages")["messages"]] == [len(b"after\r\n")]


def test_what_is_announced_may_be_8_bit_and_international(mailbox: Mailbox) -> None:
    with mailbox.connect() as client:
        client.say("EHLO me")
        assert client.say("MAIL FROM:<ä@b.example>").startswith("553 ")
        line = b"x" * 998
        content = "Subject: 你好\r\n\r\n".encode() + line + b"\r\n"
        assert client.send(content + b".\r\n", to="楊@例子.example", parameters=" SMTPUTF8 BODY=8BITMIME")[:3] == "250"
    (one,) = mailbox.json("/api/v1/messages")["messages"]
    assert (one["Subject"], one["Bcc"]) == ("你好", [{"Name": "", "Address": "楊@例子.example"}])


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("RCPT TO:<a@b.example>", "503"),
        ("DATA", "503"),
        ("MAIL FROM: a@b.example", "501"),
        ("MAIL TO:<a@b.example>", "501"),
        ("MAIL FROM:<a@b.example> SIZE=99999999", "552"),
        ("MAIL FROM:<a@b.example> RET=FULL", "555"),
        ("EHLO", "501"),
        ("STARTTLS", "502"),
        ("NOOP\n", "500"),
        ("NOOP " + "x" * 3000, "500"),
    ],
)
def test_a_wrong_command_is_refused_and_changes_nothing(mailbox: Mailbox, line: str, code: str) -> None:
    with mailbox.connect() as client:
        client.say("EHLO me")
        assert client.say(line).startswith(code)
        assert client.send(b"fine\r\n.\r\n").startswith("250 ")


def test_any_content_comes_out_as_it_was_stuffed_in(mailbox: Mailbox) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    sent = {}
    with mailbox.connect() as client:
        client.say("EHLO me")
        for number in range(300):
            lines = [
                bytes(chance.choices(b". ax\x00-", k=chance.choice([0, 1, 2, 3, 70])))
                for _ in range(chance.randrange(20))
            ]
            body = b"Subject: %d\r\n\r\n" % number + b"".join(line + b"\r\n" for line in lines)
            stuffed = re.sub(rb"(?m)^\.", b"..", body)
            # The pieces fall anywhere, also within the end of the data.
            client.write(b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n")
            assert [client.answer()[:3] for _ in range(3)] == ["250", "250", "354"]
            whole = stuffed + b".\r\n"
            cut = max(0, len(whole) - chance.randrange(1, 7))
            client.write(whole[:cut])
            client.write(whole[cut:])
            assert client.answer().startswith("250 ")
            sent[str(number)] = body
    listed = mailbox.json("/api/v1/messages?limit=1000")["messages"]
    received = {one["Subject"]: mailbox.get(f"/api/v1/message/{one['ID']}/raw") for one in listed}
    assert received == sent


def test_the_api_has_mailpits_shape(mailbox: Mailbox) -> None:
    letter = EmailMessage()
    letter["From"] = "Acme 新聞 <news@acme.example>"
    letter["To"] = '"Ann, the first" <ann@example.com>'
    letter["Subject"] = "Grüße aus 台北"
    letter["Message-ID"] = "<42@acme.example>"
    letter["Date"] = "Mon, 23 Nov 2026 10:00:00 +0800"
    letter["List-Unsubscribe"] = "<https://acme.example/u/1>"
    letter["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
    letter.set_content("Hällo\nAnn")
    letter.add_alternative("<p>Hällo <b>Ann</b></p>", subtype="html")
    letter.add_attachment(b"%PDF", maintype="application", subtype="pdf", filename="ä.pdf")
    raw = letter.as_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    with mailbox.connect() as client:
        client.say("EHLO me")
        for to in ("bob@example.com", "ann@example.com"):
            assert client.send(raw + b".\r\n", to=to, parameters=" BODY=8BITMIME").startswith("250 ")

    page = mailbox.json("/api/v1/messages?limit=1&start=1")
    assert {name: page[name] for name in ("total", "unread", "count", "messages_count", "start")} == {
        "total": 2, "unread": 2, "count": 1, "messages_count": 2, "start": 1,
    }  # fmt: skip
    (row,) = page["messages"]
    assert row["From"] == {"Name": "Acme 新聞", "Address": "news@acme.example"}
    assert row["To"] == [{"Name": "Ann, the first", "Address": "ann@example.com"}]
    assert row["Bcc"] == [{"Name": "", "Address": "bob@example.com"}]
    assert (row["Subject"], row["Snippet"], row["MessageID"]) == ("Grüße aus 台北", "Hällo Ann", "42@acme.example")
    assert (row["Size"], row["Attachments"]) == (len(raw), 1)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", row["Created"])

    whole = mailbox.json(f"/api/v1/message/{row['ID']}")
    assert (whole["Text"].strip(), whole["HTML"].strip()) == ("Hällo\nAnn", "<p>Hällo <b>Ann</b></p>")
    assert (whole["Date"], whole["ReturnPath"]) == ("2026-11-23T02:00:00.000Z", "news@acme.example")
    assert whole["ListUnsubscribe"]["Links"] == ["https://acme.example/u/1"]
    assert whole["Attachments"][0]["FileName"] == "ä.pdf"
    assert mailbox.get(f"/api/v1/message/{row['ID']}/raw") == raw
    assert mailbox.json(f"/api/v1/message/{row['ID']}/headers")["Message-Id"] == ["<42@acme.example>"]
    assert mailbox.json("/api/v1/message/latest")["ID"] != row["ID"]

    found = mailbox.json("/api/v1/search?query=to:BOB@example.com")
    assert (found["messages_count"], [one["ID"] for one in found["messages"]]) == (1, [row["ID"]])

    assert mailbox.get("/api/v1/messages", method="DELETE") == b"ok"
    assert mailbox.json("/api/v1/messages")["total"] == 0


@pytest.mark.parametrize("window", ["start=99999999999999999999999", "limit=9223372036854775807", "start=2&limit=0"])
def test_a_window_beyond_the_mails_is_empty_or_all(mailbox: Mailbox, window: str) -> None:
    answer = mailbox.json(f"/api/v1/messages?{window}")
    assert len(answer["messages"]) == (answer["total"] if window.startswith("limit") else 0)


@pytest.mark.parametrize(
    ("path", "method", "host", "status"),
    [
        ("/api/v1/message/nothing", "GET", "localhost", 404),
        ("/view/nothing", "GET", "localhost", 404),
        ("/nothing", "GET", "localhost", 404),
        ("/api/v1/messages", "POST", "localhost", 405),
        ("/api/v1/messages?limit=x", "GET", "localhost", 400),
        ("/api/v1/messages?start=-1", "GET", "localhost", 400),
        ("/api/v1/search?query=subject:x", "GET", "localhost", 400),
        # A foreign page could make its own name point at this machine and read the mails.
        ("/api/v1/messages", "GET", "attacker.example", 421),
    ],
)
def test_a_wrong_request_is_refused(mailbox: Mailbox, path: str, method: str, host: str, status: int) -> None:
    with pytest.raises(HTTPError) as refused:
        mailbox.get(path, method=method, Host=host)
    with refused.value as answer:
        assert answer.code == status


def test_the_page_shows_mails_and_lets_them_load_nothing(mailbox: Mailbox) -> None:
    html = '<script>steal()</script><img src="https://spy.example/x.png"><p>Dear Ann</p>'
    content = (
        'From: "<script>x</script>" <news@acme.example>\r\nTo: ann@example.com\r\nSubject: <b>bold</b>\r\n'
        f"Content-Type: text/html; charset=utf-8\r\n\r\n{html}\r\n"
    )
    with mailbox.connect() as client:
        client.say("EHLO me")
        assert client.send(content.encode() + b".\r\n").startswith("250 ")
    mail_id = mailbox.json("/api/v1/messages")["messages"][0]["ID"]
    for path in ("/", f"/view/{mail_id}"):
        with urlopen(mailbox.http + path, timeout=10) as response:
            page, policy = response.read().decode(), response.headers["content-security-policy"]
        assert "&lt;b&gt;bold&lt;" in page
        assert "<script" not in page
        assert "<b>bold" not in page
        assert "default-src 'none'" in policy
        assert re.findall(r'(?:src|href)="(?!/)[^"]*"', page) == [], "nothing comes from elsewhere"
    with urlopen(f"{mailbox.http}/view/{mail_id}/html", timeout=10) as response:
        framed, policy = response.read().decode(), response.headers["content-security-policy"]
    assert html in framed
    assert "default-src 'none'" in policy
    assert "sandbox allow-popups" in policy
    assert "allow-scripts" not in policy
    assert 'sandbox="allow-popups allow-popups-to-escape-sandbox"' in page


def test_only_the_newest_mails_are_kept() -> None:
    process, mailbox = start("--keep", "3")
    with mailbox.connect() as client:
        client.say("EHLO me")
        for number in range(5):
            client.send(b"Subject: %d\r\n\r\n.\r\n" % number)
    listed = mailbox.json("/api/v1/messages")
    assert ([one["Subject"] for one in listed["messages"]], listed["total"]) == (["4", "3", "2"], 3)
    stop(process)


def test_kept_mails_are_bounded_in_bytes() -> None:
    process, mailbox = start("--keep-mb", "1")
    line = b"x" * 900 + b"\r\n"
    with mailbox.connect() as client:
        client.say("EHLO me")
        for _ in range(5):
            assert client.send(line * 400 + b".\r\n").startswith("250 ")
    assert mailbox.json("/api/v1/messages")["total"] == 2
    stop(process)


def test_the_record_has_every_recipient_before_the_answer(tmp_path: Path) -> None:
    record = tmp_path / "record.jsonl"
    process, mailbox = start("--record", str(record), "--keep", "1")
    content = (
        b"Message-ID: <7@acme.example>\r\nX-Delivery: d-7\r\nList-Id: <l.acme.example>\r\nTo: c@d.example\r\n\r\nHi\r\n"
    )
    with mailbox.connect() as client:
        client.say("EHLO me")
        for number in range(10):
            assert client.send(content + b".\r\n", to=f"ann{number}@example.com").startswith("250 ")
            # The answer is here, so the line must be, although nobody has closed the file.
            rows = [json.loads(line) for line in record.read_text().splitlines()]
            assert len(rows) == number + 1
        assert client.send(b"x\ny\r\n.\r\n").startswith("554 "), "what is refused is not recorded"
        client.write(b"MAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n")
        assert [client.answer()[:3] for _ in range(4)] == ["250", "250", "250", "354"]
        client.write(b"Hi\r\n.\r\n")
        client.answer()
    process.kill()
    process.communicate()
    rows = [json.loads(line) for line in record.read_text().splitlines()]
    assert [row["recipient"] for row in rows] == [f"ann{number}@example.com" for number in range(10)] + [
        "a@b.example",
        "c@d.example",
    ]
    first = rows[0]
    assert abs(first.pop("time") - time.time()) < 60
    assert first == {
        "recipient": "ann0@example.com",
        "sender": "news@acme.example",
        "message_id": "<7@acme.example>",
        "sha256": hashlib.sha256(content).hexdigest(),
        "headers": {"x-delivery": "d-7", "list-id": "<l.acme.example>"},
    }


def test_a_delay_holds_back_the_answer_but_not_the_acceptance() -> None:
    process, mailbox = start("--delay-ms", "400")
    with mailbox.connect() as client, mailbox.connect() as other:
        for one in (client, other):
            one.say("EHLO me")
        begun = time.monotonic()
        for one in (client, other):
            one.write(b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n")
            assert [one.answer()[:3] for _ in range(3)] == ["250", "250", "354"]
            one.write(b"Hi\r\n.\r\nNOOP\r\n")
        while mailbox.json("/api/v1/messages")["total"] < 2:
            assert time.monotonic() - begun < 10
        accepted = time.monotonic() - begun
        for one in (client, other):
            assert one.answer().startswith("250 2.0.0 OK: kept")
        answered = time.monotonic() - begun
        assert accepted < 0.4 <= answered < 0.8, "connections wait beside each other"
        assert client.answer() == "250 2.0.0 OK\r\n", "what came meanwhile is answered afterwards"
    stop(process)


def test_a_port_that_is_taken_is_an_error_in_words() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        command = [sys.executable, "-m", "local_stack.mailbox", "--smtp", address, "--http", "127.0.0.1:0"]
        refused = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert refused.returncode == 2
    assert f"{address} is taken by another program" in refused.stderr
