"""L4: an erased person is in no dump, no log and no broker any more, is kept out by a hash, and is missed by no other.

One person is known to one tenant only, and must be nowhere; another to two tenants, of which one erases.
"""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest

from messmail.member_center.v1 import member_center_admin_pb2 as admin_pb
from messmail.member_center.v1 import member_center_people_pb2 as people_pb
from tests.claims_table import ClaimRow, hand_in_claim
from tests.recount import Ledger
from tests.remains import DATABASES, dump, everything_written
from tests.stack import Newsletter, Stack, wait_until


class Person:
    """A person with an address that is written in several ways."""

    def __init__(self) -> None:
        mark = uuid.uuid4().hex[:8]
        self.typed = f"Anna.Erased{mark}@Bücher{mark}.Example"
        domain = f"bücher{mark}.example".encode("idna").decode()
        self.mailbox = f"Anna.Erased{mark}@{domain}"
        ways = {self.typed, self.typed.lower(), self.mailbox, self.mailbox.lower(), self.mailbox.partition("@")[0]}
        ways |= {way.replace("@", "%40") for way in ways}
        # Upper and lower case are the same here, so that no other way of writing it is missed.
        self.written = {way.lower().encode() for way in ways}

    def is_in(self, content: bytes) -> bool:
        return any(way in content.lower() for way in self.written)


def where(stack: Stack, folder: Path, person: Person) -> set[str]:
    """Names where a person is still to be found."""
    return {name for name, content in everything_written(stack, folder) if person.is_in(content)}


def subscribe(stack: Stack, list_id: str, person: Person) -> str:
    """Asks for a subscription, waits for its confirmation mail, and returns the token of the mailed link."""
    before = stack.mailbox.count(person.mailbox)
    asked = {"list_id": list_id, "email": person.typed, "preferences": {"lang": "en", "of": person.typed}}
    assert stack.site.post_json("/newsletter/subscribe", asked).answer["status"] == "pending"
    wait_until(lambda: stack.mailbox.count(person.mailbox) > before, "the confirmation mail", 60)
    text: str = stack.mailbox.content(next(stack.mailbox.mails(person.mailbox)))["Text"]
    return text.partition("/newsletter/confirm?token=")[2].split()[0]


def live_a_life(stack: Stack, newsletter: Newsletter, person: Person) -> None:
    """Lets a person subscribe, confirm by the mailed link, get a newsletter, and ask for another list."""
    token = subscribe(stack, newsletter.list_id, person)
    assert stack.site.post_json("/newsletter/confirm", {"token": token}).answer["status"] == "confirmed"
    access = stack.access_token(newsletter.client)
    job = {"list_id": newsletter.list_id, "subject": "News", "body_text": "Hello"}
    stack.wait_for_job(stack.site.post_json("/api/send-jobs", job, access).answer["id"], access)
    subscribe(stack, stack.make_list(newsletter.tenant_id), person)


def import_again(stack: Stack, newsletter: Newsletter, person: Person, list_id: str = "") -> int:
    request = admin_pb.ImportMembersRequest(
        tenant_id=newsletter.tenant_id,
        list_id=list_id or newsletter.list_id,
        rows=[admin_pb.ImportRow(email=person.typed)],
        confirmed=True,
        evidence="a file from before",
    )
    return stack.operator.member_center_admin.ImportMembers(request).imported


