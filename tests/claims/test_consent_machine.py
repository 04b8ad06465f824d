"""Consent against a model of it, step by step, over REST and gRPC: three tenants, four lists, the same people on all.

After each step everything stored, and everybody whom a send job may mail, must be as the model has it. The test plays
Send Engine: it leases the confirmation mails and asks who may be mailed.
"""

from __future__ import annotations

import itertools
import random
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlencode

import hypothesis
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from messmail.member_center.v1 import member_center_admin_pb2 as admin_pb
from messmail.member_center.v1 import member_center_feed_pb2 as feed_pb
from messmail.member_center.v1 import member_center_pb2 as pb
from messmail.member_center.v1 import member_center_people_pb2 as people_pb
from tests.claims.consent_model import DAY, HOUR, MINUTE, PENDING_LIFE, TOKEN_LIFE, ConsentModel, KnownLink, Place, Stop
from tests.claims_table import ClaimRow, cases, hand_in_claim
from tests.gateway_fixtures import RestClient, running_gateway_of
from tests.member_center_fixtures import MemberCenter, Newsletter, reason_of, status_name

STEPS = 10_000
LIVES, STEPS_OF_A_LIFE = 4, 50
# Which tenant each list is of.
LISTS = (0, 0, 1, 2)
PEOPLE = 2

# One place more often than the others: what happens to the same person twice is where mistakes are.
USUAL = Place(0, 0, 0)
EVERYWHERE = [Place(tenant, number, person) for number, tenant in enumerate(LISTS) for person in range(PEOPLE)]
places = st.sampled_from([USUAL] * len(EVERYWHERE) + EVERYWHERE)
over_rest = st.booleans()
recent = st.integers(0, 5)


