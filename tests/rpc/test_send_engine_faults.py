"""What happens to mail when something goes wrong: nobody is lost, and nobody is mailed who should not be."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import grpc
import pytest

from messmail.send_engine.v1 import send_engine_pb2 as pb
from send_engine.composing import JobComposer
from send_engine.deliveries import HeldBatch
from send_engine.permits import Permits
from send_engine.recipients import Recipients
from servicekit.errors import MessmailError, Reason
from tests.send_engine_fixtures import Installation, Newsletter, send_engine, send_engine_engines, wait_until

__all__ = ["send_engine", "send_engine_engines"]


@contextmanager
def worker_process(engine: Installation, **settings: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a worker as a process of its own, until it is killed or the block ends."""
    values = engine.settings(send_engine_smtp_url=f"smtp://{engine.sink.address}", **settings)
    environment = {name.upper(): str(value) for name, value in values.items()}
    process = subprocess.Popen(
        [sys.executable, "-m", "messmail_cli", "worker"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)} | environment,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def addresses(newsletter: Newsletter) -> list[str]:
    return sorted(person.address for person in newsletter.people.values())


@pytest.mark.claim("S6", "cancels in the middle of sending: no mail begun a second later")
def test_a_cancel_while_sending_bites_within_a_second(send_engine: Installation) -> None:
    newsletter = send_engine.member_center.newsletter(people=3000)
    send_engine.sink.delay = 0.02
    with send_engine.worker():
        job = send_engine.create(newsletter)
        wait_until(lambda: send_engine.get(job).counters.sent > 50, "some mails")
        answer = send_engine.cancel(job)
        at_once = len(send_engine.sink.accepted)
        time.sleep(1.0)
        after_a_second = len(send_engine.sink.accepted)
        assert answer.sent <= at_once
        assert after_a_second <= answer.sent + answer.sending
        settled = wait_until(
            lambda: (found := send_engine.get(job)).counters.sending == 0 and found, "the groups under way"
        )
        assert settled.counters.sent == len(send_engine.sink.accepted) == after_a_second
        assert settled.counters.cancelled == 3000 - after_a_second
    assert send_engine.cancel(job) == answer
    assert send_engine.database.rows("SELECT 1 FROM batches WHERE status <> 'closed'") == []


def test_a_deferred_mail_is_tried_again_later_and_leaves_its_reply(send_engine: Installation) -> None:
    newsletter = send_engine.member_center.newsletter(people=20)
    shy = set(addresses(newsletter)[:5])
    send_engine.sink.answer = lambda recipient, attempt: (
        b"451 4.7.1 greylisted\r\n" if recipient in shy and attempt == 1 else b""
    )
    ((began_at,),) = send_engine.database.rows("SELECT messmail_now()")
    with send_engine.worker():
        job = send_engine.create(newsletter)
        wait_until(lambda: send_engine.get(job).counters.sent == 15, "those who are not shy")
        waiting = wait_until(lambda: (found := send_engine.get(job)).counters.deferred == 5 and found, "the deferral")
        assert waiting.status == pb.SEND_JOB_STATUS_SENDING
        replies = {row[3] for row in send_engine.database.deliveries(job.id) if row[1] == "pending"}
        assert replies == {"451 4.7.1 greylisted"}
        due = "SELECT due_at, extract(epoch FROM due_at - messmail_now()) FROM batches WHERE lane = 'retry'"
        ((due_at, seconds),) = send_engine.database.rows(due)
        assert due_at >= began_at + timedelta(seconds=30)
        send_engine.database.move_clock(float(seconds) - 5)
        time.sleep(1.0)
        assert send_engine.get(job).counters.deferred == 5, "not before its time"
        send_engine.database.move_clock(31)
        done = send_engine.wait(job)
    assert done.counters.sent == 20
    assert sorted(send_engine.sink.recipients()) == addresses(newsletter)
    assert {row[4] for row in send_engine.database.deliveries(job.id)} == {1, 2}


def test_a_refused_mail_fails_with_the_reply(send_engine: Installation) -> None:
    newsletter = send_engine.member_center.newsletter(people=3)
    gone = addresses(newsletter)[0]
    send_engine.sink.answer = lambda recipient, attempt: b"550 5.1.1 no such mailbox\r\n" if recipient == gone else b""
    with send_engine.worker():
        done = send_engine.wait(send_engine.create(newsletter))
    assert (done.counters.sent, done.counters.failed) == (2, 1)
    (failed,) = [row for row in send_engine.database.deliveries(done.id) if row[1] == "failed"]
    assert failed[2:] == ("mailbox", "550 5.1.1 no such mailbox", 1)


