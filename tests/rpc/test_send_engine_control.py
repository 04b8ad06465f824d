"""Steering a send job: pause, resume, retry, resolve, cancel, and what became of each delivery."""

from __future__ import annotations

import os
import random
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from messmail.send_engine.v1 import send_engine_pb2 as pb
from servicekit.errors import MessmailError, Reason, from_rpc_error
from tests.send_engine_fixtures import Engines, Installation, send_engine, send_engine_engines, wait_until

__all__ = ["Engines", "send_engine", "send_engine_engines"]

PAUSED, SENDING, COMPLETED = pb.SEND_JOB_STATUS_PAUSED, pb.SEND_JOB_STATUS_SENDING, pb.SEND_JOB_STATUS_COMPLETED
FAILED, UNKNOWN = pb.RETRIED_STATE_FAILED, pb.RETRIED_STATE_UNKNOWN
# `make faults` asks for 100; the budget of `make test` is for fewer.
RACES = int(os.environ.get("MESSMAIL_CANCEL_RACES", "20"))


def control(installation: Installation, verb: str, job: pb.SendJob, **fields: Any) -> Any:
    """Calls one of the RPCs that steer a job; returns the job, or the answer when that is more."""
    request = getattr(pb, f"{verb}SendJobRequest")(id=job.id, **fields)
    call = getattr(installation.stub, f"{verb}SendJob")
    answer = call(request, metadata=installation.credentials(job.tenant_id), timeout=10)
    return answer if verb == "Resolve" else answer.send_job


def refusal(installation: Installation, verb: str, job: pb.SendJob, **fields: Any) -> MessmailError:
    with pytest.raises(grpc.RpcError) as caught:
        control(installation, verb, job, **fields)
    return from_rpc_error(caught.value)


def deliveries(installation: Installation, job: pb.SendJob, state: int = 0, page_size: int = 7) -> list[pb.Delivery]:
    """Reads all deliveries, page by page."""
    found, token = list[pb.Delivery](), ""
    while True:
        request = pb.ListDeliveriesRequest(
            id=job.id, state=pb.DeliveryState.ValueType(state), page_size=page_size, page_token=token
        )
        page = installation.stub.ListDeliveries(request, metadata=installation.credentials(job.tenant_id), timeout=10)
        assert len(page.deliveries) <= page_size
        found += page.deliveries
        token = page.next_page_token
        if not token:
            return found


def cut_after_the_final_dot(recipient: str, attempt: int) -> bytes | None:
    return None


def wait_through_deferrals(installation: Installation, job: pb.SendJob) -> pb.SendJob:
    """Waits until the job completes, moving the clock whenever nothing but time is missing."""
    ahead = 0

    def completed() -> pb.SendJob | None:
        nonlocal ahead
        found = installation.get(job)
        c = found.counters
        if c.deferred and not c.pending + c.claimed + c.sending:
            ahead += 3601
            installation.database.move_clock(ahead)
        return found if found.status == COMPLETED else None

    found = wait_until(completed, "the job's end", 30)
    assert isinstance(found, pb.SendJob)
    return found


# ---- pause and resume


def test_a_paused_job_begins_no_mail_and_a_resumed_one_sends_nobody_twice(send_engine: Installation) -> None:
    newsletter = send_engine.member_center.newsletter(people=300)
    send_engine.sink.delay = 0.02
    with send_engine.worker(), send_engine.worker():
        job = send_engine.create(newsletter)
        for share in (30, 90, 150):
            wait_until(lambda share=share: len(send_engine.sink.accepted) >= share, f"{share} mails")  # type: ignore[misc]
            paused = control(send_engine, "Pause", job)
            assert (paused.status, paused.status_reason) == (PAUSED, "")
            assert control(send_engine, "Pause", job).status == PAUSED
            # What is under way ends within a second; then nothing moves any more.
            wait_until(lambda: send_engine.get(job).counters.sending == 0, "the group under way", 1.0)
            sent = len(send_engine.sink.accepted)
            assert send_engine.get(job).counters.sent == sent < 300
            time.sleep(0.7)
            assert len(send_engine.sink.accepted) == sent
            assert send_engine.get(job).counters.pending == 300 - sent
            assert control(send_engine, "Resume", job).status == SENDING
            assert control(send_engine, "Resume", job).status in (SENDING, COMPLETED)
        assert send_engine.wait(job).counters.sent == 300
    assert Counter(send_engine.sink.recipients()).most_common(1)[0][1] == 1
    assert len(send_engine.sink.accepted) == 300


