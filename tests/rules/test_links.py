"""Sealed links: what opens them, and what does not."""

from __future__ import annotations

import base64
import os
import random
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV
from hypothesis import given
from hypothesis import strategies as st

from member_center.links import TOKEN_CHARACTERS, LinkKey, Links
from member_center.records.consent import Link, Purpose
from servicekit.errors import MessmailError, Reason

SWAPPED = pytest.mark.claim("T6", "sealed links: purpose, parts, key or installation swapped, another form: not opened")
EXPIRES = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
BASE = "https://news.example"


class Ring:
    """A ring in memory: one current key for each purpose, and the older ones."""

    def __init__(self) -> None:
        self.keys: dict[bytes, LinkKey] = {}
        self._current: dict[Purpose, LinkKey] = {}
        for purpose in Purpose:
            self.rotate(purpose)

    def rotate(self, purpose: Purpose) -> LinkKey:
        key = LinkKey(os.urandom(4), purpose, AESGCMSIV(AESGCMSIV.generate_key(256)))
        self.keys[key.id] = self._current[purpose] = key
        return key

    def current(self, purpose: Purpose) -> LinkKey:
        return self._current[purpose]

    def find(self, key_id: bytes) -> LinkKey | None:
        return self.keys.get(key_id)


RING = Ring()
LINKS = Links(RING, BASE)

links = st.builds(
    Link,
    st.sampled_from(Purpose),
    st.uuids(),
    st.uuids(),
    st.uuids(),
    st.integers(0, 2**32 - 1),
    st.none() | st.datetimes(datetime(1971, 1, 1), datetime(9999, 1, 1)).map(
        lambda moment: moment.replace(microsecond=0, tzinfo=UTC)
    ),
)  # fmt: skip


def make_link(purpose: Purpose) -> Link:
    return Link(purpose, uuid4(), uuid4(), uuid4(), 3, EXPIRES)


def assert_opens_nothing(token: str, *purposes: Purpose, links: Links = LINKS) -> None:
    with pytest.raises(MessmailError) as refused:
        links.open(token, *(purposes or Purpose))
    assert refused.value.reason == Reason.ERROR_REASON_LINK_INVALID
    assert token == "" or token not in refused.value.message


@given(links)
def test_a_link_comes_out_as_it_was_sealed(link: Link) -> None:
    assert LINKS.open(LINKS.seal(link), link.purpose) == link


@given(links, links)
def test_all_tokens_have_one_length_and_two_of_one_link_differ(one: Link, other: Link) -> None:
    tokens = [LINKS.seal(one), LINKS.seal(one), LINKS.seal(other)]
    assert {len(token) for token in tokens} == {TOKEN_CHARACTERS}
    assert len(set(tokens)) == 3


@SWAPPED
@pytest.mark.parametrize("purpose", Purpose)
def test_a_token_opens_for_its_purpose_only(purpose: Purpose) -> None:
    token = LINKS.seal(make_link(purpose))
    assert_opens_nothing(token, *(set(Purpose) - {purpose}))
    assert LINKS.open(token, *Purpose).purpose is purpose


@pytest.mark.claim("T6", "mutations of sealed links: not opened", asked=10_000, run=10_000)
def test_no_mutation_of_a_token_opens_anything() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    tokens = [LINKS.seal(make_link(purpose)) for purpose in Purpose]
    for number in range(10_000):
        mutant = token = tokens[number % len(tokens)]
        while mutant == token:
            place, letter = chance.randrange(TOKEN_CHARACTERS), chance.choice(alphabet)
            mutant = token[:place] + letter + token[place + 1 :]
        assert_opens_nothing(mutant)


