"""The rules of consent, without a database: who may change what, and through what."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from member_center import consent
from member_center.records.consent import Link, Pending, Purpose, Standing, Status, Subscription
from servicekit.errors import MessmailError, Reason

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
HOUR, DAY, WEEK = timedelta(hours=1), timedelta(days=1), timedelta(days=7)
API, MAIL, ONE_CLICK, TOKEN = Purpose.CONFIRM_API, Purpose.CONFIRM_MAIL, Purpose.ONE_CLICK, Purpose.UNSUBSCRIBE

NOBODY_YET = Subscription(uuid4(), uuid4(), uuid4(), "ann@mail.example", "Ann@mail.example")
ASKED = consent.ask(NOBODY_YET, {"lang": "en"}, NOW)
ENDED = (Standing.UNSUBSCRIBED, Standing.BOUNCED, Standing.COMPLAINED)


def link_to(subscription: Subscription, purpose: Purpose, *, now: datetime = NOW) -> Link:
    """The link that would be given out now."""
    is_one_click = purpose is ONE_CLICK
    return Link(
        purpose,
        subscription.tenant_id,
        subscription.list_id,
        subscription.id,
        0 if is_one_click else subscription.generation,
        None if is_one_click else now + (HOUR if purpose is TOKEN else WEEK),
    )


CONFIRMED = consent.confirm(ASKED, link_to(ASKED, API), NOW)
LEFT = consent.end(CONFIRMED, link_to(CONFIRMED, ONE_CLICK), NOW)


def standing_as(standing: Standing) -> Subscription:
    return replace(LEFT, standing=standing)


def reason_of(change: object, *arguments: object) -> str:
    assert callable(change)
    with pytest.raises(MessmailError) as refused:
        change(*arguments)
    return Reason.Name(refused.value.reason).removeprefix("ERROR_REASON_")


# ---- asking


def test_asking_makes_a_newcomer_pending_for_seven_days() -> None:
    assert (ASKED.generation, ASKED.standing) == (1, Standing.UNCONFIRMED)
    assert consent.status_at(ASKED, NOW + WEEK - timedelta(seconds=1)) is Status.PENDING
    assert consent.status_at(ASKED, NOW + WEEK) is Status.EXPIRED


def test_asking_again_while_pending_keeps_the_links_sent_before() -> None:
    again = consent.ask(ASKED, None, NOW + DAY)
    assert again.generation == ASKED.generation
    assert consent.confirm(again, link_to(ASKED, MAIL), NOW + DAY).standing is Standing.CONFIRMED


def test_asking_again_while_pending_prolongs_it_and_keeps_what_was_preferred() -> None:
    again = consent.ask(ASKED, None, NOW + DAY)
    assert again.pending == Pending(NOW, NOW + DAY + WEEK, {"lang": "en"}, NOW + DAY)
    changed = consent.ask(ASKED, {"lang": "zh-TW"}, NOW + DAY)
    assert changed.pending == Pending(NOW, NOW + DAY + WEEK, {"lang": "zh-TW"}, NOW + DAY)


def test_asking_again_after_it_expired_begins_anew() -> None:
    later = NOW + WEEK
    again = consent.ask(ASKED, None, later)
    assert again.generation == ASKED.generation + 1
    assert again.pending == Pending(later, later + WEEK, None, later)
    assert reason_of(consent.confirm, again, link_to(ASKED, MAIL), later) == "LINK_SUPERSEDED"


@pytest.mark.parametrize("preferences", [None, {}, {"lang": "zh-TW"}])
def test_nobody_who_is_confirmed_is_downgraded_or_changed_by_asking(preferences: dict[str, str] | None) -> None:
    assert consent.ask(CONFIRMED, preferences, NOW) is CONFIRMED


def test_only_an_operator_lifts_a_complaint() -> None:
    complained = standing_as(Standing.COMPLAINED)
    assert consent.ask(complained, {}, NOW) is complained
    for purpose in (API, MAIL):
        answered = (consent.confirm, complained, link_to(complained, purpose), NOW)
        if purpose is API:
            assert consent.confirm(*answered[1:]) is complained
        else:
            assert reason_of(*answered) == "LINK_EXPIRED"


# ---- confirming


@pytest.mark.parametrize("purpose", [API, MAIL])
def test_either_link_confirms_a_newcomer_with_what_was_preferred(purpose: Purpose) -> None:
    confirmed = consent.confirm(ASKED, link_to(ASKED, purpose), NOW + HOUR)
    assert (confirmed.standing, confirmed.generation) == (Standing.CONFIRMED, 2)
    assert (confirmed.confirmed_at, confirmed.pending, confirmed.preferences) == (NOW + HOUR, None, {"lang": "en"})


@pytest.mark.parametrize("purpose", [API, MAIL])
def test_confirming_again_changes_nothing_even_with_an_old_link(purpose: Purpose) -> None:
    assert consent.confirm(CONFIRMED, link_to(ASKED, purpose), NOW + 100 * DAY) is CONFIRMED


@pytest.mark.parametrize("purpose", [API, MAIL])
def test_an_expired_confirmation_link_changes_nothing(purpose: Purpose) -> None:
    assert reason_of(consent.confirm, ASKED, link_to(ASKED, purpose), NOW + WEEK) == "LINK_EXPIRED"


@pytest.mark.parametrize("purpose", [API, MAIL])
def test_a_link_from_before_an_unsubscribe_confirms_nobody(purpose: Purpose) -> None:
    assert reason_of(consent.confirm, LEFT, link_to(ASKED, purpose), NOW) == "LINK_SUPERSEDED"


@pytest.mark.parametrize("standing", [Standing.UNSUBSCRIBED, Standing.BOUNCED])
def test_after_an_end_only_the_mailed_link_confirms(standing: Standing) -> None:
    asked = consent.ask(standing_as(standing), {"lang": "zh-TW"}, NOW)
    assert consent.status_at(asked, NOW) is Status.PENDING
    assert consent.confirm(asked, link_to(asked, API), NOW) is asked
    confirmed = consent.confirm(asked, link_to(asked, MAIL), NOW)
    assert (confirmed.standing, confirmed.preferences) == (Standing.CONFIRMED, {"lang": "zh-TW"})


@pytest.mark.parametrize("standing", [Standing.UNSUBSCRIBED, Standing.BOUNCED])
def test_when_what_is_pending_expires_the_state_before_it_returns(standing: Standing) -> None:
    asked = consent.ask(standing_as(standing), None, NOW)
    assert consent.status_at(asked, NOW + WEEK) is Status(standing.value)
    assert reason_of(consent.confirm, asked, link_to(asked, MAIL), NOW + WEEK) == "LINK_EXPIRED"


def test_confirming_without_preferences_keeps_those_of_before() -> None:
    asked = consent.ask(LEFT, None, NOW)
    assert consent.confirm(asked, link_to(asked, MAIL), NOW).preferences == {"lang": "en"}


# ---- ending


@pytest.mark.parametrize("purpose", [TOKEN, ONE_CLICK])
@pytest.mark.parametrize("before", [ASKED, CONFIRMED, consent.ask(LEFT, None, NOW)])
def test_unsubscribing_ends_what_there_is_and_what_is_pending(before: Subscription, purpose: Purpose) -> None:
    left = consent.end(before, link_to(before, purpose), NOW)
    assert (left.standing, left.pending, left.generation) == (Standing.UNSUBSCRIBED, None, before.generation + 1)


@pytest.mark.parametrize("standing", ENDED)
def test_unsubscribing_from_what_has_ended_changes_nothing_even_with_an_old_token(standing: Standing) -> None:
    ended = standing_as(standing)
    for link in (link_to(ended, TOKEN), link_to(CONFIRMED, TOKEN), link_to(ended, ONE_CLICK)):
        assert consent.end(ended, link, NOW + 100 * DAY) is ended


def test_an_expired_unsubscribe_token_changes_nothing() -> None:
    assert reason_of(consent.end, CONFIRMED, link_to(CONFIRMED, TOKEN), NOW + HOUR) == "LINK_EXPIRED"


def test_a_token_from_before_a_change_does_not_unsubscribe() -> None:
    assert reason_of(consent.end, CONFIRMED, link_to(ASKED, TOKEN), NOW) == "LINK_SUPERSEDED"


def test_the_link_in_a_mail_unsubscribes_for_ever() -> None:
    link = link_to(CONFIRMED, ONE_CLICK)
    again = consent.ask(consent.end(CONFIRMED, link, NOW), None, NOW)
    confirmed = consent.confirm(again, link_to(again, MAIL), NOW)
    assert consent.end(confirmed, link, NOW + 10_000 * DAY).standing is Standing.UNSUBSCRIBED


def test_a_bounce_stays_a_bounce_when_the_person_calls_off_what_is_pending() -> None:
    asked = consent.ask(standing_as(Standing.BOUNCED), None, NOW)
    assert consent.end(asked, link_to(asked, ONE_CLICK), NOW).standing is Standing.BOUNCED


# ---- importing


@pytest.mark.parametrize("proven", [True, False])
@pytest.mark.parametrize("standing", [Standing.CONFIRMED, *ENDED])
def test_an_import_touches_nobody_who_decided(standing: Standing, proven: bool) -> None:
    before = CONFIRMED if standing is Standing.CONFIRMED else standing_as(standing)
    assert consent.admit(before, {"lang": "zh-TW"}, proven=proven, now=NOW) is before


def test_an_import_of_proven_consent_confirms_newcomers_and_those_who_wait() -> None:
    for before in (NOBODY_YET, ASKED):
        after = consent.admit(before, {"lang": "zh-TW"}, proven=True, now=NOW)
        assert (after.standing, after.preferences) == (Standing.CONFIRMED, {"lang": "zh-TW"})
        assert after.generation == before.generation + 1


def test_evidence_confirms_whoever_never_decided_and_asks_anybody_else() -> None:
    for before in (NOBODY_YET, ASKED):
        after = consent.ask_with_evidence(before, None, NOW, is_suppressed=False)
        waiting = before.pending.preferences if before.pending else {}
        assert (after.standing, after.preferences) == (Standing.CONFIRMED, waiting)
        held = consent.ask_with_evidence(before, None, NOW, is_suppressed=True)
        assert held == consent.ask(before, None, NOW)
    for standing in ENDED:
        left = standing_as(standing)
        assert consent.ask_with_evidence(left, None, NOW, is_suppressed=False) == consent.ask(left, None, NOW)


def test_an_import_without_proof_asks_newcomers_only() -> None:
    assert consent.admit(NOBODY_YET, {}, proven=False, now=NOW).pending is not None
    assert consent.admit(ASKED, {}, proven=False, now=NOW) is ASKED


# ---- what is stored


def test_every_new_generation_is_logged_and_only_who_can_confirm_is_mailed() -> None:
    asked = consent.change(None, ASKED, NOW)
    assert (asked.logged, asked.is_mailed) == (Status.PENDING, True)
    later = NOW + consent.MAIL_COOL_DOWN
    again = consent.change(ASKED, consent.ask(ASKED, None, later), later)
    assert (again.logged, again.is_mailed) == (None, True)
    imported = consent.change(None, consent.admit(NOBODY_YET, {}, proven=True, now=NOW), NOW)
    assert (imported.logged, imported.is_mailed) == (Status.CONFIRMED, False)


def test_asking_again_mails_nothing_until_five_minutes_have_passed() -> None:
    soon, later = NOW + timedelta(minutes=4), NOW + timedelta(minutes=5)
    assert not consent.change(ASKED, consent.ask(ASKED, None, soon), soon).is_mailed
    assert consent.change(ASKED, consent.ask(ASKED, None, later), later).is_mailed


# ---- suppressed, complained


def test_for_a_suppressed_address_a_sites_word_counts_for_nothing() -> None:
    assert consent.confirm(ASKED, link_to(ASKED, API), NOW, is_suppressed=True) == ASKED
    assert consent.confirm(ASKED, link_to(ASKED, MAIL), NOW, is_suppressed=True).standing is Standing.CONFIRMED
    for proven in (True, False):
        assert consent.admit(NOBODY_YET, {}, proven=proven, now=NOW, is_suppressed=True) == NOBODY_YET


@pytest.mark.parametrize("before", [ASKED, CONFIRMED, LEFT])
def test_a_complaint_ends_everything_and_what_lifts_it_is_no_consent(before: Subscription) -> None:
    complained = consent.complain(before)
    assert (complained.standing, complained.pending) == (Standing.COMPLAINED, None)
    assert complained.generation == before.generation + 1
    assert consent.complain(complained) == complained
    assert consent.ask(complained, None, NOW) == complained
    lifted = consent.lift_complaint(complained)
    assert (lifted.standing, lifted.generation) == (Standing.UNSUBSCRIBED, complained.generation + 1)
    assert consent.lift_complaint(before) == before


class OnePerson(RuleBasedStateMachine):
    """A person, a site and a stranger do what they can, in any order; consent stays exact."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.subscription = NOBODY_YET
        self.links: list[Link] = []
        self.mailed: set[int] = set()
        self.lines: list[int] = []
        self.left = False

    def become(self, after: Subscription) -> None:
        before = self.subscription
        assert after.generation in (before.generation, before.generation + 1)
        if after.standing is not before.standing or (after.pending is None) != (before.pending is None):
            assert after.generation == before.generation + 1
        if after.generation != before.generation:
            self.lines.append(after.generation)
        self.subscription = after

    @rule(preferences=st.sampled_from([None, {}, {"lang": "en"}]))
    def ask(self, preferences: dict[str, str] | None) -> None:
        was_confirmed = self.subscription.standing is Standing.CONFIRMED
        self.become(consent.ask(self.subscription, preferences, self.now))
        assert (self.subscription.standing is Standing.CONFIRMED) == was_confirmed
        self.links.append(link_to(self.subscription, API, now=self.now))
        if consent.is_pending(self.subscription, self.now):
            self.links.append(link_to(self.subscription, MAIL, now=self.now))

    @rule(place=st.integers(0, 50))
    def confirm(self, place: int) -> None:
        found = [link for link in self.links if link.purpose in (API, MAIL)]
        if not found:
            return
        link = found[place % len(found)]
        before = self.subscription
        try:
            self.become(consent.confirm(before, link, self.now))
        except MessmailError:
            assert self.subscription is before
        else:
            if before.standing is Standing.UNSUBSCRIBED and self.subscription.standing is Standing.CONFIRMED:
                assert link.purpose is MAIL
                assert link.generation == before.generation
                assert link.expires_at is not None
                assert self.now < link.expires_at

    @rule()
    def request_unsubscribe_token(self) -> None:
        self.links.append(link_to(self.subscription, TOKEN, now=self.now))

    @rule(place=st.integers(0, 50), purpose=st.sampled_from([TOKEN, ONE_CLICK]))
    def leave(self, place: int, purpose: Purpose) -> None:
        found = [link for link in self.links if link.purpose is TOKEN]
        if purpose is TOKEN and not found:
            return
        link = found[place % len(found)] if purpose is TOKEN else link_to(self.subscription, ONE_CLICK)
        try:
            self.become(consent.end(self.subscription, link, self.now))
        except MessmailError:
            assert purpose is TOKEN
        else:
            assert consent.has_ended(self.subscription, self.now)

    @rule(proven=st.booleans())
    def be_imported(self, proven: bool) -> None:
        before = self.subscription.standing
        self.become(consent.admit(self.subscription, {}, proven=proven, now=self.now))
        assert before is Standing.UNCONFIRMED or self.subscription.standing is before

    @rule(hours=st.sampled_from([1, 24, 24 * 7]))
    def wait(self, hours: int) -> None:
        self.now += timedelta(hours=hours)

    @invariant()
    def every_change_has_its_line(self) -> None:
        assert self.lines == list(range(1, self.subscription.generation + 1))

    @invariant()
    def nothing_is_pending_over_the_confirmed(self) -> None:
        assert self.subscription.standing is not Standing.CONFIRMED or self.subscription.pending is None


TestOnePerson = OnePerson.TestCase