@pytest.mark.claim("S6", "pauses in the middle of sending: no mail begun a second later")
def test_no_mail_is_begun_a_second_after_a_pause_even_in_a_long_group(send_engine: Installation) -> None:
    newsletter = send_engine.member_center.newsletter(people=200)
    with send_engine.worker(send_engine_smtp_connections=1):
        # A first job makes the groups large; then the relay becomes slow.
        send_engine.wait(send_engine.create(newsletter))
        send_engine.sink.delay = 0.1
        job = send_engine.create(newsletter)
        wait_until(lambda: len(send_engine.sink.accepted) > 205, "the second job's mails")
        control(send_engine, "Pause", job)
        time.sleep(1.0)
        begun = len(send_engine.sink.accepted)
        time.sleep(0.7)
        assert len(send_engine.sink.accepted) == begun < 400
        wait_until(lambda: send_engine.get(job).counters.pending == 400 - begun, "the rest to wait")
        send_engine.sink.delay = 0.0
        control(send_engine, "Resume", job)
        send_engine.wait(job)
    assert set(Counter(send_engine.sink.recipients()).values()) == {2}


def test_a_job_that_is_not_sending_cannot_be_paused_and_another_tenants_does_not_exist(
    send_engine: Installation,
) -> None:
    newsletter = send_engine.member_center.newsletter(people=2)
    job = send_engine.create(newsletter)
    early: list[tuple[str, dict[str, Any]]] = [("Pause", {}), ("Resume", {}), ("Retry", {"states": [FAILED]})]
    for verb, fields in early:
        error = refusal(send_engine, verb, job, **fields)
        assert error.reason == Reason.ERROR_REASON_SEND_JOB_WRONG_STATE
        assert error.metadata == {"status": "scheduled"}
    send_engine.member_center.silent = True
    with send_engine.worker():
        wait_until(lambda: send_engine.get(job).status == pb.SEND_JOB_STATUS_PLANNING, "planning")
        assert refusal(send_engine, "Pause", job).metadata == {"status": "planning"}
        send_engine.member_center.silent = False
        send_engine.wait(job)
        assert refusal(send_engine, "Pause", job).metadata == {"status": "completed"}
    nobodys = pb.SendJob(id=str(uuid.uuid4()), tenant_id=job.tenant_id)
    foreign = pb.SendJob(id=job.id, tenant_id=str(uuid.uuid4()))
    for unknown in (nobodys, foreign):
        for verb, fields in (*early, ("Resolve", {"outcome": pb.RESOLVED_OUTCOME_SENT, "all": True})):
            assert refusal(send_engine, verb, unknown, **fields).reason == Reason.ERROR_REASON_SEND_JOB_NOT_FOUND
        with pytest.raises(grpc.RpcError):
            deliveries(send_engine, unknown)


def test_a_paused_job_keeps_what_is_put_off_and_can_be_cancelled(send_engine: Installation) -> None:
    newsletter = send_engine.member_center.newsletter(people=20)
    send_engine.sink.answer = lambda recipient, attempt: b"451 4.3.0 later\r\n"
    with send_engine.worker():
        job = send_engine.create(newsletter)
        wait_until(lambda: send_engine.get(job).counters.deferred == 20, "the deferrals")
        control(send_engine, "Pause", job)
        attempts = sum(send_engine.sink.attempts.values())
        send_engine.database.move_clock(3600)
        time.sleep(1.2)
        assert sum(send_engine.sink.attempts.values()) == attempts
        assert send_engine.get(job).counters.deferred == 20
        assert send_engine.cancel(job).status == pb.SEND_JOB_STATUS_CANCELLED
        assert send_engine.get(job).counters.cancelled == 20
        assert refusal(send_engine, "Resume", job).metadata == {"status": "cancelled"}


