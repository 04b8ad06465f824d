"""A send job from its creation to its last mail, through a real server, worker, database, broker and SMTP."""

from __future__ import annotations

import email
import email.policy
import socket

import pytest
from cryptography.fernet import Fernet
from structlog.testing import capture_logs

from messmail.member_center.v1 import member_center_feed_pb2 as feed
from messmail.send_engine.v1 import send_engine_pb2 as pb
from tests.send_engine_fixtures import (
    MASTER_KEY,
    Installation,
    Newsletter,
    Sink,
    send_engine,
    send_engine_engines,
    wait_until,
)

__all__ = ["send_engine", "send_engine_engines"]


def give_account(engine: Installation, newsletter: Newsletter, smtp_url: str, master_key: str = MASTER_KEY) -> None:
    """Stores an ESP account of the list's tenant, encrypted under a master key."""
    engine.database.change(
        "INSERT INTO esp_accounts (tenant_id, relay, encrypted_url) VALUES (%s, 'smtp://relay.example:25', %s)",
        newsletter.tenant_id,
        Fernet(master_key).encrypt(smtp_url.encode()),
    )


def outcomes(engine: Installation) -> dict[bytes, int]:
    """Returns the acknowledged outcome of each confirmation mail; each is acknowledged once."""
    results = list(engine.member_center.confirmed)
    found: dict[bytes, int] = {result.mail_id: result.outcome for result in results}
    assert len(found) == len(results)
    return found


def test_every_confirmed_person_gets_one_mail_and_the_job_completes(send_engine: Installation) -> None:
    newsletter = send_engine.member_center.newsletter(people=2345)
    other = send_engine.member_center.newsletter(people=5)
    with send_engine.worker():
        job = send_engine.create(newsletter)
        assert job.status == pb.SEND_JOB_STATUS_SCHEDULED
        done = send_engine.wait(job)
    assert done.counters.total == done.counters.sent == 2345
    sent_to = send_engine.sink.recipients()
    assert sorted(sent_to) == sorted(person.address for person in newsletter.people.values())
    assert not {person.address for person in other.people.values()} & set(sent_to)
    assert done.started_at.ToNanoseconds() <= done.ended_at.ToNanoseconds()


def test_a_mail_carries_the_persons_own_links_and_preferences(send_engine: Installation) -> None:
    newsletter = send_engine.member_center.newsletter()
    (person,) = newsletter.add(1, preferences='{"name": "Mei", "lang": "zh-TW"}')
    with send_engine.worker():
        send_engine.wait(send_engine.create(newsletter, body_text="Dear {{ preferences.name }}", template=True))
    ((recipient, data),) = send_engine.sink.accepted
    mail = email.message_from_bytes(data, policy=email.policy.default)
    assert recipient == person.address == mail["To"]
    assert person.subscription_id.hex in mail["List-Unsubscribe"]
    assert "Dear Mei" in mail.get_body().get_content()  # type: ignore[union-attr]


@pytest.mark.parametrize("body", ["{{ preferences_url }}", "{% set link = preferences_url %}{{ link }}"])
def test_a_template_that_shows_the_preference_centre_gets_each_persons_own_link(
    send_engine: Installation, body: str
) -> None:
    newsletter = send_engine.member_center.newsletter(people=3)
    with send_engine.worker():
        send_engine.wait(send_engine.create(newsletter, body_text=body, template=True))
    mails = {recipient: email.message_from_bytes(data).get_payload() for recipient, data in send_engine.sink.accepted}
    for person in newsletter.people.values():
        assert f"/newsletter/preference-center?token={person.subscription_id.hex}" in mails[person.address]


@pytest.mark.parametrize("template", [False, True])
def test_no_link_to_the_preference_centre_is_asked_for_that_no_mail_shows(
    send_engine: Installation, template: bool
) -> None:
    newsletter = send_engine.member_center.newsletter(people=3)
    with send_engine.worker():
        body = "preferences_url {{ list_name }}" if template else "{{ preferences_url }}"
        done = send_engine.wait(send_engine.create(newsletter, body_text=body, template=template))
    assert (done.counters.sent, send_engine.member_center.asked_for_preferences_urls) == (3, {False})


