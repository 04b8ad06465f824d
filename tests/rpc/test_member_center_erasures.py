"""Whoever is erased stays away, also where somebody brings them in at the same moment."""

from __future__ import annotations

import threading
from collections.abc import Callable

import psycopg
import pytest

from messmail.member_center.v1 import member_center_admin_pb2 as admin_pb
from messmail.member_center.v1 import member_center_pb2 as pb
from messmail.member_center.v1 import member_center_people_pb2 as people_pb
from tests.member_center_fixtures import MemberCenter, Newsletter, reason_of, unique_address
from tests.stack import wait_until


def import_somebody(center: MemberCenter, newsletter: Newsletter, email: str) -> None:
    center.admin.ImportMembers(
        admin_pb.ImportMembersRequest(
            tenant_id=newsletter.tenant_id,
            list_id=newsletter.list_id,
            rows=[admin_pb.ImportRow(email=email)],
            confirmed=True,
            evidence="a paper form",
        )
    )


def subscribe_with_evidence(center: MemberCenter, newsletter: Newsletter, email: str) -> None:
    site = center.public_as(center.make_client(newsletter.tenant_id, "newsletter:members.write"))
    site.Subscribe(pb.SubscribeRequest(list_id=newsletter.list_id, email=email, evidence="a paper form"))


@pytest.mark.parametrize("bring_in", [import_somebody, subscribe_with_evidence])
def test_nobody_is_brought_in_while_being_erased(
    member_center: MemberCenter, bring_in: Callable[[MemberCenter, Newsletter, str], None]
) -> None:
    newsletter, email = member_center.make_newsletter(), unique_address()
    person = people_pb.ErasePersonRequest(tenant_id=newsletter.tenant_id, email=email)
    bringing = threading.Thread(target=bring_in, args=(member_center, newsletter, email))
    erasing = threading.Thread(target=member_center.admin.ErasePerson, args=(person,))

    def waits_for(what: str) -> bool:
        return bool(member_center.rows(f"SELECT 1 FROM pg_locks WHERE NOT granted AND {what}"))

    with psycopg.connect(member_center.superuser_url) as connection:
        # Suppressions have been read by then, and nothing has been stored.
        connection.execute("LOCK TABLE consent_log IN SHARE MODE")
        bringing.start()
        wait_until(lambda: waits_for("relation = 'consent_log'::regclass"), "whoever brings the person in")
        erasing.start()
        wait_until(lambda: not erasing.is_alive() or waits_for("locktype = 'advisory'"), "the erasure, or its wait")
        connection.rollback()
    bringing.join(30)
    erasing.join(30)
    query = "SELECT 1 FROM subscriptions WHERE list_id = %s"
    assert member_center.rows(query, newsletter.list_id) == []


def test_an_operator_does_not_lift_an_erasure(member_center: MemberCenter) -> None:
    newsletter, email = member_center.make_newsletter(), unique_address()
    member_center.admin.ErasePerson(people_pb.ErasePersonRequest(tenant_id=newsletter.tenant_id, email=email))
    known = people_pb.ListSuppressionsRequest(tenant_id=newsletter.tenant_id, email=email)
    (kept,) = member_center.admin.ListSuppressions(known).suppressions
    lift = people_pb.RemoveSuppressionRequest(tenant_id=newsletter.tenant_id, suppression_id=kept.suppression_id)
    assert reason_of(lambda: member_center.admin.RemoveSuppression(lift)) == "INVALID_FIELD"
    assert list(member_center.admin.ListSuppressions(known).suppressions) == [kept]
