"""The recording sink has on disk what it has accepted, refuses what is not strict, and does what its rules say."""

import hashlib
import smtplib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.recount import Sink, recording_sink
from tests.rig.sink import Rule

MAIL = b"X-Messmail-Delivery: d1\r\nDate: now\r\n\r\nHello\r\n..dotted\r\n"
ENVELOPE = b"EHLO me\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n"


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[Sink]:
    with recording_sink(tmp_path) as running:
        yield running


def client(sink: Sink) -> smtplib.SMTP:
    host, _, port = sink.address.rpartition(":")
    return smtplib.SMTP(host, int(port), timeout=5)


def raw(sink: Sink, sent: bytes) -> bytes:
    """Returns all the sink says to these bytes, up to its end of the connection."""
    host, _, port = sink.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(sent)
        said = b""
        while piece := connection.recv(65536):
            said += piece
        return said


def test_what_was_accepted_is_in_the_record_with_delivery_attempt_and_hash(sink: Sink) -> None:
    for attempt in (1, 2):
        with client(sink) as smtp:
            smtp.sendmail("a@b.example", "c@d.example", b"X-Messmail-Delivery: d1\r\n\r\nHello\r\n")
        assert len(list(sink.entries())) == attempt
    first, second = sink.entries()
    assert (first["delivery"], first["recipient"], first["attempt"], second["attempt"]) == ("d1", "c@d.example", 1, 2)
    assert first["sha256"] == hashlib.sha256(b"X-Messmail-Delivery: d1\r\n\r\nHello\r\n").hexdigest()


def test_pipelined_mails_are_answered_in_their_order_and_unstuffed(sink: Sink) -> None:
    again = ENVELOPE.partition(b"\r\n")[2]
    said = raw(sink, ENVELOPE + MAIL + b".\r\n" + again + MAIL + b".\r\nQUIT\r\n")
    codes = [line[:3] for line in said.splitlines() if line[3:4] == b" "]
    assert codes == [b"220", b"250", b"250", b"250", b"354", b"250", b"250", b"250", b"354", b"250", b"221"]
    assert {entry["sha256"] for entry in sink.entries()} == {
        hashlib.sha256(MAIL.replace(b"..dotted", b".dotted")).hexdigest()
    }


@pytest.mark.parametrize(
    "body",
    [b"a\nb\r\n", b"a\rb\r\n", b"a\n.\nMAIL\r\n", b"x" * 999 + b"\r\n", b"a\0b\r\n"],
    ids=["bare LF", "bare CR", "smuggled dot", "999 bytes", "NUL"],
)
def test_a_body_that_is_not_strict_is_refused_and_not_recorded(sink: Sink, body: bytes) -> None:
    assert b"\r\n550 5.6.0" in raw(sink, ENVELOPE + body + b".\r\n")
    assert list(sink.entries()) == []


def test_a_command_out_of_order_and_one_with_a_bare_line_feed_are_refused(sink: Sink) -> None:
    assert b"503" in raw(sink, b"EHLO me\r\nRCPT TO:<c@d.example>\r\nQUIT\r\n")
    assert b"500" in raw(sink, b"EHLO me\nMAIL FROM:<a@b.example>\r\n")


def test_a_rule_answers_some_recipients_for_some_attempts(sink: Sink) -> None:
    sink.script(Rule("rcpt", recipient="^shy", attempts=1, reply="451 4.7.1 later"))
    with client(sink) as smtp:
        with pytest.raises(smtplib.SMTPRecipientsRefused):
            smtp.sendmail("a@b.example", "shy@d.example", MAIL)
        smtp.sendmail("a@b.example", "bold@d.example", MAIL)
        smtp.sendmail("a@b.example", "shy@d.example", MAIL)
    assert list(sink.recipients()) == ["bold@d.example", "shy@d.example"]


@pytest.mark.parametrize(("phase", "taken"), [("data", 0), ("body", 0), ("dot", 1)])
def test_a_cut_falls_before_or_after_the_mail_is_on_disk(sink: Sink, phase: str, taken: int) -> None:
    sink.script(Rule(phase, then="reset"))
    with pytest.raises((smtplib.SMTPServerDisconnected, ConnectionResetError)):
        client(sink).sendmail("a@b.example", "c@d.example", MAIL)
    assert len(list(sink.entries())) == taken


def test_a_refusal_at_the_dot_leaves_nothing_in_the_record(sink: Sink) -> None:
    sink.script(Rule("dot", reply="452 4.3.1 full"))
    with client(sink) as smtp, pytest.raises(smtplib.SMTPDataError):
        smtp.sendmail("a@b.example", "c@d.example", MAIL)
    assert list(sink.entries()) == []