def test_a_job_without_an_audience_completes_at_once(send_engine: Installation) -> None:
    with send_engine.worker():
        done = send_engine.wait(send_engine.create(send_engine.member_center.newsletter()))
    assert done.counters == pb.SendJobCounters()


def test_who_may_not_be_mailed_is_suppressed_with_the_reason(send_engine: Installation) -> None:
    newsletter = send_engine.member_center.newsletter(people=10)
    leaver, *_ = newsletter.people.values()
    leaver.refusal = 1
    with send_engine.worker():
        job = send_engine.wait(send_engine.create(newsletter))
    assert (job.counters.sent, job.counters.suppressed) == (9, 1)
    assert leaver.address not in send_engine.sink.recipients()
    states = {row[0]: row[1:3] for row in send_engine.database.deliveries(job.id)}
    assert states[leaver.subscription_id] == ("suppressed", "unsubscribed")


def test_confirmation_mails_are_sent_and_acknowledged(send_engine: Installation) -> None:
    newsletter = send_engine.member_center.newsletter()
    mail_id = send_engine.member_center.add_confirmation(newsletter, "mei@mail.example")
    with send_engine.worker():
        (result,) = wait_until(lambda: list(send_engine.member_center.confirmed), "the acknowledgement")
    assert (result.mail_id, result.fence, result.outcome) == (mail_id, 1, 1)
    assert send_engine.sink.recipients() == ["mei@mail.example"]


def test_an_account_that_cannot_be_opened_defers_its_tenants_confirmations_only(send_engine: Installation) -> None:
    center = send_engine.member_center
    first, locked, last = (center.newsletter() for _ in range(3))
    give_account(send_engine, locked, "smtp://user:secret@relay.example", Fernet.generate_key().decode())
    before = center.add_confirmation(first, "mei@mail.example")
    stuck = center.add_confirmation(locked, "kai@mail.example")
    after = center.add_confirmation(last, "lin@mail.example")
    with send_engine.worker():
        wait_until(lambda: len(center.confirmed) >= 3, "the acknowledgements")
    assert outcomes(send_engine) == {
        before: feed.MAIL_OUTCOME_SENT,
        stuck: feed.MAIL_OUTCOME_DEFERRED,
        after: feed.MAIL_OUTCOME_SENT,
    }
    assert sorted(send_engine.sink.recipients()) == ["lin@mail.example", "mei@mail.example"]


def test_a_relay_that_says_nothing_holds_up_no_other_tenants_confirmations(send_engine: Installation) -> None:
    center = send_engine.member_center
    slow, quick = center.newsletter(), center.newsletter()
    with socket.create_server(("127.0.0.1", 0)) as mute:
        give_account(send_engine, slow, f"smtp://127.0.0.1:{mute.getsockname()[1]}")
        stuck = center.add_confirmation(slow, "kai@mail.example")
        same_page = center.add_confirmation(quick, "mei@mail.example")
        with send_engine.worker():
            wait_until(lambda: same_page in outcomes(send_engine), "the mail of the same page", seconds=10)
            next_page = center.add_confirmation(quick, "lin@mail.example")
            wait_until(lambda: next_page in outcomes(send_engine), "the mail of the next page", seconds=10)
            assert stuck not in outcomes(send_engine)
        assert outcomes(send_engine) == {
            same_page: feed.MAIL_OUTCOME_SENT,
            next_page: feed.MAIL_OUTCOME_SENT,
            stuck: feed.MAIL_OUTCOME_DEFERRED,
        }, "what a stop breaks off is given back"
    assert send_engine.sink.recipients() == ["mei@mail.example", "lin@mail.example"]


def test_the_confirmations_of_a_page_go_out_over_few_connections(send_engine: Installation) -> None:
    newsletter = send_engine.member_center.newsletter()
    mails = [send_engine.member_center.add_confirmation(newsletter, f"mei{n}@mail.example") for n in range(90)]
    with send_engine.worker():
        wait_until(lambda: len(outcomes(send_engine)) == 90, "the acknowledgements")
    assert outcomes(send_engine) == dict.fromkeys(mails, feed.MAIL_OUTCOME_SENT)
    assert len(set(send_engine.sink.recipients())) == len(send_engine.sink.accepted) == 90
    assert send_engine.sink.connections <= 4


