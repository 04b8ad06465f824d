"""The list of revocations is never older than a few seconds, and says so when it cannot be."""

from __future__ import annotations

import time
import uuid

import pytest

from servicekit.errors import MessmailError, Reason
from servicekit.revocations import REFRESH_SECONDS, STALE_SECONDS, Revocations, Revoked
from servicekit.tokens import Claims

CLIENT = uuid.uuid4()


class Source:
    """Where the list comes from, and the time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.revoked: Revoked | None = Revoked()
        self.reads = 0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

    def read(self) -> Revoked:
        self.reads += 1
        if self.revoked is None:
            raise MessmailError(Reason.ERROR_REASON_UNAVAILABLE, "away")
        return self.revoked


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Source:
    return Source(monkeypatch)


def claims(token_id: str = "t", client_id: uuid.UUID = CLIENT) -> Claims:
    return Claims(token_id, client_id, None, "internal", frozenset(), 0, 2**31)


def test_a_token_is_refused_soon_after_it_or_its_client_was_ended(source: Source) -> None:
    known = Revocations(source.read)
    assert not known.includes(claims())
    for revoked in (Revoked(token_ids=frozenset({"t"})), Revoked(client_ids=frozenset({CLIENT}))):
        source.revoked = revoked
        source.now += REFRESH_SECONDS
        assert known.includes(claims())
        assert known.includes(claims("other")) is bool(revoked.client_ids)
        assert not known.includes(claims("other", uuid.uuid4()))


def test_the_list_is_read_once_in_a_while_not_for_each_token(source: Source) -> None:
    known = Revocations(source.read)
    for _ in range(100):
        known.includes(claims())
        source.now += REFRESH_SECONDS / 50
    assert source.reads <= 3


def test_while_the_source_is_away_what_is_known_goes_on_for_a_while(source: Source) -> None:
    known = Revocations(source.read)
    source.revoked = Revoked(token_ids=frozenset({"t"}))
    assert known.includes(claims())
    source.revoked = None
    source.now += STALE_SECONDS - 1
    assert known.includes(claims())
    assert not known.includes(claims("other"))
    source.now += 1
    with pytest.raises(MessmailError) as refused:
        known.includes(claims("other"))
    assert refused.value.reason == Reason.ERROR_REASON_UNAVAILABLE
    source.revoked = Revoked()
    source.now += 1
    assert not known.includes(claims("other"))


def test_without_any_list_no_token_is_good(source: Source) -> None:
    source.revoked = None
    with pytest.raises(MessmailError) as refused:
        Revocations(source.read).includes(claims())
    assert refused.value.reason == Reason.ERROR_REASON_UNAVAILABLE