def test_a_mail_put_off_for_too_long_is_given_up(send_engine: Installation) -> None:
    newsletter = send_engine.member_center.newsletter(people=2)
    send_engine.sink.answer = lambda recipient, attempt: b"450 4.2.1 busy\r\n"
    with send_engine.worker(send_engine_give_up_seconds=60):
        job = send_engine.create(newsletter)
        wait_until(lambda: send_engine.get(job).counters.deferred == 2, "the first deferral")
        send_engine.database.move_clock(31)
        done = send_engine.wait(job)
    assert done.counters.failed == 2
    assert {row[2:] for row in send_engine.database.deliveries(job.id)} == {("gave_up", "450 4.2.1 busy", 2)}


@pytest.mark.parametrize("policy", [pb.UNKNOWN_POLICY_RESEND, pb.UNKNOWN_POLICY_HOLD])
def test_a_mail_handed_over_without_an_answer_is_sent_again_or_held(send_engine: Installation, policy: int) -> None:
    newsletter = send_engine.member_center.newsletter(people=6)
    cut = addresses(newsletter)[0]
    send_engine.sink.answer = lambda recipient, attempt: None if recipient == cut and attempt == 1 else b""
    with send_engine.worker():
        job = send_engine.create(newsletter, on_unknown=policy)
        if policy == pb.UNKNOWN_POLICY_RESEND:
            wait_until(lambda: send_engine.get(job).counters.deferred, "what was cut off")
            send_engine.database.move_clock(31)
        done = send_engine.wait(job)
    counted = Counter(send_engine.sink.recipients())
    held = done.counters.unknown
    assert set(counted) == set(addresses(newsletter))
    if policy == pb.UNKNOWN_POLICY_RESEND:
        assert (done.counters.sent, held) == (6, 0)
        assert counted[cut] == 2
    else:
        assert done.counters.sent + held == 6
        assert held >= 1
        assert set(counted.values()) == {1}


@pytest.mark.claim("S7", "without a consent answer, or with one too old: not mailed")
def test_without_a_consent_answer_nobody_is_mailed_and_later_everybody_is(send_engine: Installation) -> None:
    newsletter = send_engine.member_center.newsletter(people=50)
    with send_engine.worker():
        job = send_engine.create(newsletter)

        def fall_silent(group: list[uuid.UUID]) -> None:
            send_engine.member_center.silent = True

        send_engine.member_center.before_consent = fall_silent
        wait_until(lambda: send_engine.get(job).counters.total == 50, "the plan")
        wait_until(lambda: send_engine.member_center.silent, "the question")
        wait_until(lambda: send_engine.get(job).counters.pending == 50, "the group given back")
        assert send_engine.sink.accepted == []
        send_engine.member_center.before_consent = lambda group: None
        send_engine.member_center.silent = False
        send_engine.database.move_clock(10)
        assert send_engine.wait(job).counters.sent == 50
    assert sorted(send_engine.sink.recipients()) == addresses(newsletter)


def fail_at_first(
    patch: pytest.MonkeyPatch, victim: type, name: str, error: Exception, times: int = 1
) -> Callable[[], int]:
    """Lets the first calls of a method fail; returns what tells how many have."""
    whole, failed = getattr(victim, name), list[Exception]()

    def failing(*arguments: Any, **named: Any) -> Any:
        if len(failed) < times:
            failed.append(error)
            raise error
        return whole(*arguments, **named)

    patch.setattr(victim, name, failing)
    return lambda: len(failed)


UNAVAILABLE = MessmailError(Reason.ERROR_REASON_UNAVAILABLE, "the database does not answer")


@pytest.mark.parametrize(
    ("victim", "name", "error"),
    [(Recipients, "authorize", ValueError()), (Permits, "give_back", UNAVAILABLE)],
    ids=["consent", "permits"],
)
def test_an_error_before_the_mails_are_handed_over_leaves_nobody_unknown(
    send_engine: Installation, monkeypatch: pytest.MonkeyPatch, victim: type, name: str, error: Exception
) -> None:
    newsletter = send_engine.member_center.newsletter(people=20)
    failed = fail_at_first(monkeypatch, victim, name, error)
    with send_engine.worker(send_engine_lease_seconds=2):
        done = send_engine.wait(send_engine.create(newsletter, on_unknown=pb.UNKNOWN_POLICY_HOLD))
    assert failed() == 1
    assert (done.counters.sent, done.counters.unknown) == (20, 0)


