"""A send job from its creation to its last mail, through a real server, worker, database, broker and SMTP."""

from __future__ import annotations

import email
import email.policy

from messmail.send_engine.v1 import send_engine_pb2 as pb
from tests.send_engine_fixtures import Installation, engines, installation, wait_until

__all__ = ["engines", "installation"]


def test_every_confirmed_person_gets_one_mail_and_the_job_completes(installation: Installation) -> None:
    newsletter = installation.member_center.newsletter(people=2345)
    other = installation.member_center.newsletter(people=5)
    with installation.worker():
        job = installation.create(newsletter)
        assert job.status == pb.SEND_JOB_STATUS_SCHEDULED
        done = installation.wait(job)
    assert done.counters.total == done.counters.sent == 2345
    sent_to = installation.sink.recipients()
    assert sorted(sent_to) == sorted(person.address for person in newsletter.people.values())
    assert not {person.address for person in other.people.values()} & set(sent_to)
    assert done.started_at.ToNanoseconds() <= done.ended_at.ToNanoseconds()


def test_a_mail_carries_the_persons_own_links_and_preferences(installation: Installation) -> None:
    newsletter = installation.member_center.newsletter()
    (person,) = newsletter.add(1, preferences='{"name": "Mei", "lang": "zh-TW"}')
    with installation.worker():
        installation.wait(installation.create(newsletter, body_text="Dear {{ preferences.name }}", template=True))
    ((recipient, data),) = installation.sink.accepted
    mail = email.message_from_bytes(data, policy=email.policy.default)
    assert recipient == person.address == mail["To"]
    assert person.subscription_id.hex in mail["List-Unsubscribe"]
    assert "Dear Mei" in mail.get_body().get_content()  # type: ignore[union-attr]


def test_a_job_without_an_audience_completes_at_once(installation: Installation) -> None:
    with installation.worker():
        done = installation.wait(installation.create(installation.member_center.newsletter()))
    assert done.counters == pb.SendJobCounters()


def test_who_may_not_be_mailed_is_suppressed_with_the_reason(installation: Installation) -> None:
    newsletter = installation.member_center.newsletter(people=10)
    leaver, *_ = newsletter.people.values()
    leaver.refusal = 1
    with installation.worker():
        job = installation.wait(installation.create(newsletter))
    assert (job.counters.sent, job.counters.suppressed) == (9, 1)
    assert leaver.address not in installation.sink.recipients()
    states = {row[0]: row[1:3] for row in installation.database.deliveries(job.id)}
    assert states[leaver.subscription_id] == ("suppressed", "unsubscribed")


def test_confirmation_mails_are_sent_and_acknowledged(installation: Installation) -> None:
    newsletter = installation.member_center.newsletter()
    mail_id = installation.member_center.add_confirmation(newsletter, "mei@mail.example")
    with installation.worker():
        (result,) = wait_until(lambda: list(installation.member_center.confirmed), "the acknowledgement")
    assert (result.mail_id, result.fence, result.outcome) == (mail_id, 1, 1)
    assert installation.sink.recipients() == ["mei@mail.example"]
