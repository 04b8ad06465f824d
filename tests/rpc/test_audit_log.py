"""The audit log: everything that changes the installation is in it, and whatever is done to it is found."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import grpc
import psycopg
import pytest
from google.protobuf.json_format import MessageToDict

from member_center import wiring
from messmail.audit.v1 import audit_pb2, audit_pb2_grpc
from messmail.member_center.v1 import member_center_admin_pb2 as admin_pb
from messmail.member_center.v1 import member_center_pb2 as pb
from messmail.member_center.v1 import member_center_pb2_grpc
from messmail.member_center.v1 import member_center_people_pb2 as people_pb
from servicekit import audit, audit_check
from servicekit.audit import AuditLog, Event, Thinning
from servicekit.audit_check import AuditCheck
from servicekit.database import Database
from servicekit.keyring import MasterKeys
from tests.claims_table import cases
from tests.member_center_fixtures import Engines, MemberCenter, reason_of, running_member_center, unique_address

MADE_AT_ONCE = 400
HARMED = cases(MADE_AT_ONCE)


def stub_of(center: MemberCenter) -> audit_pb2_grpc.AuditLogStub:
    return audit_pb2_grpc.AuditLogStub(center.channel_of("admin"))


def events_of(center: MemberCenter) -> list[tuple[str, dict[str, Any]]]:
    """Returns what is in the log, oldest first, as name and facts."""
    page = stub_of(center).ListAuditEvents(audit_pb2.ListAuditEventsRequest(page_size=1000))
    return [(event.event, MessageToDict(event.facts)) for event in reversed(page.events)]


def wait_for(center: MemberCenter, is_there: Callable[[list[tuple[str, dict[str, Any]]]], bool]) -> None:
    deadline = time.monotonic() + 20
    while not is_there(found := events_of(center)):
        assert time.monotonic() < deadline, found[-20:]
        time.sleep(0.05)


def names_after(center: MemberCenter, before: int) -> list[str]:
    return [name for name, _ in events_of(center)[before:]]


def test_every_change_of_the_installation_is_logged_with_who_made_it(member_center: MemberCenter) -> None:
    admin = member_center.credentials["admin"]["client_id"]
    tenant_id = member_center.make_tenant()
    list_id = member_center.make_list(tenant_id)
    client = member_center.make_client(tenant_id)
    rotate = admin_pb.RotateClientSecretRequest(client_id=client.client_id)
    secret = member_center.admin.RotateClientSecret(rotate).client_secret
    member_center.set_limits(calls_per_client_per_minute=7000)
    (kid,) = member_center.admin.RotateKeys(admin_pb.RotateKeysRequest(ring=admin_pb.KEY_RING_SIGNING)).key_ids
    member_center.admin.DisableClient(admin_pb.DisableClientRequest(client_id=client.client_id))
    found = events_of(member_center)
    for wanted in (
        ("tenant_created", {"tenant_id": tenant_id}),
        ("list_created", {"tenant_id": tenant_id, "list_id": list_id}),
        ("client_secret_rotated", {"rotated_id": client.client_id, "tenant_id": tenant_id}),
        ("client_disabled", {"disabled_id": client.client_id, "tenant_id": tenant_id}),
        ("limits_set", {"limits": {"calls_per_client_per_minute": 7000.0}}),
        ("keys_rotated", {"ring": "signing", "key_ids": [kid]}),
    ):
        assert wanted in found, wanted
    made = next(facts for name, facts in found if name == "client_created" and facts["made_id"] == client.client_id)
    assert made["scopes"] == ["newsletter:send.write"]
    page = stub_of(member_center).ListAuditEvents(audit_pb2.ListAuditEventsRequest(page_size=1000))
    by_operator = {event.event for event in page.events if event.client_id == admin}
    assert by_operator >= {"tenant_created", "client_created", "keys_rotated"}
    assert all(event.request_id for event in page.events if event.client_id == admin)
    text = json.dumps([MessageToDict(event) for event in page.events])
    for hidden in (client.client_secret, secret, "@", "eyJ"):
        assert hidden not in text


def test_what_an_operator_does_about_a_person_is_logged_without_the_address(member_center: MemberCenter) -> None:
    newsletter, email = member_center.make_newsletter(), unique_address("findme")
    person = {"tenant_id": newsletter.tenant_id, "email": email}
    subscription_id = str(uuid.UUID(bytes=member_center.add_member(newsletter, email)))
    before, admin = len(events_of(member_center)), member_center.admin
    settings = admin_pb.ListSettings(require_token=True)
    admin.UpdateList(
        admin_pb.UpdateListRequest(tenant_id=newsletter.tenant_id, list_id=newsletter.list_id, settings=settings)
    )
    added = admin.AddSuppression(
        people_pb.AddSuppressionRequest(
            **person,
            scope=people_pb.SUPPRESSION_SCOPE_NEWSLETTER,
            reason=people_pb.SUPPRESSION_REASON_MANUAL,
        )
    ).suppression
    admin.RemoveSuppression(
        people_pb.RemoveSuppressionRequest(tenant_id=newsletter.tenant_id, suppression_id=added.suppression_id)
    )
    admin.RecordComplaint(people_pb.RecordComplaintRequest(**person, list_id=newsletter.list_id, evidence="a letter"))
    admin.LiftComplaint(people_pb.LiftComplaintRequest(**person, list_id=newsletter.list_id, evidence="a call"))
    admin.ExportPerson(people_pb.ExportPersonRequest(**person))
    admin.ErasePerson(people_pb.ErasePersonRequest(**person))
    of_person = {"tenant_id": newsletter.tenant_id, "subscription_ids": [subscription_id]}
    of_list = {"tenant_id": newsletter.tenant_id, "list_id": newsletter.list_id}
    of_suppression = {"tenant_id": newsletter.tenant_id, "suppression_id": added.suppression_id}
    expected: list[tuple[str, dict[str, Any]]] = [
        ("list_updated", of_list | {"require_token": True}),
        ("suppression_added", of_suppression),
        ("suppression_removed", of_suppression),
        ("complaint_recorded", of_list),
        ("complaint_lifted", of_list),
        ("person_exported", of_person),
        ("person_erased", of_person),
    ]
    wait_for(member_center, lambda found: all(event in found[before:] for event in expected))
    assert "findme" not in str(events_of(member_center))


def test_tokens_and_refusals_are_logged(member_center: MemberCenter) -> None:
    before = len(events_of(member_center))
    newsletter = member_center.make_newsletter()
    client = member_center.make_client(newsletter.tenant_id)

    def ask(client_id: str, secret: str) -> None:
        member_center.public.IssueToken(
            pb.IssueTokenRequest(grant_type="client_credentials", client_id=client_id, client_secret=secret)
        )

    ask(client.client_id, client.client_secret)
    for client_id in (client.client_id, str(uuid.uuid4()), "reader@mail.example"):
        assert reason_of(partial(ask, client_id, "guessed-secret")) == "CLIENT_AUTHENTICATION_FAILED"
    subscribe = pb.SubscribeRequest(list_id=newsletter.list_id, email=unique_address())
    forged = (("authorization", "Bearer eyJhbGciOiJub25lIn0.e30."),)
    assert reason_of(lambda: member_center.public.Subscribe(subscribe, metadata=forged)) == "TOKEN_INVALID"
    anonymous = audit_pb2_grpc.AuditLogStub(grpc.insecure_channel(member_center.server.address))
    assert reason_of(lambda: anonymous.VerifyAuditLog(audit_pb2.VerifyAuditLogRequest())) == "TOKEN_MISSING"
    site = member_center.public_as(client)
    stranger = pb.SubscribeRequest(
        list_id=newsletter.list_id, email=unique_address(), tenant_id=member_center.make_tenant()
    )
    assert reason_of(lambda: site.Subscribe(stranger)) == "TENANT_MISMATCH"

    def has_all(found: list[tuple[str, dict[str, Any]]]) -> bool:
        refused = {facts["reason"] for name, facts in found[before:] if name == "call_refused"}
        failed = [name for name, _ in found[before:] if name == "client_authentication_failed"]
        return refused >= {"TOKEN_INVALID", "TOKEN_MISSING", "TENANT_MISMATCH"} and len(failed) == 3

    wait_for(member_center, has_all)
    assert ("token_issued", {"tenant_id": newsletter.tenant_id, "scopes": ["newsletter:send.write"]}) in events_of(
        member_center
    )[before:]
    page = stub_of(member_center).ListAuditEvents(audit_pb2.ListAuditEventsRequest(page_size=1000))
    told = {event.client_id for event in page.events if event.event == "client_authentication_failed"}
    assert told == {client.client_id, ""}
    assert "mail.example" not in json.dumps([MessageToDict(event) for event in page.events])


def test_what_is_done_to_keys_and_tokens_is_logged(engines: Engines) -> None:
    with running_member_center(engines) as center:
        newsletter = center.make_newsletter()
        client = center.make_client(newsletter.tenant_id)
        secrets = {"client_id": client.client_id, "client_secret": client.client_secret}
        issued = center.public.IssueToken(pb.IssueTokenRequest(grant_type="client_credentials", **secrets))
        center.public.RevokeToken(pb.RevokeTokenRequest(token=issued.access_token, **secrets))
        receiver = center.admin.CreateClient(
            admin_pb.CreateClientRequest(
                tenant_id=newsletter.tenant_id, usage=admin_pb.CLIENT_USAGE_WEBHOOK_OUTBOUND, scopes=[]
            )
        )
        of_receiver = {"client_id": receiver.client_id, "client_secret": receiver.client_secret}
        no_token = pb.IssueTokenRequest(grant_type="client_credentials", **of_receiver)
        assert reason_of(lambda: center.public.IssueToken(no_token)) == "CLIENT_UNAUTHORIZED"
        guess = pb.IssueTokenRequest(grant_type="client_credentials", client_id=client.client_id, client_secret="x")
        for _ in range(11):
            reason = reason_of(lambda: center.public.IssueToken(guess))
        assert reason == "RATE_LIMITED"
        made = center.admin.RotateKeys(admin_pb.RotateKeysRequest(ring=admin_pb.KEY_RING_LINKS)).key_ids
        center.admin.RemoveKey(admin_pb.RemoveKeyRequest(ring=admin_pb.KEY_RING_LINKS, key_id=made[0]))
        center.admin.ReencryptKeys(admin_pb.ReencryptKeysRequest())
        wanted = {
            *("token_revoked", "client_unauthorized", "client_authentication_limited"),
            *("keys_rotated", "key_removed", "keys_reencrypted"),
        }
        wait_for(center, lambda found: {name for name, _ in found} >= wanted)
        begun = [facts["ring"] for name, facts in events_of(center) if name == "keys_made"]
        assert sorted(begun) == ["address_hashes", "links", "signing"]
        assert ("keys_rotated", {"ring": "links", "key_ids": list(made)}) in events_of(center)


def test_an_internal_caller_that_acts_for_a_tenant_is_logged(member_center: MemberCenter) -> None:
    newsletter = member_center.make_newsletter()
    desk = member_center.make_internal_client("internal:send")
    subscribe = pb.SubscribeRequest(list_id=newsletter.list_id, email=unique_address(), tenant_id=newsletter.tenant_id)
    member_center.public_as(desk).Subscribe(subscribe)
    acted = (
        "acted_for_tenant",
        {"rpc": "/messmail.member_center.v1.MemberCenter/Subscribe"} | {"tenant_id": newsletter.tenant_id},
    )
    wait_for(member_center, lambda found: acted in found)


def test_the_log_can_be_paged_from_its_newest_event(member_center: MemberCenter) -> None:
    stub, numbers, before = stub_of(member_center), list[int](), 0
    while True:
        page = stub.ListAuditEvents(audit_pb2.ListAuditEventsRequest(before=before, page_size=7))
        numbers += [event.number for event in page.events]
        before = numbers[-1]
        if not page.more:
            break
    assert numbers == list(range(numbers[0], 0, -1))


# ---- what is done to it


class Spoiled:
    """A log of some hundred events in a database of its own, and the superuser to do harm to it."""

    def __init__(self, center: MemberCenter) -> None:
        self.superuser_url = center.superuser_url
        self.app_url = center.settings.member_center_database_url.get_secret_value()
        self.owner_url = center.owner_url
        self.database = Database(self.app_url)
        keys = MasterKeys(center.settings.member_center_master_keys.get_secret_value())
        self.log, self._check = AuditLog(self.database, keys), AuditCheck(self.database, keys)
        with self.database.tenant(uuid.UUID(int=0)) as connection:
            self.log.append(connection, *(Event("noted", {"turn": str(turn)}) for turn in range(MADE_AT_ONCE)))
        self.kept = self._rows()

    def check(self, known_head: str = "") -> list[tuple[int, str]]:
        """Verifies all of it and returns the problems."""
        after, problems = 0, list[tuple[int, str]]()
        while True:
            page = self._check.page(after, "" if after else known_head)
            problems += page.problems
            if not page.more:
                return problems
            after = page.verified_until

    def head(self) -> str:
        return self._check.page(0).head

    def harm(self, *statements: str) -> None:
        """Changes the log as whoever is above every fence."""
        with psycopg.connect(self.superuser_url) as connection:
            connection.execute("ALTER TABLE audit_log DISABLE TRIGGER append_only")
            for statement in statements:
                connection.execute(statement.encode())

    def restore(self) -> None:
        """Puts everything back as it was."""
        log, head = self.kept
        with psycopg.connect(self.superuser_url) as connection:
            connection.execute("ALTER TABLE audit_log DISABLE TRIGGER append_only")
            for table, rows in (("audit_log", log), ("audit_head", head)):
                connection.execute(f"DELETE FROM {table}".encode())
                connection.execute(
                    f"INSERT INTO {table} SELECT (jsonb_populate_recordset(NULL::{table}, %s::jsonb)).*".encode(),
                    [json.dumps(rows)],
                )

    def _rows(self) -> tuple[list[Any], list[Any]]:
        with psycopg.connect(self.superuser_url) as connection:
            log, head = (
                connection.execute(f"SELECT jsonb_agg(to_jsonb(t)) FROM {table} t".encode()).fetchone()
                for table in ("audit_log", "audit_head")
            )
        assert log is not None and head is not None
        return log[0], head[0]


@pytest.fixture(scope="module")
def spoiled(engines: Engines) -> Iterator[Spoiled]:
    # Nothing else writes here while harm is done.
    with running_member_center(engines) as center:
        center.server.stop(0)
        made = Spoiled(center)
        yield made
        made.database.close()


HARM: dict[str, tuple[list[str], int]] = {
    "the first event removed": (["DELETE FROM audit_log WHERE number = 1"], 1),
    "one removed": (["DELETE FROM audit_log WHERE number = 200"], 200),
    "several removed": (["DELETE FROM audit_log WHERE number BETWEEN 100 AND 150"], 100),
    "the last one removed": (["DELETE FROM audit_log WHERE number = (SELECT max(number) FROM audit_log)"], -1),
    "the last ones removed, and the head set back": (
        [
            "DELETE FROM audit_log WHERE number > 300",
            "UPDATE audit_head SET number = 300",
        ],
        300,
    ),
    "all removed": (["DELETE FROM audit_log"], 1),
    "the head removed": (["DELETE FROM audit_head"], 0),
    "facts edited": (["""UPDATE audit_log SET facts = '{"turn": "x"}' WHERE number = 200"""], 200),
    "a name edited": (["UPDATE audit_log SET event = 'x' WHERE number = 200"], 200),
    "a time edited": (["UPDATE audit_log SET at = at + interval '1 microsecond' WHERE number = 200"], 200),
    "a client edited": (["UPDATE audit_log SET client_id = gen_random_uuid() WHERE number = 200"], 200),
    "a request edited": (["UPDATE audit_log SET request_id = 'x' WHERE number = 200"], 200),
    "a MAC edited": (["UPDATE audit_log SET mac = sha256('x') WHERE number = 200"], 200),
    "the last one edited": (
        ["UPDATE audit_log SET event = 'x' WHERE number = (SELECT max(number) FROM audit_log)"],
        -1,
    ),
    "two exchanged": (
        [
            "UPDATE audit_log SET number = 100000 WHERE number = 200",
            "UPDATE audit_log SET number = 200 WHERE number = 201",
            "UPDATE audit_log SET number = 201 WHERE number = 100000",
        ],
        200,
    ),
    "one removed and the rest moved up": (
        [
            "DELETE FROM audit_log WHERE number = 200",
            "UPDATE audit_log SET number = number + 1000000 WHERE number > 200",
            "UPDATE audit_log SET number = number - 1000001 WHERE number > 200",
        ],
        200,
    ),
    "one put at the end": (
        ["INSERT INTO audit_log SELECT tenant_id, 1 + (SELECT max(number) FROM audit_log), at, event, client_id, "
         "request_id, facts, mac FROM audit_log WHERE number = 200"],
        0,
    ),
    "one put at the end, and the head moved": (
        ["INSERT INTO audit_log SELECT tenant_id, 1 + (SELECT max(number) FROM audit_log), at, event, client_id, "
         "request_id, facts, mac FROM audit_log WHERE number = 200",
         "UPDATE audit_head SET number = number + 1"],
        0,
    ),
}  # fmt: skip


@pytest.mark.claim("L5", "ways to change, remove or add events that are found", asked=len(HARM), run=1)
@pytest.mark.parametrize("way", HARM)
def test_whatever_is_done_to_the_log_is_found_and_where(spoiled: Spoiled, way: str) -> None:
    assert spoiled.check() == []
    last = int(spoiled.head().partition(":")[0])
    statements, place = HARM[way]
    spoiled.harm(*statements)
    try:
        problems = spoiled.check()
    finally:
        spoiled.restore()
    assert problems, way
    wanted = {-1: last, 0: problems[0][0]}.get(place, place)
    assert problems[0][0] == wanted, problems
    assert spoiled.check() == []


@pytest.mark.claim("L5", "harm that is found although the log went on", asked=len(HARM) - 1, run=1)
@pytest.mark.parametrize("way", sorted(HARM.keys() - {"the head removed"}))
def test_what_was_done_to_the_log_is_found_also_after_it_went_on(spoiled: Spoiled, way: str) -> None:
    spoiled.harm(*HARM[way][0])
    try:
        with spoiled.database.tenant(uuid.UUID(int=0)) as connection:
            spoiled.log.append(connection, Event("noted"))
        assert spoiled.check() != []
        assert spoiled.head() != ""
    finally:
        spoiled.restore()


@pytest.mark.claim("L5", "events taken out or changed one by one, all found", asked=MADE_AT_ONCE, run=HARMED)
def test_any_one_event_that_is_removed_or_changed_is_found(spoiled: Spoiled) -> None:
    last = int(spoiled.head().partition(":")[0])
    for number in range(last - 1, 1, -max(1, MADE_AT_ONCE // HARMED)):
        for statement in ("DELETE FROM audit_log", "UPDATE audit_log SET request_id = request_id || '.'"):
            spoiled.harm(f"{statement} WHERE number = {number}")
            assert spoiled.check()[0][0] == number
            spoiled.restore()


@pytest.mark.claim("L5", "an old copy of log and head is found by a head kept elsewhere")
def test_an_old_copy_of_the_whole_log_does_not_fit_a_head_that_was_told(spoiled: Spoiled) -> None:
    early = spoiled.head()
    with spoiled.database.tenant(uuid.UUID(int=0)) as connection:
        spoiled.log.append(connection, Event("noted"))
    told = spoiled.head()
    assert spoiled.check(early) == spoiled.check(told) == []
    spoiled.restore()
    assert spoiled.check() == []
    ((number, problem),) = spoiled.check(told)
    assert (number, problem) == (int(told.partition(":")[0]), "missing, though this head was told of it")


def test_a_log_of_several_pages_is_verified_to_its_end(spoiled: Spoiled, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_check, "PAGE", 50)
    assert spoiled.check() == []
    spoiled.harm("UPDATE audit_log SET event = 'x' WHERE number IN (51, 333)")
    try:
        assert [number for number, _ in spoiled.check()] == [51, 333]
    finally:
        spoiled.restore()


@pytest.mark.claim("L5", "append-only for the app role and for the owner")
def test_neither_the_app_role_nor_the_owner_changes_an_event(spoiled: Spoiled) -> None:
    with psycopg.connect(spoiled.superuser_url) as connection:
        connection.execute("ALTER TABLE audit_log ENABLE TRIGGER append_only")
    for url in (spoiled.app_url, spoiled.owner_url):
        for forbidden in ("UPDATE audit_log SET event = 'x'", "DELETE FROM audit_log", "TRUNCATE audit_log"):
            with psycopg.connect(url) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"SELECT set_config('app.tenant', '{uuid.UUID(int=0)}', true)".encode())
                connection.execute(forbidden.encode())


# ---- how it is written


def test_an_orderly_stop_loses_no_event(engines: Engines) -> None:
    with running_member_center(engines) as center:
        client = center.make_client(center.make_tenant())
        for _ in range(50):
            center.public.IssueToken(
                pb.IssueTokenRequest(
                    grant_type="client_credentials", client_id=client.client_id, client_secret=client.client_secret
                )
            )
        center.server.stop(0)
        rows = center.rows(
            "SELECT count(*) FROM audit_log WHERE event = 'token_issued' AND client_id = %s", client.client_id
        )
        assert rows == [(50,)]


def test_several_processes_write_one_chain(member_center: MemberCenter) -> None:
    settings = member_center.settings.model_copy(update={"member_center_listen": "127.0.0.1:0"})
    second = wiring.start(settings)
    try:
        clients = [member_center.make_client(member_center.make_tenant()) for _ in range(5)]
        for client in clients:
            for address in (member_center.server.address, second.address):
                channel = grpc.insecure_channel(address)
                member_center_pb2_grpc.MemberCenterStub(channel).IssueToken(
                    pb.IssueTokenRequest(
                        grant_type="client_credentials", client_id=client.client_id, client_secret=client.client_secret
                    )
                )
                channel.close()
    finally:
        second.stop(0)
    answer = stub_of(member_center).VerifyAuditLog(audit_pb2.VerifyAuditLogRequest())
    assert list(answer.problems) == []
    assert answer.head.startswith(f"{answer.verified_until}:")


def test_of_many_refusals_alike_the_number_is_kept() -> None:
    refusals = [
        Event("call_refused", {"rpc": "/x", "reason": "TOKEN_INVALID"}, request_id=str(turn)) for turn in range(500)
    ]
    issued = [Event("token_issued", {"tenant_id": "t"}) for _ in range(500)]
    thinning = Thinning()
    kept = thinning.of([*refusals, *issued], now=0)
    assert len(kept) == 100 + 1 + 500
    assert kept[-1].facts == {"rpc": "/x", "reason": "TOKEN_INVALID", "more_alike": 400}
    # However many batches a minute has.
    (more,) = thinning.of(refusals, now=59)
    assert more.facts["more_alike"] == 500
    assert len(thinning.of(refusals, now=60)) == 100 + 1


def test_what_is_waiting_when_the_database_is_away_is_written_later(engines: Engines) -> None:
    assert audit.WRITE_SECONDS < 1
    with running_member_center(engines) as center:
        url = center.settings.member_center_database_url.get_secret_value()
        database = Database(url)
        log = AuditLog(database, MasterKeys(center.settings.member_center_master_keys.get_secret_value()))
        log.start()
        name = center.rows("SELECT current_database()")[0][0]
        admin = psycopg.connect(engines.postgres.superuser_url("postgres"), autocommit=True)
        try:
            admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false'.encode())
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
            log.record(Event("noted", {"while": "away"}))
            time.sleep(audit.WRITE_SECONDS)
        finally:
            admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true'.encode())
            admin.close()
        log.close()
        database.close()
        assert center.rows("SELECT facts FROM audit_log WHERE event = 'noted'") == [({"while": "away"},)]
