"""T7: who asks about an address learns nothing of it: the same status, the same shape, and the same commits."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct

from messmail.member_center.v1 import member_center_pb2 as pb
from messmail.member_center.v1 import member_center_people_pb2 as people_pb
from tests.claims_table import ClaimRow, hand_in_claim
from tests.gateway_fixtures import RestAnswer, RestClient, running_gateway_of
from tests.member_center_fixtures import MemberCenter, Newsletter, counted_commits, reason_of, unique_address

KINDS = ("unknown", "pending", "expired", "confirmed", "unsubscribed", "complained", "suppressed", "held", "erased")
UNKNOWN_LIST = "00000000-0000-4000-8000-000000000000"


@pytest.fixture(scope="module")
def rest(member_center: MemberCenter, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RestClient]:
    with running_gateway_of(member_center, tmp_path_factory.mktemp("gateway") / "gateway.log") as client:
        yield client


def addresses(center: MemberCenter, newsletter: Newsletter, weeks: int = 1) -> dict[str, str]:
    """Makes an address in every state that the system can know one in; the clock is so many weeks on then."""
    found = {kind: unique_address(kind) for kind in KINDS}
    center.subscribe(newsletter.list_id, found["expired"])
    center.set_clock(timedelta(days=8 * weeks))
    center.subscribe(newsletter.list_id, found["pending"])
    for kind in ("confirmed", "unsubscribed", "complained", "suppressed", "erased"):
        center.add_member(newsletter, found[kind])
    center.unsubscribe(center.unsubscribe_token(newsletter.list_id, found["unsubscribed"]))
    of_list = {"tenant_id": newsletter.tenant_id, "list_id": newsletter.list_id}
    center.admin.RecordComplaint(people_pb.RecordComplaintRequest(**of_list, email=found["complained"]))
    for kind in ("suppressed", "held"):
        center.admin.AddSuppression(
            people_pb.AddSuppressionRequest(
                tenant_id=newsletter.tenant_id,
                email=found[kind],
                scope=people_pb.SUPPRESSION_SCOPE_EVERYTHING,
                reason=people_pb.SUPPRESSION_REASON_MANUAL,
            )
        )
    center.admin.ErasePerson(people_pb.ErasePersonRequest(tenant_id=newsletter.tenant_id, email=found["erased"]))
    return found


def shape(value: Any) -> Any:
    """Returns what JSON looks like: names and kinds, of texts the length, and of words that are no secret the word."""
    if isinstance(value, dict):
        return {name: value[name] if name == "status" else shape(value[name]) for name in sorted(value)}
    return len(value) if isinstance(value, str) else type(value).__name__


def calls_of(rest: RestClient, list_id: str) -> dict[str, Callable[[str], RestAnswer]]:
    """The calls that name an address, over REST."""
    paths = ("/newsletter/subscribe", "/newsletter/unsubscribe-token")
    calls: dict[str, Callable[[str], RestAnswer]] = {
        path: lambda email, path=path: rest.post(path, {"list_id": list_id, "email": email})  # type: ignore[misc]
        for path in paths
    }
    calls["preferences"] = lambda email: rest.post(
        "/newsletter/preferences", {"list_id": list_id, "email": email, "preferences": {}}
    )
    calls["read preferences"] = lambda email: rest.get(f"/newsletter/preferences?list_id={list_id}&email={email}")
    return calls


def test_an_answer_is_the_same_whatever_is_known_of_the_address(
    member_center: MemberCenter, rest: RestClient, clock: object, record_property: object
) -> None:
    newsletter = member_center.make_newsletter()
    # Each call gets addresses of its own: after a subscribe nobody is unknown any more.
    seen = {
        (name, kind): (answer.status, shape(answer.json))
        for weeks, (name, call) in enumerate(calls_of(rest, newsletter.list_id).items(), 1)
        for kind, email in addresses(member_center, newsletter, weeks).items()
        for answer in [call(email)]
    }
    odd = [(name, kind) for (name, kind), answer in seen.items() if answer != seen[name, "unknown"]]
    hand_in_claim(record_property, ClaimRow("T7", "same answer for every address", len(seen), len(seen), len(odd)))
    assert odd == []
    assert {answer[0] for answer in seen.values()} == {200}


def test_an_answer_costs_the_same_commits_whatever_is_known_of_the_address(
    member_center: MemberCenter, clock: object, record_property: object
) -> None:
    newsletter = member_center.make_newsletter()
    calls: dict[str, Callable[[str], object]] = {
        "subscribe": lambda email: member_center.subscribe(newsletter.list_id, email),
        "unsubscribe-token": lambda email: member_center.unsubscribe_token(newsletter.list_id, email),
        "preferences": lambda email: member_center.public.UpdatePreferences(
            pb.UpdatePreferencesRequest(list_id=newsletter.list_id, email=email, preferences=Struct())
        ),
        "read preferences": lambda email: member_center.public.GetPreferences(
            pb.GetPreferencesRequest(list_id=newsletter.list_id, email=email)
        ),
    }
    rounds = itertools.count(1)
    costs: dict[tuple[str, str], int] = {}
    for name, call in calls.items():
        for _ in range(5):
            # Lists and limits are read again every two seconds: what happened to cost that too is asked once more, of
            # somebody new, for it is the first call that must tell nothing.
            for kind, email in addresses(member_center, newsletter, next(rounds)).items():
                if costs.get((name, kind)) != 1:
                    costs[name, kind] = _cost(call, email)
            if all(costs[name, kind] == 1 for kind in KINDS):
                break
    odd = [key for key, cost in costs.items() if cost != 1]
    hand_in_claim(record_property, ClaimRow("T7", "same commits for every address", len(costs), len(costs), len(odd)))
    assert odd == []


@pytest.mark.claim("T7", "an unknown list is 404", asked=4, run=4)
def test_an_unknown_list_is_not_found_over_either_face(member_center: MemberCenter, rest: RestClient) -> None:
    answers = [call(unique_address()) for call in calls_of(rest, UNKNOWN_LIST).values()]
    assert {(answer.status, answer.word) for answer in answers} == {(404, "LIST_NOT_FOUND")}
    assert reason_of(lambda: member_center.subscribe(UNKNOWN_LIST, unique_address())) == "LIST_NOT_FOUND"


def _cost(call: Callable[[str], object], email: str) -> int:
    """Counts the transactions of a call."""
    with counted_commits() as commits:
        call(email)
    return len(commits)