def test_a_job_whose_last_mail_went_while_it_was_paused_completes_when_resumed(send_engine: Installation) -> None:
    newsletter = send_engine.member_center.newsletter(people=4)
    send_engine.sink.delay = 0.8
    with send_engine.worker():
        job = send_engine.create(newsletter)
        wait_until(lambda: send_engine.get(job).counters.sending == 4, "the mails under way")
        control(send_engine, "Pause", job)
        wait_until(lambda: send_engine.get(job).counters.sending == 0, "their end")
        paused = send_engine.get(job)
        assert paused.status == PAUSED
        resumed = control(send_engine, "Resume", job)
        assert resumed.status == (COMPLETED if paused.counters.sent == 4 else SENDING)
        assert send_engine.wait(job).counters.sent == 4


# ---- retry


def test_a_retry_sends_to_those_who_failed_and_to_nobody_else(send_engine: Installation) -> None:
    newsletter = send_engine.member_center.newsletter(people=50)
    bad = {person.address for person in list(newsletter.people.values())[:9]}
    send_engine.sink.answer = lambda recipient, attempt: b"550 5.1.1 gone\r\n" if recipient in bad else b""
    with send_engine.worker():
        job = send_engine.create(newsletter)
        done = send_engine.wait(job)
        assert (done.counters.sent, done.counters.failed) == (41, 9)
        # Nobody is unknown, so nothing happens.
        assert control(send_engine, "Retry", job, states=[UNKNOWN]) == done
        unsubscribed, *mended = sorted(bad)
        send_engine.sink.answer = lambda recipient, attempt: b"550 5.1.1 gone\r\n" if recipient == mended[0] else b""
        for person in newsletter.people.values():
            if person.address == unsubscribed:
                person.refusal = 2
        begun = control(send_engine, "Retry", job, states=[FAILED, UNKNOWN])
        assert begun.status == SENDING
        assert not begun.HasField("ended_at")
        assert (done.round, begun.round) == (1, 2)
        again = send_engine.wait(job)
        assert (again.counters.sent, again.counters.failed, again.counters.suppressed) == (48, 1, 1)
    assert Counter(send_engine.sink.recipients()).most_common(1)[0][1] == 1
    assert {delivery.attempts for delivery in deliveries(send_engine, job, pb.DELIVERY_STATE_FAILED)} == {2}


def test_a_retry_repeated_while_its_round_is_under_way_changes_nothing(send_engine: Installation) -> None:
    newsletter = send_engine.member_center.newsletter(people=30)
    send_engine.sink.answer = lambda recipient, attempt: b"550 5.1.1 gone\r\n"
    with send_engine.worker():
        job = send_engine.create(newsletter)
        assert send_engine.wait(job).counters.failed == 30
    first = control(send_engine, "Retry", job, states=[FAILED])
    assert control(send_engine, "Retry", job, states=[FAILED]) == first
    assert first.counters.failed == 30
    assert refusal(send_engine, "Retry", job, states=[UNKNOWN]).metadata == {"status": "sending"}
    # A round can be paused before it has taken anybody up, and resumed.
    control(send_engine, "Pause", job)
    send_engine.sink.answer = lambda recipient, attempt: b""
    with send_engine.worker():
        time.sleep(0.7)
        assert send_engine.get(job).counters.failed == 30
        control(send_engine, "Resume", job)
        assert send_engine.wait(job).counters.sent == 30
    assert len(send_engine.sink.accepted) == 30


def test_a_round_over_many_batches_takes_up_each_failed_delivery_once(send_engine: Installation) -> None:
    newsletter = send_engine.member_center.newsletter(people=5200)
    bad = {person.address for person in list(newsletter.people.values())[::20]}
    send_engine.sink.answer = lambda recipient, attempt: b"550 5.1.1 gone\r\n" if recipient in bad else b""
    with send_engine.worker():
        job = send_engine.create(newsletter)
        assert send_engine.wait(job).counters.failed == len(bad)
        send_engine.sink.answer = lambda recipient, attempt: b""
        control(send_engine, "Retry", job, states=[FAILED])
        done = send_engine.wait(job)
    assert done.counters.sent == 5200
    assert Counter(send_engine.sink.recipients()).most_common(1)[0][1] == 1


def test_a_round_for_those_whose_deliveries_are_kept_no_longer_ends_at_once(send_engine: Installation) -> None:
    newsletter = send_engine.member_center.newsletter(people=20)
    send_engine.sink.answer = lambda recipient, attempt: b"550 5.1.1 gone\r\n"
    with send_engine.worker():
        job = send_engine.create(newsletter)
        assert send_engine.wait(job).counters.failed == 20
        send_engine.database.change("DELETE FROM deliveries")
        before = send_engine.database.rows("SELECT count(*) FROM batches")[0][0]
        control(send_engine, "Retry", job, states=[FAILED])
        assert send_engine.wait(job).counters.failed == 20
    # The plan of the round, and nothing to carry out.
    assert send_engine.database.rows("SELECT count(*) FROM batches") == [(before + 1,)]


