"""Confirmation mails from a real Member Center through a real worker, with a bad network between the two."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import pytest

from buf.validate import validate_pb2
from messmail.member_center.v1 import member_center_feed_pb2 as feed_pb
from send_engine import confirmations, wiring
from send_engine.recipients import ConfirmationResult, Recipients
from tests.member_center_fixtures import ISSUER, Engines, MemberCenter, Newsletter, unique_address
from tests.rig.proxy import CLEAR, Weather, fault_proxy
from tests.send_engine_fixtures import Sink, wait_until

AWAY = Weather(cut_after_sent=0)
PASSWORD = "of@the/app:role"


@pytest.fixture
def sink() -> Iterator[Sink]:
    """The mailbox at the end."""
    made = Sink()
    yield made
    made.stop()


@contextmanager
def worker(engines: Engines, center: MemberCenter, center_address: str, sink: Sink) -> Iterator[None]:
    """Runs a worker that reaches Member Center at an address."""
    owner_url = engines.postgres.create_database(f"send_engine_{uuid.uuid4().hex[:8]}")
    running = wiring.RunningWorker(
        wiring.WorkerSettings(
            send_engine_database_url=wiring.migrate(owner_url, PASSWORD),
            broker_url=engines.valkey.url,
            public_base_url=ISSUER,
            member_center_address=center_address,
            send_engine_client_id=center.credentials["send_engine"]["client_id"],
            send_engine_client_secret=center.credentials["send_engine"]["client_secret"],
            send_engine_smtp_url=f"smtp://{sink.address}",
        )
    )
    try:
        yield
    finally:
        running.stop()


def outcome(center: MemberCenter, newsletter: Newsletter) -> str | None:
    """Returns what Member Center knows of the only confirmation mail of a list."""
    ((found,),) = center.rows("SELECT outcome FROM confirmation_mails WHERE list_id = %s", newsletter.list_id)
    return str(found) if found else None


def test_a_sent_confirmation_that_member_center_could_not_be_told_of_is_told_later_and_not_sent_again(
    engines: Engines, member_center: MemberCenter, clock: Callable[[timedelta], None], sink: Sink
) -> None:
    newsletter, next_newsletter = member_center.make_newsletter(), member_center.make_newsletter()
    reader = unique_address()
    sink.delay = 0.5
    with (
        fault_proxy(member_center.server.address) as network,
        worker(engines, member_center, network.address, sink),
    ):
        member_center.subscribe(newsletter.list_id, reader)
        wait_until(lambda: sink.recipients() == [reader], "the mail, which waits for its answer")
        network.weather = AWAY
        network.reset_all()
        cut_before = network.cuts
        wait_until(lambda: network.cuts >= cut_before + 2, "two attempts to speak to Member Center in vain")
        assert outcome(member_center, newsletter) is None
        network.weather = CLEAR
        wait_until(lambda: outcome(member_center, newsletter) == "sent", "the acknowledgement")
        # Had it been lost, the lease would lapse and the mail be sent once more, before another's.
        clock(timedelta(seconds=61))
        follower = unique_address()
        member_center.subscribe(next_newsletter.list_id, follower)
        wait_until(lambda: outcome(member_center, next_newsletter) == "sent", "the next mail")
    assert sink.recipients() == [reader, follower]


def test_more_results_than_one_call_takes_are_told_in_several(
    engines: Engines, member_center: MemberCenter, sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    field = feed_pb.AcknowledgeConfirmationMailsRequest.DESCRIPTOR.fields_by_name["results"]
    assert field.GetOptions().Extensions[validate_pb2.field].repeated.max_items == confirmations.ACKNOWLEDGED_AT_ONCE
    monkeypatch.setattr(confirmations, "ACKNOWLEDGED_AT_ONCE", 3)
    acknowledge, sizes = Recipients.acknowledge_confirmations, list[int]()

    def counted(recipients: Recipients, results: Sequence[ConfirmationResult]) -> None:
        acknowledge(recipients, results)
        sizes.append(len(results))

    monkeypatch.setattr(Recipients, "acknowledge_confirmations", counted)
    newsletter = member_center.make_newsletter()
    readers = {unique_address() for _ in range(10)}
    for reader in readers:
        member_center.subscribe(newsletter.list_id, reader)
    sink.delay = 0.5
    with (
        fault_proxy(member_center.server.address) as network,
        worker(engines, member_center, network.address, sink),
    ):
        wait_until(sink.recipients, "the first mails, all of which are leased")
        network.weather = AWAY
        network.reset_all()
        wait_until(lambda: set(sink.recipients()) == readers, "all mails")
        cut_before = network.cuts
        wait_until(lambda: network.cuts >= cut_before + 2, "two attempts to speak to Member Center in vain")
        network.weather = CLEAR
        told = "SELECT count(*) FROM confirmation_mails WHERE list_id = %s AND outcome = 'sent'"
        wait_until(lambda: member_center.rows(told, newsletter.list_id) == [(10,)], "the acknowledgements")
    assert sorted(sink.recipients()) == sorted(readers)
    assert (sum(sizes), max(sizes)) == (10, 3)
