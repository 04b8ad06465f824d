"""Whoever is erased stays away, also where somebody brings them in at the same moment."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

import pytest

from messmail.member_center.v1 import member_center_admin_pb2 as admin_pb
from messmail.member_center.v1 import member_center_pb2 as pb
from messmail.member_center.v1 import member_center_people_pb2 as people_pb
from tests.claims_table import cases
from tests.member_center_fixtures import MemberCenter, Newsletter, reason_of, unique_address

ROUNDS = cases(200, least=8)


def import_with_many(center: MemberCenter, newsletter: Newsletter, email: str) -> None:
    emails = [email, *(unique_address() for _ in range(800))]
    center.admin.ImportMembers(
        admin_pb.ImportMembersRequest(
            tenant_id=newsletter.tenant_id,
            list_id=newsletter.list_id,
            rows=[admin_pb.ImportRow(email=one) for one in emails],
            confirmed=True,
            evidence="a paper form",
        )
    )


def subscribe_with_evidence(center: MemberCenter, newsletter: Newsletter, email: str) -> None:
    site = center.public_as(center.make_client(newsletter.tenant_id, "newsletter:members.write"))
    for _ in range(20):
        site.Subscribe(pb.SubscribeRequest(list_id=newsletter.list_id, email=email, evidence="a paper form"))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("bring_in", [import_with_many, subscribe_with_evidence])
def test_nobody_is_brought_in_while_being_erased(
    member_center: MemberCenter, bring_in: Callable[[MemberCenter, Newsletter, str], None]
) -> None:
    chance = random.Random(number := random.SystemRandom().randrange(2**32))
    print(f"seed {number}")
    # The same person asks more often here than one does.
    member_center.set_limits(subscribes_per_address_per_hour=1_000_000)
    for _ in range(ROUNDS):
        newsletter, email = member_center.make_newsletter(), unique_address()
        bringing = threading.Thread(target=bring_in, args=(member_center, newsletter, email))
        bringing.start()
        bringing.join(chance.uniform(0.0, 0.15))
        member_center.admin.ErasePerson(people_pb.ErasePersonRequest(tenant_id=newsletter.tenant_id, email=email))
        bringing.join(60)
        query = "SELECT standing FROM subscriptions WHERE list_id = %s AND lower(address) = %s"
        standings = [standing for (standing,) in member_center.rows(query, newsletter.list_id, email.lower())]
        # With evidence somebody may have been asked for afterwards, as anybody can ask; nobody is confirmed.
        assert "confirmed" not in standings


def test_an_operator_does_not_lift_an_erasure(member_center: MemberCenter) -> None:
    newsletter, email = member_center.make_newsletter(), unique_address()
    member_center.admin.ErasePerson(people_pb.ErasePersonRequest(tenant_id=newsletter.tenant_id, email=email))
    known = people_pb.ListSuppressionsRequest(tenant_id=newsletter.tenant_id, email=email)
    (kept,) = member_center.admin.ListSuppressions(known).suppressions
    lift = people_pb.RemoveSuppressionRequest(tenant_id=newsletter.tenant_id, suppression_id=kept.suppression_id)
    assert reason_of(lambda: member_center.admin.RemoveSuppression(lift)) == "INVALID_FIELD"
    assert list(member_center.admin.ListSuppressions(known).suppressions) == [kept]