class ConsentMachine(RuleBasedStateMachine):
    """Strangers, people, sites and operators, in any order."""

    center: ClassVar[MemberCenter]
    rest: ClassVar[RestClient]
    steps: ClassVar[int] = 0
    # The clock never goes back, not even between two lives.
    ahead: ClassVar[int] = 0

    @initialize()
    def settle(self) -> None:
        self.model = ConsentModel(now=ConsentMachine.ahead)
        tenants = [self.center.make_tenant() for _ in range(max(LISTS) + 1)]
        self.newsletters = [Newsletter(tenants[tenant], self.center.make_list(tenants[tenant])) for tenant in LISTS]
        self.sites = [
            self.center.public_as(self.center.make_client(tenant, "newsletter:members.write")) for tenant in tenants
        ]
        mark = uuid.uuid4().hex[:10]
        self.emails = [f"Reader{number}.{mark}@mail.example" for number in range(PEOPLE)]
        self.confirm_links: list[KnownLink] = []
        self.leave_links: list[KnownLink] = []
        self.suppressions: dict[Stop, str] = {}

    # ---- strangers and people

    @rule(place=places, rest=over_rest)
    def subscribe(self, place: Place, rest: bool) -> None:
        target = {"list_id": self._newsletter(place).list_id, "email": self.emails[place.person]}
        if rest:
            answer = self.rest.post("/newsletter/subscribe", target)
            assert (answer.status, answer.word) == (200, "pending")
            token = answer.json["confirm_token"]
        else:
            token = self.center.subscribe(target["list_id"], target["email"])
        self.model.subscribe(place)
        self.confirm_links.append(self.model.link("confirm_api", token, place, PENDING_LIFE))

    @precondition(lambda self: self.confirm_links)
    @rule(back=recent, way=st.sampled_from(["get", "post", "grpc", "follow"]))
    def confirm(self, back: int, way: str) -> None:
        link = self.confirm_links[-1 - back % len(self.confirm_links)]
        acts = link.kind == "confirm_api" or way in ("post", "grpc")
        calls: dict[str, Callable[[], str]] = {
            "get": lambda: self.rest.get(f"/newsletter/confirm?{urlencode({'token': link.token})}").word,
            "post": lambda: self.rest.post("/newsletter/confirm", {"token": link.token}).word,
            "grpc": lambda: self._told(pb.ConfirmSubscriptionRequest(token=link.token)),
            "follow": lambda: self._told(pb.FollowConfirmLinkRequest(token=link.token)),
        }
        assert calls[way]() == self.model.confirm(link, acts=acts)

    @rule(place=places, rest=over_rest)
    def ask_for_an_unsubscribe_token(self, place: Place, rest: bool) -> None:
        target = {"list_id": self._newsletter(place).list_id, "email": self.emails[place.person]}
        if rest:
            token = self.rest.post("/newsletter/unsubscribe-token", target).json["unsubscribe_token"]
        else:
            token = self.center.unsubscribe_token(target["list_id"], target["email"])
        self.leave_links.append(self.model.link("unsubscribe", token, place, TOKEN_LIFE))

    @precondition(lambda self: self.leave_links)
    @rule(back=recent, rest=over_rest)
    def unsubscribe(self, back: int, rest: bool) -> None:
        link = self.leave_links[-1 - back % len(self.leave_links)]
        if not rest:
            answer = self._told(pb.UnsubscribeRequest(token=link.token))
        elif link.kind == "one_click":
            answer = self.rest.post_one_click(f"/newsletter/unsubscribe?{urlencode({'token': link.token})}").word
        else:
            answer = self.rest.post("/newsletter/unsubscribe", {"token": link.token}).word
        assert answer == self.model.unsubscribe(link)

    # ---- Send Engine

    @precondition(lambda self: self.model.waiting)
    @rule()
    def deliver_confirmation_mails(self) -> None:
        number = {newsletter.list_id: index for index, newsletter in enumerate(self.newsletters)}
        person = {email: index for index, email in enumerate(self.emails)}
        mails = {}
        for mail in self.center.lease_mails():
            if (index := number.get(mail.profile.list_id)) is not None:
                place = Place(LISTS[index], index, person[mail.address])
                assert place not in mails
                mails[place] = mail
        assert set(mails) == self.model.take_mails()
        for place, mail in mails.items():
            token = mail.confirm_url.partition("token=")[2]
            self.confirm_links.append(self.model.link("confirm_mail", token, place, None))
            assert self.center.acknowledge(mail, feed_pb.MAIL_OUTCOME_SENT) == 1

    @precondition(lambda self: self.model.rows)
    @rule(place=places)
    def send_a_newsletter(self, place: Place) -> None:
        newsletter = self._newsletter(place)
        ids = {
            self.center.subscription_id(newsletter, self.emails[each.person]): each
            for each in self.model.rows
            if each.list == place.list
        }
        for one in self._authorized(newsletter, list(ids)).authorized if ids else ():
            token = one.one_click_url.partition("token=")[2]
            self.leave_links.append(self.model.link("one_click", token, ids[one.subscription_id], None))

    # ---- sites and operators

    @rule(place=places, proven=st.booleans())
    def import_somebody(self, place: Place, proven: bool) -> None:
        newsletter = self._newsletter(place)
        request = admin_pb.ImportMembersRequest(
            tenant_id=newsletter.tenant_id,
            list_id=newsletter.list_id,
            rows=[admin_pb.ImportRow(email=self.emails[place.person])],
            confirmed=proven,
            evidence="a paper form" if proven else "",
        )
        assert self.center.admin.ImportMembers(request).imported == self.model.bring_in(place, proven=proven)

    @rule(place=places)
    def subscribe_with_evidence(self, place: Place) -> None:
        newsletter = self._newsletter(place)
        request = pb.SubscribeRequest(
            list_id=newsletter.list_id, email=self.emails[place.person], evidence="confirmed at the till"
        )
        answer = self.sites[place.tenant].Subscribe(request)
        word = self.model.vouch(place)
        assert (status_name(answer.status), bool(answer.confirm_token)) == (word, word == "pending")
        if answer.confirm_token:
            link = self.model.link("confirm_api", answer.confirm_token, place, PENDING_LIFE)
            self.confirm_links.append(link)

    @rule(place=places, lifted=st.booleans())
    def complain(self, place: Place, lifted: bool) -> None:
        newsletter = self._newsletter(place)
        target = {
            "tenant_id": newsletter.tenant_id,
            "list_id": newsletter.list_id,
            "email": self.emails[place.person],
            "evidence": "a letter",
        }
        if lifted:
            answer = self._told(people_pb.LiftComplaintRequest(**target))
            assert answer == self.model.pardon(place)
        else:
            answer = self._told(people_pb.RecordComplaintRequest(**target))
            assert answer == self.model.complain(place)

    @rule(place=places, whole_tenant=st.booleans(), scope=st.sampled_from(["newsletter", "everything"]))
    def suppress(self, place: Place, whole_tenant: bool, scope: str) -> None:
        newsletter = self._newsletter(place)
        request = people_pb.AddSuppressionRequest(
            tenant_id=newsletter.tenant_id,
            list_id="" if whole_tenant else newsletter.list_id,
            email=self.emails[place.person],
            scope=people_pb.SuppressionScope.Value(f"SUPPRESSION_SCOPE_{scope.upper()}"),
            reason=people_pb.SUPPRESSION_REASON_MANUAL,
        )
        stop = Stop(place.tenant, None if whole_tenant else place.list, place.person, "manual")
        self.model.stops[stop] = scope
        self.suppressions[stop] = self.center.admin.AddSuppression(request).suppression.suppression_id

    @precondition(lambda self: self.suppressions)
    @rule(back=recent)
    def lift_a_suppression(self, back: int) -> None:
        stop = list(self.suppressions)[-1 - back % len(self.suppressions)]
        del self.model.stops[stop]
        request = people_pb.RemoveSuppressionRequest(
            tenant_id=self.newsletters[LISTS.index(stop.tenant)].tenant_id, suppression_id=self.suppressions.pop(stop)
        )
        self.center.admin.RemoveSuppression(request)

    @rule(place=places, one_in=st.integers(0, 2))
    def erase(self, place: Place, one_in: int) -> None:
        if one_in:
            # Rarely, or nobody would live long enough. This was no step.
            ConsentMachine.steps -= 1
            return
        request = people_pb.ErasePersonRequest(
            tenant_id=self._newsletter(place).tenant_id, email=self.emails[place.person]
        )
        erased = self.center.admin.ErasePerson(request).subscription_ids
        assert len(erased) == self.model.erase(place.tenant, place.person)

    @rule(seconds=st.sampled_from([MINUTE, 10 * MINUTE, HOUR, 3 * DAY, 7 * DAY]))
    def time_passes(self, seconds: int) -> None:
        self.model.now = ConsentMachine.ahead = self.model.now + seconds
        self.center.set_clock(timedelta(seconds=self.model.now))

    # ---- what must be so after each step

    @invariant()
    def the_system_is_as_the_model_has_it(self) -> None:
        if not hasattr(self, "model"):
            return
        ConsentMachine.steps += 1
        lists = [newsletter.list_id for newsletter in self.newsletters]
        rows = self.center.rows(
            "SELECT list_id::text, address, id, standing, generation, pending_expires_at > messmail_now(), "
            "(SELECT count(*) FROM consent_log l WHERE l.subscription_id = s.id) "
            "FROM subscriptions s WHERE list_id = ANY(%s::uuid[])",
            lists,
        )
        stored: dict[Place, tuple[Any, ...]] = {}
        ids: dict[int, dict[bytes, Place]] = {}
        for list_id, address, subscription_id, *facts in rows:
            number = lists.index(list_id)
            place = Place(LISTS[number], number, self.emails.index(address))
            standing, changes, pending, lines = facts
            stored[place] = (standing, changes, bool(pending), lines)
            ids.setdefault(number, {})[subscription_id.bytes] = place
        assert stored == {
            place: (row.standing, row.changes, self.model.is_pending(row), row.changes)
            for place, row in self.model.rows.items()
        }
        for number, of_list in ids.items():
            answer = self._authorized(self.newsletters[number], list(of_list))
            told: dict[Place, str | None] = {of_list[one.subscription_id]: None for one in answer.authorized}
            for one in answer.refused:
                word = feed_pb.RefusalReason.Name(one.reason).removeprefix("REFUSAL_REASON_").lower()
                told[of_list[one.subscription_id]] = word
            assert told == {place: self.model.refusal(place) for place in of_list.values()}

    def _newsletter(self, place: Place) -> Newsletter:
        return self.newsletters[place.list]

    def _authorized(self, newsletter: Newsletter, ids: list[bytes]) -> feed_pb.AuthorizeRecipientsResponse:
        return self.center.feed.AuthorizeRecipients(
            feed_pb.AuthorizeRecipientsRequest(
                tenant_id=newsletter.tenant_id, list_id=newsletter.list_id, subscription_ids=ids
            )
        )

    def _told(self, request: Any) -> str:
        """Makes a call over gRPC and returns its word: the state of its answer, or the reason of its refusal."""
        name = type(request).__name__.removesuffix("Request")
        stub: Any = self.center.public if hasattr(self.center.public, name) else self.center.admin
        answers: list[Any] = []
        try:
            answers.append(getattr(stub, name)(request))
        except Exception as error:
            return reason_of(_raiser(error))
        return status_name(answers[0].status)