# ---- unknown


def test_a_held_unknown_mail_waits_for_the_tenants_word(send_engine: Installation) -> None:
    newsletter = send_engine.member_center.newsletter(people=12)
    send_engine.sink.answer = cut_after_the_final_dot
    with send_engine.worker():
        job = send_engine.create(newsletter, on_unknown=pb.UNKNOWN_POLICY_HOLD)
        held = wait_through_deferrals(send_engine, job)
        # Of those that were pipelined behind a cut, nothing had arrived: they are tried again, and are cut in turn.
        assert held.counters.unknown == 12
        accepted = len(send_engine.sink.accepted)
        found = deliveries(send_engine, job, pb.DELIVERY_STATE_UNKNOWN)
        assert len(found) == 12

        named = [found[0].delivery_id, found[1].delivery_id, str(uuid.uuid4())]
        for resolved in (2, 0):
            answer = control(send_engine, "Resolve", job, outcome=pb.RESOLVED_OUTCOME_SENT, delivery_ids=named)
            assert answer.resolved == resolved
            assert (answer.send_job.counters.sent, answer.send_job.counters.unknown) == (2, 10)
        settled = [one for one in deliveries(send_engine, job) if one.delivery_id in named]
        assert {(one.state, one.reason) for one in settled} == {(pb.DELIVERY_STATE_SENT, "resolved")}
        assert len(send_engine.sink.accepted) == accepted

        send_engine.sink.answer = lambda recipient, attempt: b""
        control(send_engine, "Retry", job, states=[UNKNOWN])
        done = send_engine.wait(job)
        assert (done.counters.sent, done.counters.unknown) == (12, 0)
    # Two were resolved and got nothing more, ten were sent again.
    assert len(send_engine.sink.accepted) == accepted + 10


def test_a_resolve_that_runs_out_of_time_says_how_far_it_got_and_a_repeat_goes_on(send_engine: Installation) -> None:
    newsletter = send_engine.member_center.newsletter(people=2500)
    with send_engine.worker():
        job = send_engine.create(newsletter)
        send_engine.wait(job)
    # As if no answer had come.
    send_engine.database.change("UPDATE deliveries SET state = 'unknown'")
    send_engine.database.change("UPDATE batches SET unknown = sent, sent = 0")
    request = pb.ResolveSendJobRequest(id=job.id, outcome=pb.RESOLVED_OUTCOME_SENT, all=True)
    answers = list[pb.ResolveSendJobResponse]()
    while not answers or answers[-1].resolved:
        answer = send_engine.stub.ResolveSendJob(request, metadata=send_engine.credentials(job.tenant_id), timeout=2.5)
        answers.append(answer)
        assert answer.send_job.counters.sent == sum(one.resolved for one in answers)
    assert len(answers) == 4
    assert answers[-1].send_job.counters.sent == 2500


def test_all_unknown_deliveries_can_be_resolved_at_once_and_the_failed_ones_retried(send_engine: Installation) -> None:
    newsletter = send_engine.member_center.newsletter(people=5)
    send_engine.sink.answer = cut_after_the_final_dot
    with send_engine.worker():
        job = send_engine.create(newsletter, on_unknown=pb.UNKNOWN_POLICY_HOLD)
        wait_through_deferrals(send_engine, job)
        answer = control(send_engine, "Resolve", job, outcome=pb.RESOLVED_OUTCOME_FAILED, all=True)
        assert (answer.resolved, answer.send_job.counters.failed) == (5, 5)
        assert answer.send_job.status == COMPLETED
        send_engine.sink.answer = lambda recipient, attempt: b""
        control(send_engine, "Retry", job, states=[FAILED])
        assert send_engine.wait(job).counters.sent == 5


