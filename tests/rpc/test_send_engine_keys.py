"""The issuer's keys as a service keeps them: fetched over gRPC, fresh, and never asked for too often."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from servicekit import jwks
from servicekit.jwks import FetchedKeys
from tests.send_engine_fixtures import StandInMemberCenter


@pytest.fixture
def issuer() -> Iterator[StandInMemberCenter]:
    made = StandInMemberCenter()  # type: ignore[abstract]
    yield made
    made.stop()


@pytest.fixture
def keys(issuer: StandInMemberCenter) -> Iterator[FetchedKeys]:
    made = FetchedKeys(issuer.address)
    yield made
    made.close()


def test_a_key_is_fetched_once_and_stays_the_same_object(issuer: StandInMemberCenter, keys: FetchedKeys) -> None:
    first = keys.key("k")
    assert first is not None
    assert keys.key("k") is first
    assert issuer.key_sets_served == 1


def test_unknown_keys_do_not_turn_into_a_call_each(issuer: StandInMemberCenter, keys: FetchedKeys) -> None:
    assert [keys.key(f"made-up-{number}") for number in range(100)] == [None] * 100
    assert issuer.key_sets_served == 1


def test_a_new_key_is_found_and_a_removed_one_is_gone(
    issuer: StandInMemberCenter, keys: FetchedKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = keys.key("k")
    monkeypatch.setattr(jwks, "REFRESH_SECONDS", 0.0)
    monkeypatch.setattr(jwks, "_UNKNOWN_KEY_SECONDS", 0.0)
    issuer.kids = ["k", "new"]
    assert keys.key("new") is not None
    assert keys.key("k") is old
    issuer.kids = ["new"]
    assert keys.key("k") is None


def test_known_keys_outlive_the_issuers_silence(
    issuer: StandInMemberCenter, keys: FetchedKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = keys.key("k")
    monkeypatch.setattr(jwks, "REFRESH_SECONDS", 0.0)
    issuer.stop()
    assert keys.key("k") is known is not None