def test_a_confirmation_is_acknowledged_before_a_slow_one_of_its_page(send_engine: Installation) -> None:
    newsletter = send_engine.member_center.newsletter()
    slow = send_engine.member_center.add_confirmation(newsletter, "slow@mail.example")
    quick = [send_engine.member_center.add_confirmation(newsletter, f"mei{n}@mail.example") for n in range(20)]
    send_engine.sink.delays["slow@mail.example"] = 3.0
    with send_engine.worker():
        # One may travel behind the slow one.
        wait_until(lambda: len(outcomes(send_engine)) >= 19, "the quick ones")
        assert slow not in outcomes(send_engine)
        wait_until(lambda: len(outcomes(send_engine)) == 21, "all of them")
    assert outcomes(send_engine) == dict.fromkeys([slow, *quick], feed.MAIL_OUTCOME_SENT)


def test_however_many_mails_wait_for_a_slow_relay_the_others_go_out(send_engine: Installation) -> None:
    center = send_engine.member_center
    slow, quick = center.newsletter(), center.newsletter()
    with socket.create_server(("127.0.0.1", 0)) as mute:
        give_account(send_engine, slow, f"smtp://127.0.0.1:{mute.getsockname()[1]}")
        stuck = {center.add_confirmation(slow, f"kai{n}@mail.example") for n in range(450)}
        behind = center.add_confirmation(quick, "mei@mail.example")
        with send_engine.worker():
            wait_until(lambda: behind in outcomes(send_engine), "the mail behind them", seconds=15)
            later = center.add_confirmation(quick, "lin@mail.example")
            wait_until(lambda: later in outcomes(send_engine), "a later mail", seconds=5)
        found = outcomes(send_engine)
    assert (found.pop(behind), found.pop(later)) == (feed.MAIL_OUTCOME_SENT,) * 2
    assert found == dict.fromkeys(stuck, feed.MAIL_OUTCOME_DEFERRED)


def test_relays_that_never_answer_hold_up_no_other_tenant(send_engine: Installation) -> None:
    center = send_engine.member_center
    with send_engine.worker():
        hung = Sink()
        hung.delay = 600
        try:
            # As many as there are slots.
            for domain in ("one.example", "two.example"):
                newsletter = center.newsletter()
                newsletter.add(100, domain=domain)
                give_account(send_engine, newsletter, f"smtp://{hung.address}")
                send_engine.create(newsletter)
            wait_until(
                lambda: {address.partition("@")[2] for address in hung.recipients()} == {"one.example", "two.example"},
                "both to hang",
            )
            job = send_engine.create(center.newsletter(people=200))
            assert send_engine.wait(job).counters.sent == 200
            assert hung.connections == 8, "what may have arrived is waited for all the while"
        finally:
            hung.stop()


def test_an_account_that_cannot_be_opened_leaves_its_tenants_job_untouched_and_the_others_go_out(
    send_engine: Installation,
) -> None:
    center = send_engine.member_center
    locked, other = center.newsletter(people=5), center.newsletter(people=5)
    give_account(send_engine, locked, "smtp://user:secret@relay.example", Fernet.generate_key().decode())
    with capture_logs() as logs, send_engine.worker():
        stuck = send_engine.create(locked)
        wait_until(lambda: [entry for entry in logs if entry["event"] == "batch.no_account"], "the account to be tried")
        assert send_engine.wait(send_engine.create(other)).counters.sent == 5
        wait_until(
            lambda: not send_engine.database.rows("SELECT 1 FROM batches WHERE lease_until IS NOT NULL"),
            "the batch to be given back",
        )
        # Once it can be opened, it goes on.
        send_engine.database.change("DELETE FROM esp_accounts")
        assert send_engine.wait(stuck).counters.sent == 5
    assert "lane.crashed" not in {entry["event"] for entry in logs}
    assert "secret" not in str(logs)