@pytest.mark.parametrize(
    ("verb", "fields"),
    [
        ("Retry", {"states": []}),
        ("Retry", {"states": [0]}),
        ("Retry", {"states": [FAILED, FAILED]}),
        ("Resolve", {"outcome": pb.RESOLVED_OUTCOME_SENT}),
        ("Resolve", {"all": True}),
        ("Resolve", {"outcome": pb.RESOLVED_OUTCOME_SENT, "all": True, "delivery_ids": [str(uuid.UUID(int=1))]}),
        ("Resolve", {"outcome": pb.RESOLVED_OUTCOME_SENT, "delivery_ids": ["x"]}),
    ],
    ids=["no state", "state zero", "twice", "which", "outcome", "both", "no uuid"],
)
def test_a_wish_that_is_not_clear_is_refused(send_engine: Installation, verb: str, fields: dict[str, Any]) -> None:
    job = send_engine.create(send_engine.member_center.newsletter())
    assert refusal(send_engine, verb, job, **fields).reason == Reason.ERROR_REASON_INVALID_FIELD


# ---- how long a mail is tried


def test_a_job_may_say_how_long_its_mails_are_tried(send_engine: Installation) -> None:
    newsletter = send_engine.member_center.newsletter(people=3)
    send_engine.sink.answer = lambda recipient, attempt: b"451 4.3.0 later\r\n"
    short = send_engine.create(newsletter, give_up_after=Duration(seconds=100))
    long = send_engine.create(newsletter, give_up_after=Duration(seconds=5000))
    with send_engine.worker():
        wait_until(lambda: send_engine.get(short).counters.deferred == 3, "the deferral")
        wait_until(lambda: send_engine.get(long).counters.deferred == 3, "the deferral")
    # Everything is restarted meanwhile: what is put off is in the database.
    with send_engine.worker():
        send_engine.database.move_clock(90)
        assert send_engine.wait(short).counters.failed == 3
        wait_until(lambda: send_engine.get(long).counters.deferred == 3, "the second deferral")
        assert {one.reason for one in deliveries(send_engine, short)} == {"gave_up"}
        assert {one.last_reply for one in deliveries(send_engine, short)} == {"451 4.3.0 later"}
        send_engine.sink.answer = lambda recipient, attempt: b""
        send_engine.database.move_clock(4000)
        assert send_engine.wait(long).counters.sent == 3


def test_a_job_tells_what_was_wished_for_it(send_engine: Installation) -> None:
    newsletter = send_engine.member_center.newsletter(people=1)
    plain = send_engine.create(newsletter)
    assert plain.on_unknown == pb.UNKNOWN_POLICY_RESEND
    assert not plain.HasField("give_up_after")
    wished = Duration(seconds=90, nanos=500_000_000)
    held = send_engine.create(newsletter, give_up_after=wished, on_unknown=pb.UNKNOWN_POLICY_HOLD)
    for told in (held, send_engine.get(held)):
        assert (told.on_unknown, told.give_up_after) == (pb.UNKNOWN_POLICY_HOLD, wished)


def test_a_job_may_ask_for_one_attempt_only(send_engine: Installation) -> None:
    newsletter = send_engine.member_center.newsletter(people=1)
    send_engine.sink.answer = lambda recipient, attempt: b"451 4.3.0 later\r\n"
    with send_engine.worker():
        job = send_engine.create(newsletter, give_up_after=Duration(seconds=0))
        assert send_engine.wait(job).counters.failed == 1


# ---- deliveries