def test_a_batch_is_given_back_although_the_database_fails_at_first(
    send_engine: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    newsletter = send_engine.member_center.newsletter(people=20)
    fail_at_first(monkeypatch, Recipients, "authorize", UNAVAILABLE)
    failed = fail_at_first(monkeypatch, HeldBatch, "release", UNAVAILABLE, times=3)
    with send_engine.worker(send_engine_lease_seconds=4):
        done = send_engine.wait(send_engine.create(newsletter, on_unknown=pb.UNKNOWN_POLICY_HOLD))
    assert failed() == 3
    assert (done.counters.sent, done.counters.unknown) == (20, 0)


def test_a_mail_over_which_composing_fails_is_put_off_and_the_rest_goes_on(
    send_engine: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    newsletter = send_engine.member_center.newsletter(people=20)
    fail_at_first(monkeypatch, JobComposer, "compose", KeyError())
    with send_engine.worker():
        job = send_engine.create(newsletter)
        wait_until(lambda: send_engine.get(job).counters.sent == 19, "the others")
        [late] = [row for row in send_engine.database.deliveries(job.id) if row[1] == "pending"]
        assert late[3:] == ("composing failed with KeyError", 1)
        send_engine.database.move_clock(31)
        assert send_engine.wait(job).counters.sent == 20


@pytest.mark.claim("S7", "without a consent answer, or with one too old: not mailed")
def test_nobody_is_mailed_whose_group_was_not_marked_before_consent_was_asked(send_engine: Installation) -> None:
    newsletter = send_engine.member_center.newsletter(people=300)
    unmarked: list[uuid.UUID] = []

    def look_at_the_ledger(group: list[uuid.UUID]) -> None:
        marked = send_engine.database.rows(
            "SELECT d.subscription_id FROM deliveries d JOIN batches b ON b.tenant_id = d.tenant_id "
            "AND b.id = d.batch_id WHERE d.ordinal >= b.recorded_until AND d.ordinal < b.marked_until"
        )
        unmarked.extend(set(group) - {row[0] for row in marked})

    send_engine.member_center.before_consent = look_at_the_ledger
    with send_engine.worker():
        send_engine.wait(send_engine.create(newsletter))
    assert unmarked == []
    assert sum(map(len, send_engine.member_center.asked)) == 300


def test_a_plan_waits_for_member_center_and_a_list_that_is_gone_fails_the_job(send_engine: Installation) -> None:
    waiting, gone = (send_engine.member_center.newsletter(people=2) for _ in range(2))
    jobs = [send_engine.create(newsletter) for newsletter in (waiting, gone)]
    del send_engine.member_center.lists[gone.tenant_id, gone.list_id]
    send_engine.member_center.silent = True
    with send_engine.worker():
        wait_until(lambda: send_engine.get(jobs[0]).status == pb.SEND_JOB_STATUS_PLANNING, "the first attempt")
        send_engine.member_center.silent = False
        send_engine.database.move_clock(120)
        assert send_engine.wait(jobs[0]).counters.sent == 2
        failed = send_engine.wait(jobs[1], pb.SEND_JOB_STATUS_FAILED)
    assert failed.status_reason == "the list no longer exists"


def test_a_job_completes_while_the_broker_is_gone(send_engine: Installation) -> None:
    newsletter = send_engine.member_center.newsletter(people=500)
    send_engine.broker_url = "redis://127.0.0.1:1/0"
    with send_engine.worker():
        done = send_engine.wait(send_engine.create(newsletter))
    assert done.counters.sent == len(send_engine.sink.accepted) == 500


def test_a_killed_worker_loses_nobody_and_doubles_only_what_it_had_marked(send_engine: Installation) -> None:
    newsletter = send_engine.member_center.newsletter(people=1500)
    send_engine.sink.delay = 0.005
    in_flight = 0
    job = send_engine.create(newsletter)
    for goal in (200, 500):
        with worker_process(send_engine, send_engine_lease_seconds=2) as process:
            wait_until(lambda goal=goal: send_engine.get(job).counters.sent > goal, "some mails")  # type: ignore[misc]
            process.kill()
            process.wait()
            in_flight += send_engine.get(job).counters.sending
    with send_engine.worker(send_engine_lease_seconds=2):
        done = send_engine.wait(job, seconds=60)
    counted = Counter(send_engine.sink.recipients())
    assert sorted(counted) == addresses(newsletter)
    assert counted.total() - 1500 <= in_flight
    assert done.counters.sent == 1500


def test_a_killed_worker_doubles_nobody_when_the_job_holds_unknown_mails(send_engine: Installation) -> None:
    newsletter = send_engine.member_center.newsletter(people=400)
    send_engine.sink.delay = 0.02
    job = send_engine.create(newsletter, on_unknown=pb.UNKNOWN_POLICY_HOLD)
    with worker_process(send_engine, send_engine_lease_seconds=2) as process:
        wait_until(lambda: send_engine.get(job).counters.sent > 50, "some mails")
        process.kill()
        process.wait()
        in_flight = send_engine.get(job).counters.sending
    send_engine.sink.delay = 0.0
    with send_engine.worker(send_engine_lease_seconds=2):
        done = send_engine.wait(job)
    counted = Counter(send_engine.sink.recipients())
    assert set(counted.values()) == {1}
    assert done.counters.unknown == in_flight
    assert done.counters.sent + done.counters.unknown == 400
    assert len(counted) >= done.counters.sent


def test_a_worker_that_is_asked_to_stop_ends_its_groups_and_doubles_nobody(send_engine: Installation) -> None:
    newsletter = send_engine.member_center.newsletter(people=600)
    send_engine.sink.delay = 0.01
    job = send_engine.create(newsletter)
    with worker_process(send_engine) as process:
        wait_until(lambda: send_engine.get(job).counters.sent > 50, "some mails")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    left = send_engine.get(job)
    assert (left.counters.sending, left.counters.claimed) == (0, 0)
    with send_engine.worker():
        done = send_engine.wait(job)
    assert done.counters.sent == 600
    assert sorted(send_engine.sink.recipients()) == addresses(newsletter)


def test_a_worker_that_wakes_up_too_late_writes_nothing_and_begins_no_further_mail(send_engine: Installation) -> None:
    newsletter = send_engine.member_center.newsletter(people=400)
    send_engine.sink.delay = 0.02
    job = send_engine.create(newsletter)
    with worker_process(send_engine, send_engine_lease_seconds=1) as sleeper:
        wait_until(lambda: send_engine.get(job).counters.sent > 30, "some mails")
        sleeper.send_signal(signal.SIGSTOP)
        in_flight = send_engine.get(job).counters.sending
        send_engine.sink.delay = 0.0
        with send_engine.worker(send_engine_lease_seconds=1):
            done = send_engine.wait(job, seconds=90)
        before = send_engine.database.deliveries(job.id)
        sent = len(send_engine.sink.accepted)
        sleeper.send_signal(signal.SIGCONT)
        time.sleep(1.5)
        # Four connections, each with at most one mail that the sink had not answered yet.
        assert len(send_engine.sink.accepted) <= sent + 4
        assert sorted(send_engine.database.deliveries(job.id)) == sorted(before)
        assert send_engine.get(job) == done
    counted = Counter(send_engine.sink.recipients())
    assert sorted(counted) == addresses(newsletter)
    assert counted.total() - 400 <= in_flight + 4


def test_tenants_take_turns(send_engine: Installation) -> None:
    large = send_engine.member_center.newsletter(people=4000)
    small = send_engine.member_center.newsletter(people=20)
    send_engine.sink.delay = 0.001
    with send_engine.worker():
        long_job = send_engine.create(large)
        wait_until(lambda: send_engine.get(long_job).counters.sent > 0, "the large job to begin")
        done = send_engine.wait(send_engine.create(small))
        assert done.counters.sent == 20
        assert send_engine.get(long_job).status == pb.SEND_JOB_STATUS_SENDING
        send_engine.cancel(long_job)


def test_a_long_plan_does_not_hold_up_another_tenants_job(send_engine: Installation) -> None:
    large = send_engine.member_center.newsletter(people=30_000)
    small = send_engine.member_center.newsletter(people=20)
    send_engine.member_center.page_delay = 0.6
    with send_engine.worker():
        long_job = send_engine.create(large)
        wait_until(lambda: send_engine.get(long_job).counters.total > 0, "the first page")
        send_engine.wait(send_engine.create(small))
        assert send_engine.get(long_job).status == pb.SEND_JOB_STATUS_PLANNING
        send_engine.cancel(long_job)
        assert send_engine.get(long_job).counters.pending == 0


def test_newsletters_do_not_hold_up_confirmation_mails(send_engine: Installation) -> None:
    newsletter = send_engine.member_center.newsletter(people=3000)
    send_engine.sink.delay = 0.02
    with send_engine.worker():
        job = send_engine.create(newsletter)
        wait_until(lambda: send_engine.get(job).counters.sent > 0, "the newsletter to begin")
        send_engine.member_center.add_confirmation(newsletter, "mei@other.example")
        asked_at = time.monotonic()
        wait_until(lambda: "mei@other.example" in send_engine.sink.recipients(), "the confirmation mail")
        assert time.monotonic() - asked_at < 2.0
        send_engine.cancel(job)


def test_results_wait_while_the_database_is_away(send_engine: Installation) -> None:
    newsletter = send_engine.member_center.newsletter(people=40)
    send_engine.sink.delay = 0.3
    accepted = send_engine.sink.accepted

    def is_quiet() -> bool:
        before = len(accepted)
        time.sleep(1)
        return len(accepted) == before

    with send_engine.worker():
        job = send_engine.create(newsletter)
        wait_until(lambda: len(accepted) >= 1, "the first mail")
        # Nobody may log in, and who was is thrown out, again and again while the mails are answered.
        owner = send_engine.database.rows("SELECT current_database()")[0][0]
        send_engine.database.change(f'ALTER ROLE "{owner}_app" NOLOGIN')
        over = threading.Event()

        def throw_out() -> None:
            while not over.wait(0.05):
                send_engine.database.rows(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", f"{owner}_app"
                )

        thrower = threading.Thread(target=throw_out)
        thrower.start()
        wait_until(is_quiet, "the end of the mails under way")
        # The job may have been stopped meanwhile: whoever cannot look begins no mail after a second.
        assert len(accepted) < 32
        over.set()
        thrower.join()
        send_engine.database.change(f'ALTER ROLE "{owner}_app" LOGIN')

        def answers() -> bool:
            with suppress(grpc.RpcError):
                send_engine.get(job)
                return True
            return False

        wait_until(answers, "the service to find the database again")
        done = send_engine.wait(job)
    assert done.counters.sent == 40
    assert sorted(send_engine.sink.recipients()) == addresses(newsletter)


@pytest.mark.claim("S7", "without a consent answer, or with one too old: not mailed")
def test_consent_is_asked_again_for_whom_a_slow_relay_did_not_get_to(
    send_engine: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("send_engine.sending.CONSENT_FRESH_SECONDS", 0.5)
    newsletter = send_engine.member_center.newsletter(people=32)
    send_engine.sink.delay = 0.2

    def leave(group: list[uuid.UUID]) -> None:
        # Everybody who is asked about a second time has left meanwhile.
        for subscription_id in group:
            person = newsletter.people[subscription_id]
            person.refusal = int(any(subscription_id in asked for asked in send_engine.member_center.asked))

    send_engine.member_center.before_consent = leave
    with send_engine.worker():
        done = send_engine.wait(send_engine.create(newsletter))
    assert done.counters.sent == len(send_engine.sink.accepted) < 32
    assert done.counters.suppressed == 32 - done.counters.sent


@pytest.mark.claim("S7", "without a consent answer, or with one too old: not mailed")
def test_an_answer_about_consent_that_came_too_late_is_asked_for_again(
    send_engine: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("send_engine.sending.CONSENT_FRESH_SECONDS", 0.5)
    newsletter = send_engine.member_center.newsletter(people=4)

    def leave_while_it_is_on_its_way(group: list[uuid.UUID]) -> None:
        if not send_engine.member_center.asked:
            threading.Event().wait(1.0)
            return
        for subscription_id in group:
            newsletter.people[subscription_id].refusal = 1

    send_engine.member_center.before_consent = leave_while_it_is_on_its_way
    with send_engine.worker():
        done = send_engine.wait(send_engine.create(newsletter))
    assert (done.counters.suppressed, send_engine.sink.accepted) == (4, [])


def test_a_job_completes_while_the_broker_is_frozen(send_engine: Installation) -> None:
    newsletter = send_engine.member_center.newsletter(people=500)
    with socket.create_server(("127.0.0.1", 0)) as frozen:
        # It takes connections and never says a word.
        send_engine.broker_url = f"redis://127.0.0.1:{frozen.getsockname()[1]}/0"
        with send_engine.worker():
            done = send_engine.wait(send_engine.create(newsletter))
    assert done.counters.sent == len(send_engine.sink.accepted) == 500


def test_a_job_completes_although_every_ring_is_lost(
    send_engine: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("send_engine.sweeper.HEARD_SECONDS", 0.5)
    monkeypatch.setattr("send_engine.actors.Doorbell.ring", lambda self, lane: True)
    newsletter = send_engine.member_center.newsletter(people=500)
    with send_engine.worker():
        done = send_engine.wait(send_engine.create(newsletter))
    assert done.counters.sent == len(send_engine.sink.accepted) == 500