def _raiser(error: Exception) -> Callable[[], object]:
    def raise_it() -> object:
        raise error

    return raise_it


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_consent_is_at_every_step_as_a_model_of_it_says(
    member_center: MemberCenter, tmp_path: Path, record_property: object
) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed: {seed}")
    member_center.set_limits(
        anonymous_calls_per_ip_per_minute=1_000_000_000,
        subscribes_per_address_per_hour=1_000_000_000,
        subscribes_per_list_per_minute=1_000_000_000,
        confirmation_mails_per_address_per_day=1_000_000_000,
        calls_per_client_per_minute=1_000_000_000,
    )
    ConsentMachine.center, ConsentMachine.steps, ConsentMachine.ahead = member_center, 0, 0
    wanted = cases(STEPS)
    with running_gateway_of(member_center, tmp_path / "gateway.log") as ConsentMachine.rest:
        for turn in itertools.count():
            run_state_machine_as_test(
                hypothesis.seed(seed + turn)(ConsentMachine),
                settings=hypothesis.settings(
                    max_examples=LIVES,
                    stateful_step_count=STEPS_OF_A_LIFE,
                    deadline=None,
                    database=None,
                    suppress_health_check=list(hypothesis.HealthCheck),
                    print_blob=True,
                ),
            )
            if ConsentMachine.steps >= wanted:
                break
    member_center.set_clock(timedelta(0))
    hand_in_claim(
        record_property,
        ClaimRow("S9", "consent as a model of it has it, at every step", STEPS, ConsentMachine.steps, 0),
    )