def test_each_delivery_tells_what_became_of_it_and_the_states_add_up_to_the_counters(
    send_engine: Installation,
) -> None:
    newsletter = send_engine.member_center.newsletter(people=40)
    people = list(newsletter.people.values())
    people[0].refusal = 2
    replies = {
        people[1].address: b"550 5.1.1 gone\r\n",
        people[2].address: b"451 4.3.0 later\r\n",
        people[3].address: b"451 4.3.0 later\r\n",
    }
    send_engine.sink.answer = lambda recipient, attempt: replies.get(recipient, b"")
    with send_engine.worker():
        job = send_engine.create(newsletter)
        wait_until(lambda: send_engine.get(job).counters.sent == 36, "the sent ones")
    counters = send_engine.get(job).counters
    found = deliveries(send_engine, job)
    assert len({one.delivery_id for one in found}) == len(found) == counters.total == 40
    by_subscription = {one.subscription_id: one for one in found}
    assert by_subscription.keys() == {str(person.subscription_id) for person in people}
    for state in list(pb.DeliveryState.DESCRIPTOR.values_by_name)[1:]:
        number = pb.DeliveryState.Value(state)
        listed = deliveries(send_engine, job, number, page_size=3)
        assert listed == [one for one in found if one.state == number]
        assert len(listed) == getattr(counters, state.removeprefix("DELIVERY_STATE_").lower())
    refused, gone, later = (by_subscription[str(person.subscription_id)] for person in people[:3])
    assert (refused.state, refused.reason, refused.attempts) == (pb.DELIVERY_STATE_SUPPRESSED, "bounced", 0)
    assert (gone.state, gone.last_reply, gone.attempts) == (pb.DELIVERY_STATE_FAILED, "550 5.1.1 gone", 1)
    assert (later.state, later.last_reply, later.attempts) == (pb.DELIVERY_STATE_DEFERRED, "451 4.3.0 later", 1)
    assert gone.recipient_domain == "mail.example"
    assert gone.HasField("recorded_at")
    assert not any(person.address in str(found) for person in people)
    # Cancelled: what waited is listed as such.
    send_engine.cancel(job)
    assert len(deliveries(send_engine, job, pb.DELIVERY_STATE_CANCELLED)) == 2
    assert len(deliveries(send_engine, job, pb.DELIVERY_STATE_DEFERRED)) == 0


@pytest.mark.parametrize("token", ["x", "AAAA", "////////////////////////////", "_____________________w=="])
def test_a_foreign_page_token_is_refused(send_engine: Installation, token: str) -> None:
    job = send_engine.create(send_engine.member_center.newsletter())
    request = pb.ListDeliveriesRequest(id=job.id, page_token=token)
    with pytest.raises(grpc.RpcError) as caught:
        send_engine.stub.ListDeliveries(request, metadata=send_engine.credentials(job.tenant_id))
    assert from_rpc_error(caught.value).reason == Reason.ERROR_REASON_INVALID_FIELD


# ---- races


@pytest.mark.claim("S6", "cancels that race with the end of their job", asked=100, run=RACES)
def test_a_cancel_that_races_with_the_last_mail_leaves_one_end(send_engine: Installation) -> None:
    seed = int(os.environ.get("MESSMAIL_SEED", str(random.SystemRandom().randrange(2**32))))
    print(f"seed {seed} (MESSMAIL_SEED repeats it)")
    chance = random.Random(seed)
    newsletter = send_engine.member_center.newsletter(people=3)
    ends = Counter[str]()
    # Goes after the end of the job, however quick that is here: later when the cancel came first, else sooner.
    delay = 0.015
    with send_engine.worker(), send_engine.worker(), ThreadPoolExecutor(4) as pool:
        for _ in range(RACES):
            job = send_engine.create(newsletter)
            wait_until(lambda job=job: send_engine.get(job).counters.total == 3, "the plan")  # type: ignore[misc]
            time.sleep(chance.uniform(0.5, 1.5) * delay)
            answers = [pool.submit(send_engine.cancel, job) for _ in range(2)]
            reasons = {_outcome(answer) for answer in answers}
            assert len(reasons) == 1, "both callers are told the same"
            ended = wait_until(lambda job=job: _ended(send_engine, job), "its end")  # type: ignore[misc]
            cancelled = ended.status == pb.SEND_JOB_STATUS_CANCELLED
            delay = min(delay * 1.5, 2.0) if cancelled else delay / 1.5
            assert reasons == {("cancelled" if cancelled else "SEND_JOB_FINISHED")}
            # What was under way at the cancel may still be recorded; the job's end does not change any more.
            wait_until(lambda job=job: send_engine.get(job).counters.sending == 0, "the last mails")  # type: ignore[misc]
            final = send_engine.get(job)
            assert final.status == ended.status
            assert final.counters.sent + final.counters.cancelled == 3
            assert cancelled or final.counters.sent == 3
            ends[pb.SendJobStatus.Name(final.status)] += 1
    print(f"{RACES} races: {dict(ends)}")
    assert len(ends) == 2, "a race that one side always wins is none"


def _outcome(answer: Any) -> str:
    try:
        answer.result(timeout=10)
    except grpc.RpcError as error:
        return from_rpc_error(error).status.name
    return "cancelled"


def _ended(installation: Installation, job: pb.SendJob) -> pb.SendJob | None:
    found = installation.get(job)
    return found if found.HasField("ended_at") else None
