"""The state machine of a send job, and what a result means for the ledger."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from send_engine.account_flow import FIRST_GROUP, LARGEST_GROUP, GroupSize
from send_engine.deliveries import LONGEST_RETRY_SECONDS, retry_delay, settle
from send_engine.job_states import ENDED, STOPPED, TRANSITIONS, may_become
from send_engine.records import DeliveryState, JobStatus, Result, UnknownPolicy

NOW = datetime(2026, 11, 23, tzinfo=UTC)
LATER = NOW + timedelta(hours=24)
RESEND, HOLD = UnknownPolicy.RESEND, UnknownPolicy.HOLD
DEFERRED = Result(0, DeliveryState.PENDING, "network", "451 4.7.1 later")
UNSENT = DEFERRED._replace(tried=False)
UNKNOWN = Result(0, DeliveryState.UNKNOWN, "network", "the connection was lost")


def test_every_state_says_what_may_follow() -> None:
    assert set(TRANSITIONS) == set(JobStatus)


def test_cancelled_and_failed_jobs_stay_so() -> None:
    assert (
        {status for status in JobStatus if not TRANSITIONS[status]}
        == STOPPED
        == {
            JobStatus.CANCELLED,
            JobStatus.FAILED,
        }
    )


def test_a_job_can_be_cancelled_until_it_has_ended() -> None:
    assert {status for status in JobStatus if may_become(status, JobStatus.CANCELLED)} == set(JobStatus) - ENDED


def test_every_state_can_be_reached_from_scheduled() -> None:
    reached = {JobStatus.SCHEDULED}
    while more := {following for status in reached for following in TRANSITIONS[status]} - reached:
        reached |= more
    assert reached == set(JobStatus)


@pytest.mark.parametrize(
    ("result", "status", "policy", "state"),
    [
        (DEFERRED, JobStatus.SENDING, RESEND, DeliveryState.PENDING),
        (DEFERRED, JobStatus.CANCELLED, RESEND, DeliveryState.CANCELLED),
        (UNSENT, JobStatus.SENDING, RESEND, DeliveryState.PENDING),
        (UNSENT, JobStatus.CANCELLED, RESEND, DeliveryState.CANCELLED),
        (UNKNOWN, JobStatus.SENDING, RESEND, DeliveryState.PENDING),
        (UNKNOWN, JobStatus.SENDING, HOLD, DeliveryState.UNKNOWN),
        (UNKNOWN, JobStatus.CANCELLED, RESEND, DeliveryState.UNKNOWN),
        (UNKNOWN, JobStatus.CANCELLED, HOLD, DeliveryState.UNKNOWN),
    ],
)
def test_what_is_not_decided_is_tried_again_unless_the_job_was_stopped(
    result: Result, status: JobStatus, policy: UnknownPolicy, state: DeliveryState
) -> None:
    assert settle(result, status, policy, 1, NOW, LATER).state is state


@pytest.mark.parametrize("state", [DeliveryState.SENT, DeliveryState.FAILED, DeliveryState.SUPPRESSED])
@pytest.mark.parametrize("status", list(JobStatus))
def test_what_is_decided_stays_decided(state: DeliveryState, status: JobStatus) -> None:
    result = Result(0, state, "reason", "reply")
    assert settle(result, status, RESEND, 9, NOW, NOW) == result


def test_a_deferred_mail_is_given_up_when_its_next_attempt_would_be_too_late() -> None:
    soon = NOW + timedelta(seconds=retry_delay(3))
    assert settle(DEFERRED, JobStatus.SENDING, RESEND, 3, NOW, soon).state is DeliveryState.PENDING
    late = settle(DEFERRED, JobStatus.SENDING, RESEND, 3, NOW, soon - timedelta(microseconds=1))
    assert (late.state, late.reason, late.reply) == (DeliveryState.FAILED, "gave_up", DEFERRED.reply)


def test_an_unknown_mail_that_is_given_up_stays_unknown() -> None:
    assert settle(UNKNOWN, JobStatus.SENDING, RESEND, 1, NOW, NOW).state is DeliveryState.UNKNOWN


def test_a_mail_that_was_never_begun_is_not_given_up() -> None:
    assert settle(UNSENT, JobStatus.SENDING, RESEND, 9, NOW, NOW).state is DeliveryState.PENDING


def test_waiting_times_double_up_to_an_hour() -> None:
    assert [retry_delay(attempt) for attempt in (1, 2, 3, 4)] == [30, 60, 120, 240]
    assert retry_delay(8) == retry_delay(500) == LONGEST_RETRY_SECONDS == 3600


def test_a_group_grows_with_the_rate_but_not_by_leaps() -> None:
    size = GroupSize()
    assert size.next() == FIRST_GROUP
    size.measured(32, 0.001)
    assert size.next() == 4 * FIRST_GROUP
    for _ in range(10):
        size.measured(size.next(), 0.001)
    assert size.next() == LARGEST_GROUP


def test_a_group_is_one_mail_where_a_mail_takes_longer_than_a_group_may() -> None:
    size = GroupSize()
    size.measured(32, 60.0)
    assert size.next() == 1
    size.measured(1, 0.125)
    assert size.next() == 2