@pytest.mark.slow
def test_an_erased_person_is_nowhere_and_is_kept_out_and_another_tenant_keeps_theirs(
    stack: Stack, tmp_path: Path, record_property: object
) -> None:
    here, elsewhere = stack.make_newsletter(), stack.make_newsletter()
    only_here, of_both = Person(), Person()
    for person in (only_here, of_both):
        live_a_life(stack, here, person)
    live_a_life(stack, elsewhere, of_both)
    assert where(stack, tmp_path, only_here) == {"member_center"}

    of_here = ("--tenant", here.tenant_id, "--email")
    shown = stack.messmail("people", "export", *of_here, only_here.typed)
    assert [one["email"] for one in shown["subscriptions"]] == [only_here.mailbox] * 2
    [complete] = [one for one in shown["subscriptions"] if one["list_id"] == here.list_id]
    assert complete["preferences"] == {"lang": "en", "of": only_here.typed}
    assert [(line["status"], line["through"]) for line in complete["consent_log"]] == [
        ("pending", "subscribe"),
        ("confirmed", "mailed_link"),
    ]
    assert [mail["outcome"] for mail in complete["confirmation_mails"]] == ["sent"]
    assert [one["state"] for one in shown["deliveries"]] == ["sent", "sent"]
    ids = {one["subscription_id"] for one in shown["subscriptions"]}

    def rows_of(tenant: str) -> list[tuple[object, ...]]:
        ledger = Ledger(stack)
        tables: dict[str, tuple[str, ...]] = {
            "member_center": ("subscriptions", "consent_log", "confirmation_mails", "suppressions")
        }
        tables["send_engine"] = ("deliveries",)
        return [
            row
            for database, names in tables.items()
            for name in names
            for row in ledger.rows(
                f"SELECT r::text FROM {name} r WHERE tenant_id = %s ORDER BY 1", tenant, database=database
            )
        ]

    kept = rows_of(elsewhere.tenant_id)
    erased = stack.messmail("people", "erase", *of_here, only_here.typed)
    assert erased == {"subscriptions": 2, "deliveries": 2}
    found = where(stack, tmp_path, only_here)
    # The audit log says which subscriptions were shown and erased; nothing else knows them any more.
    left = {name: dump(stack, name, "--exclude-table-data=audit_log") for name in DATABASES}
    leads = {name for name, content in left.items() if any(one.encode() in content for one in ids)}
    assert stack.messmail("people", "erase", *of_here, of_both.typed)["subscriptions"] == 2
    touched = rows_of(elsewhere.tenant_id) != kept
    kept_out = [import_again(stack, here, person) == 0 for person in (only_here, of_both)]
    new_list = stack.make_list(here.tenant_id)
    kept_out.append(import_again(stack, here, only_here, new_list) == 0)
    violations = len(found) + len(leads) + touched + kept_out.count(False)
    hand_in_claim(
        record_property, ClaimRow("L4", "erased: nowhere, kept out, no other tenant touched", 0, 2, violations)
    )
    assert (found, leads, touched, kept_out) == (set(), set(), False, [True, True, True])

    def audited() -> bool:
        events = Ledger(stack).rows("SELECT event FROM audit_log WHERE event LIKE 'recipient_%%' AND number > %s", 0)
        return {event for (event,) in events} == {"recipient_exported", "recipient_erased"}

    wait_until(audited, "what Send Engine did about the person in its audit log")

    # Nothing but the address's hash is left, and the counters of the job still add up.
    ledger = Ledger(stack)
    assert ledger.rows(
        "SELECT reason, list_id FROM suppressions WHERE tenant_id = %s", here.tenant_id, database="member_center"
    ) == [("erased", None), ("erased", None)]
    assert ledger.rows("SELECT state, count(*) FROM deliveries WHERE tenant_id = %s GROUP BY 1", here.tenant_id) == [
        ("sent", 3)
    ]
    # Whom they keep out is not told by the site's link either, but the mailed one opens the door again.
    again = stack.site.post_json("/newsletter/subscribe", {"list_id": new_list, "email": only_here.typed})
    by_site = stack.site.post_json("/newsletter/confirm", {"token": again.answer["confirm_token"]})
    assert (by_site.status, by_site.answer["status"]) == (200, "pending")


def test_the_complaint_of_an_erased_person_keeps_the_list_closed(stack: Stack) -> None:
    newsletter, person = stack.make_newsletter(), Person()
    stack.import_members(newsletter, [person.typed])
    of_list = ("--tenant", newsletter.tenant_id, "--list", newsletter.list_id, "--email", person.typed)
    assert stack.messmail("people", "complain", *of_list, "--evidence", "a letter") == {"status": "complained"}
    stack.messmail("people", "erase", "--tenant", newsletter.tenant_id, "--email", person.typed)
    listed = stack.messmail("suppressions", "list", "--tenant", newsletter.tenant_id, "--email", person.typed)
    assert [(one["list_id"], one["scope"], one["reason"]) for one in listed["suppressions"]] == [
        ("", "newsletter", "erased"),
        (newsletter.list_id, "everything", "complaint"),
    ]
    beside = stack.make_list(newsletter.tenant_id)
    for list_id in (newsletter.list_id, beside):
        stack.site.post_json("/newsletter/subscribe", {"list_id": list_id, "email": person.typed})
    # Of the other list one is mailed; the mails of both would be in one lease.
    stack.mailbox.wait_for(person.mailbox)
    query = "SELECT m.list_id::text, outcome FROM confirmation_mails m JOIN subscriptions s ON s.id = subscription_id"
    outcomes = dict(
        Ledger(stack).rows(f"{query} WHERE m.tenant_id = %s", newsletter.tenant_id, database="member_center")
    )
    assert outcomes[newsletter.list_id] == "skipped"


def test_a_person_is_exported_to_a_file_that_only_its_owner_may_read(stack: Stack, tmp_path: Path) -> None:
    newsletter, person = stack.make_newsletter(), Person()
    stack.import_members(newsletter, [person.typed])
    file = tmp_path / "person.json"
    of_person = ("--tenant", newsletter.tenant_id, "--email", person.typed)
    assert stack.messmail("people", "export", *of_person, "--output", str(file)) == {"file": str(file)}
    assert file.stat().st_mode & 0o777 == 0o600
    (known,) = json.loads(file.read_text())["subscriptions"]
    assert (known["email"], known["status"]) == (person.mailbox, "confirmed")
    request = people_pb.ExportPersonRequest(tenant_id=stack.make_tenant(), email=person.typed)
    assert not stack.operator.member_center_admin.ExportPerson(request).subscriptions