@SWAPPED
@pytest.mark.parametrize("part", ["key id", "nonce", "payload", "tag"])
def test_parts_of_two_tokens_do_not_fit_together(part: str) -> None:
    start, end = {"key id": (0, 4), "nonce": (4, 16), "payload": (16, 77), "tag": (77, 93)}[part]
    for purpose in Purpose:
        for other in Purpose:
            mine, theirs = (base64.urlsafe_b64decode(LINKS.seal(make_link(each))) for each in (purpose, other))
            mixed = mine[:start] + theirs[start:end] + mine[end:]
            if mixed not in (mine, theirs):
                assert_opens_nothing(base64.urlsafe_b64encode(mixed).decode())


SPOILT: dict[str, Callable[[str], str]] = {
    "nothing": lambda token: "",
    "cut": lambda token: token[:-1],
    "longer": lambda token: token + "A",
    "padded": lambda token: token + "=",
    "folded": lambda token: token[:60] + "\n" + token[60:],
    "blank": lambda token: token[:60] + " " + token[61:],
    "beyond ASCII": lambda token: token[:60] + "é" + token[61:],
    "the other base64": lambda token: "+" + token[1:],
    "repeated": lambda token: token * 4,
    "NUL": lambda token: "\0" * TOKEN_CHARACTERS,
}


@SWAPPED
@pytest.mark.parametrize("how", SPOILT)
def test_only_the_exact_form_is_a_token(how: str) -> None:
    assert_opens_nothing(SPOILT[how](LINKS.seal(make_link(Purpose.CONFIRM_MAIL))))


@SWAPPED
def test_a_token_of_another_installation_opens_nothing() -> None:
    assert_opens_nothing(Links(Ring(), BASE).seal(make_link(Purpose.ONE_CLICK)))


@SWAPPED
def test_a_key_moved_to_another_purpose_opens_nothing() -> None:
    ring = Ring()
    links = Links(ring, BASE)
    token = links.seal(make_link(Purpose.CONFIRM_API))
    key = ring.current(Purpose.CONFIRM_API)
    ring.keys[key.id] = LinkKey(key.id, Purpose.ONE_CLICK, key.cipher)
    assert_opens_nothing(token, links=links)


def test_what_an_older_key_sealed_still_opens() -> None:
    ring = Ring()
    links = Links(ring, BASE)
    link = make_link(Purpose.ONE_CLICK)
    before = links.seal(link)
    key = ring.rotate(Purpose.ONE_CLICK)
    after = links.seal(link)
    assert links.open(before, Purpose.ONE_CLICK) == links.open(after, Purpose.ONE_CLICK) == link
    assert base64.urlsafe_b64decode(after)[:4] == key.id


def test_a_decoy_looks_like_any_unsubscribe_token_and_belongs_to_nobody() -> None:
    tenant_id, list_id = uuid4(), uuid4()
    decoys = [LINKS.seal_decoy(tenant_id, list_id, EXPIRES) for _ in range(20)]
    opened = [LINKS.open(decoy, Purpose.UNSUBSCRIBE) for decoy in decoys]
    assert {len(decoy) for decoy in decoys} == {TOKEN_CHARACTERS}
    assert {(each.tenant_id, each.list_id, each.expires_at) for each in opened} == {(tenant_id, list_id, EXPIRES)}
    assert len({each.subscription_id for each in opened}) == 20


def test_a_group_gets_a_link_each() -> None:
    people = [uuid4() for _ in range(5)]
    link = Link(Purpose.ONE_CLICK, uuid4(), uuid4(), UUID(int=0))
    tokens = LINKS.seal_for_each(link, [person.bytes for person in people])
    assert [LINKS.open(token, Purpose.ONE_CLICK).subscription_id for token in tokens] == people
    assert LINKS.seal_for_each(link, []) == []


def test_urls_are_built_from_the_public_address() -> None:
    links = Links(RING, "https://news.example/base/")
    assert links.confirm_url("t") == "https://news.example/base/newsletter/confirm?token=t"
    assert links.one_click_url("t") == "https://news.example/base/newsletter/unsubscribe?token=t"
    assert links.preferences_url("t") == "https://news.example/base/newsletter/preference-center?token=t"
