"""Reading replies: however the bytes are cut, whatever a server says, and how little of it is kept."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from send_engine.esp.port import Category, Verdict
from send_engine.esp.replies import MAX_QUOTED, Phase, ReplyReader, classify, quote

STREAM = (
    b"250-relay.example\r\n250-PIPELINING\r\n250 SIZE 1000\r\n250 2.1.0 Ok\r\n354 Go\r\n250\r\n"
    b"550-5.1.1 No\r\n550 5.1.1 such user\r\n250 bare\n"
)
REPLIES = [
    (250, b"relay.example\nPIPELINING\nSIZE 1000"),
    (250, b"2.1.0 Ok"),
    (354, b"Go"),
    (250, b""),
    (550, b"5.1.1 No\n5.1.1 such user"),
    (250, b"bare"),
]


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_replies_are_the_same_however_the_stream_is_cut(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    reader = ReplyReader()
    replies = [reply for start, end in itertools.pairwise(edges) for reply in reader.feed(STREAM[start:end])]
    assert replies == REPLIES
    assert reader.broken is None
    assert not reader.has_rest


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_no_bytes_break_the_reader_itself(chunks: list[bytes]) -> None:
    reader = ReplyReader()
    for chunk in chunks:
        for code, _ in reader.feed(chunk):
            assert 200 <= code < 600


@pytest.mark.parametrize(
    "garbage",
    [
        b"hello\r\n",
        b"25\r\n",
        b"\r\n",
        b"199 no\r\n",
        b"600 no\r\n",
        b"+25 no\r\n",
        b"250_no\r\n",
        b"2500\r\n",
        "\uff12\uff15\uff10 ok\r\n".encode(),
        b"250-a\r\n251 b\r\n",
        b"250 " + b"x" * 3_000 + b"\r\n",
        b"250 " + b"x" * 3_000,
        b"250-x\r\n" * 200,
    ],
)
def test_what_is_no_reply_breaks_the_stream_after_the_good_ones(garbage: bytes) -> None:
    reader = ReplyReader()
    assert reader.feed(b"250 good\r\n" + garbage) == [(250, b"good")]
    assert reader.broken
    assert reader.feed(b"250 too late\r\n") == []


@pytest.mark.parametrize(
    ("code", "text", "phase", "verdict", "category"),
    [
        (250, b"2.0.0 Ok", Phase.final_dot, Verdict.accepted, None),
        (550, b"5.1.1 x", Phase.final_dot, Verdict.failed, Category.mailbox),
        (550, b"5.1.10 x", Phase.rcpt, Verdict.failed, Category.mailbox),
        (550, b"5.1.7 x", Phase.mail, Verdict.failed, Category.policy),
        (552, b"5.2.2 x", Phase.rcpt, Verdict.failed, Category.mailbox),
        (552, b"5.3.4 x", Phase.final_dot, Verdict.failed, Category.content),
        (451, b"4.3.0 x", Phase.final_dot, Verdict.deferred, Category.network),
        (450, b"4.4.1 x", Phase.final_dot, Verdict.deferred, Category.network),
        (501, b"5.5.4 x", Phase.mail, Verdict.failed, Category.network),
        (554, b"5.6.1 x", Phase.final_dot, Verdict.failed, Category.content),
        (554, b"5.7.26 x", Phase.final_dot, Verdict.failed, Category.policy),
        # The basic code decides, the enhanced one only says whose trouble it is.
        (450, b"5.1.1 x", Phase.rcpt, Verdict.deferred, Category.mailbox),
        # What only looks enhanced is text.
        (550, b"5.1.1x", Phase.rcpt, Verdict.failed, Category.mailbox),
        (554, b"5.1.1234 x", Phase.final_dot, Verdict.failed, Category.content),
        (550, b"5.0.0 x", Phase.rcpt, Verdict.failed, Category.mailbox),
        (535, b"x", Phase.mail, Verdict.failed, Category.policy),
    ],
)
def test_a_code_says_what_became_of_the_mail_and_whose_trouble_it_is(
    code: int, text: bytes, phase: Phase, verdict: Verdict, category: Category | None
) -> None:
    outcome = classify(code, text, phase)
    assert (outcome.verdict, outcome.code, outcome.category) == (verdict, code, category)


@pytest.mark.parametrize(
    "text",
    [
        "<reader@example.org>: unknown",
        "reader@example.org unknown",
        "user reader%40example.org unknown",
        'unknown: "quoted reader"@example.org',
        "verp bounces+reader=example.net@list.example",
        "<@relay.example:reader@example.org>",
        "用戶reader@example.org 不明",
        "x" * 3_000 + " reader@example.org",
        "y" * 505 + " reader@example.org",
        "mailto:reader@example.org?subject=x",
    ],
)
def test_no_address_is_quoted(text: str) -> None:
    kept = quote(text.encode())
    assert "reader" not in kept
    assert "@" not in kept
    assert len(kept) <= MAX_QUOTED


@given(st.binary(max_size=6_000))
def test_a_quotation_is_one_bounded_printable_line(text: bytes) -> None:
    kept = quote(text)
    assert len(kept) <= MAX_QUOTED
    assert len(kept.splitlines()) <= 1
    assert "\x00" not in kept
