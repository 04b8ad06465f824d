"""Claims A8 and L6: keys are rotated, taken away and encrypted anew while callers go on; what is old is no use then."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import grpc
import jwt
import pytest
from cryptography.fernet import Fernet
from pydantic import SecretStr

from member_center import wiring
from messmail.audit.v1 import audit_pb2, audit_pb2_grpc
from messmail.member_center.v1 import member_center_admin_pb2 as admin_pb
from messmail.member_center.v1 import member_center_admin_pb2_grpc, member_center_pb2_grpc
from messmail.member_center.v1 import member_center_pb2 as pb
from messmail.send_engine.v1 import send_engine_admin_pb2 as send_pb
from messmail.send_engine.v1 import send_engine_admin_pb2_grpc
from send_engine import wiring as engine_wiring
from servicekit.clients import AccessTokens, open_internal_channel
from servicekit.keyring import MasterKeys
from tests.claims_table import ClaimRow, cases, hand_in_claim
from tests.member_center_fixtures import Engines, MemberCenter, reason_of, running_member_center, unique_address
from tests.send_engine_fixtures import Installation as SendEngine
from tests.send_engine_fixtures import send_engine as send_engine
from tests.send_engine_fixtures import send_engine_engines as send_engine_engines
from tests.stack import Client, Newsletter, Stack, wait_until

pytestmark = pytest.mark.timeout(300)

REMOVED_WITHIN = 30.0
ROTATIONS = cases(5)
SECRETS = cases(20, least=2)


class Callers:
    """Tenant sites that get tokens and use them, at both services, for as long as they are let; failures are kept."""

    def __init__(self, stack: Stack, newsletter: Newsletter) -> None:
        self._stack = stack
        self._newsletter = newsletter
        self.failures: list[str] = []
        self.used: Counter[str] = Counter()
        self._stop = threading.Event()

    @contextmanager
    def at_work(self, callers: int = 3) -> Iterator[Callers]:
        threads = [threading.Thread(target=self._call, daemon=True) for _ in range(callers)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in threads:
                thread.join(60)

    def _call(self) -> None:
        stack, newsletter, kept = self._stack, self._newsletter, list[str]()
        while not self._stop.is_set():
            try:
                token = stack.access_token(newsletter.client)
                # Older ones, too: a token is good for its ten minutes, whatever signs by now.
                kept = [*kept[-4:], token]
                for one in (token, kept[0]):
                    self._use(one)
                subscribed = stack.site.post_json(
                    "/newsletter/subscribe", {"list_id": newsletter.list_id, "email": unique_address()}, token
                )
                confirmed = stack.site.get(f"/newsletter/confirm?token={subscribed.answer['confirm_token']}")
                self._expect(confirmed.status, "a link")
            except Exception as error:
                self.failures.append(repr(error))

    def _use(self, token: str) -> None:
        kid = jwt.get_unverified_header(token)["kid"]
        person = f"/newsletter/preferences?list_id={self._newsletter.list_id}&email=nobody@example.com"
        for path in ("/api/send-jobs", person):
            self._expect(self._stack.site.get(path, token).status, f"{path[:15]} with a token of {kid}")
            self.used[kid] += 1

    def _expect(self, status: int, what: str) -> None:
        if status != 200:
            self.failures.append(f"{what}: {status}")


def test_a8_l6_no_good_token_or_link_is_refused_while_every_ring_rotates(stack: Stack, record_property: object) -> None:
    stack.messmail(
        *("limits", "set", "--anonymous-calls-per-ip-per-minute", "1000000"),
        *("--calls-per-client-per-minute", "1000000", "--subscribes-per-list-per-minute", "1000000"),
    )
    callers = Callers(stack, stack.make_newsletter())
    with callers.at_work():
        wait_until(lambda: callers.used, "the first token")
        for _ in range(ROTATIONS):
            (made,) = stack.messmail("keys", "rotate", "signing")["signing"]
            stack.messmail("keys", "rotate", "links")
            stack.messmail("keys", "reencrypt")
            wait_until(lambda made=made: callers.used[made] > 20, "tokens of the new key", 60)  # type: ignore[misc]
    assert callers.failures == []
    assert len(callers.used) > ROTATIONS
    used = sum(callers.used.values())
    hand_in_claim(record_property, ClaimRow("A8", "uses of tokens while keys rotate", 0, used, len(callers.failures)))
    hand_in_claim(record_property, ClaimRow("L6", "uses of tokens and links while all rings rotate", 0, used, 0))


def test_l6_no_right_secret_is_refused_while_it_rotates(stack: Stack, record_property: object) -> None:
    client, stop = stack.make_newsletter().client, threading.Event()
    current, failures, asked = [client], list[str](), Counter[str]()

    def ask() -> None:
        while not stop.is_set():
            one = current[-1]
            try:
                stack.access_token(one)
                asked[one.client_secret] += 1
            except Exception as error:
                failures.append(repr(error))

    callers = [threading.Thread(target=ask, daemon=True) for _ in range(3)]
    for caller in callers:
        caller.start()
    for _ in range(SECRETS):
        # The one before works on: whoever has not heard of the new one yet is not locked out.
        newest = Client(client.client_id, stack.messmail("clients", "rotate", client.client_id)["client_secret"])
        stack.access_token(current[-1])
        current.append(newest)
        wait_until(lambda newest=newest: asked[newest.client_secret] > 5, "tokens for the new secret", 60)  # type: ignore[misc]
    stop.set()
    for caller in callers:
        caller.join(60)
    assert failures == []
    refused = stack.site.post_form(
        "/oauth/token",
        {"grant_type": "client_credentials", "client_id": client.client_id, "client_secret": client.client_secret},
    )
    assert refused.status == 401
    what = "tokens asked for while the client's secret rotates"
    hand_in_claim(record_property, ClaimRow("L6", what, 0, sum(asked.values()), len(failures)))


def test_a8_a_key_that_is_taken_away_signs_nothing_that_is_accepted_within_30_s(
    stack: Stack, record_property: object
) -> None:
    newsletter = stack.make_newsletter()
    token = stack.access_token(newsletter.client)
    kid = jwt.get_unverified_header(token)["kid"]
    paths = ("/api/send-jobs", f"/newsletter/preferences?list_id={newsletter.list_id}&email=nobody@example.com")
    # Both services have verified it before, and remember it.
    assert [stack.site.get(path, token).status for path in paths] == [200, 200]
    began = time.monotonic()
    removed = stack.messmail("keys", "remove", "signing", kid)
    for path in paths:
        wait_until(lambda path=path: stack.site.get(path, token).status == 401, f"refusal at {path}", REMOVED_WITHIN)  # type: ignore[misc]
    took = time.monotonic() - began
    assert took < REMOVED_WITHIN
    known = [key["key_id"] for key in stack.messmail("keys", "list")["keys"] if key["ring"] == "signing"]
    assert kid not in known
    assert kid not in [key["kid"] for key in stack.site.get("/.well-known/jwks.json").answer["keys"]]
    assert removed["made_key_id"] == "" or removed["made_key_id"] in known
    # Everybody goes on with tokens that are asked for again: sites, and the services themselves.
    fresh = stack.access_token(newsletter.client)
    wait_until(lambda: all(stack.site.get(path, fresh).status == 200 for path in paths), "a fresh token's use", 30)
    job = {"list_id": newsletter.list_id, "subject": "After", "body_text": "Hello"}
    assert stack.site.post_json("/api/send-jobs", job, fresh).status == 201
    wrong = stack.run_command("keys", "remove", "signing", kid)
    assert (wrong.returncode, "key_id" in wrong.stderr) == (1, True)
    hand_in_claim(record_property, ClaimRow("A8", "services that refuse a removed key within 30 s", 2, 2, 0))


@pytest.mark.claim("A8", "an old key is out when its last token has ended")
def test_a8_an_old_key_is_listed_until_its_last_token_has_ended(
    member_center: MemberCenter, clock: Callable[[timedelta], None]
) -> None:
    def listed() -> set[str]:
        return {key.kid for key in member_center.public.GetJsonWebKeySet(pb.GetJsonWebKeySetRequest()).keys}

    before = listed()
    (made,) = member_center.admin.RotateKeys(admin_pb.RotateKeysRequest(ring=admin_pb.KEY_RING_SIGNING)).key_ids
    wait_until(lambda: listed() == {*before, made}, "the new key beside the old one")
    clock(timedelta(minutes=11))
    wait_until(lambda: listed() == {made}, "the new key alone")
    states = {key.key_id: key.state for key in member_center.admin.ListKeys(admin_pb.ListKeysRequest()).keys}
    assert states[made] == admin_pb.KEY_STATE_CURRENT
    assert {states[kid] for kid in before} == {admin_pb.KEY_STATE_RETIRED}
    # Nor does it come back when the one after it is taken away.
    removed = member_center.admin.RemoveKey(admin_pb.RemoveKeyRequest(ring=admin_pb.KEY_RING_SIGNING, key_id=made))
    wait_until(lambda: listed() == {removed.made_key_id}, "the key made in its place alone")


@pytest.mark.claim("L6", "links of a key that is taken away are dead, others are not")
def test_l6_a_key_of_links_that_is_taken_away_opens_nothing(member_center: MemberCenter) -> None:
    newsletter = member_center.make_newsletter()
    token = member_center.subscribe(newsletter.list_id, unique_address())
    other = member_center.unsubscribe_token(newsletter.list_id, unique_address())
    keys = member_center.admin.ListKeys(admin_pb.ListKeysRequest()).keys
    (current,) = (k for k in keys if (k.purpose, k.state) == ("confirm_api", admin_pb.KEY_STATE_CURRENT))
    removed = member_center.admin.RemoveKey(
        admin_pb.RemoveKeyRequest(ring=admin_pb.KEY_RING_LINKS, key_id=current.key_id)
    )
    assert removed.made_key_id
    wait_until(lambda: _opens(member_center, token) is False, "the end of the link", 5)
    member_center.unsubscribe(other)
    fresh = member_center.subscribe(newsletter.list_id, unique_address())
    wait_until(lambda: _opens(member_center, fresh), "a new link")
    for key_id in ("00000000", "x", current.key_id):
        gone = admin_pb.RemoveKeyRequest(ring=admin_pb.KEY_RING_LINKS, key_id=key_id)
        assert reason_of(lambda gone=gone: member_center.admin.RemoveKey(gone)) == "INVALID_FIELD"  # type: ignore[misc]


def _opens(center: MemberCenter, token: str) -> bool:
    try:
        center.confirm(token)
    except grpc.RpcError:
        return False
    return True


# ---- the master keys


def test_l6_after_all_is_encrypted_anew_the_old_master_key_is_of_no_use(
    engines: Engines, record_property: object
) -> None:
    with running_member_center(engines) as center:
        newsletter = center.make_newsletter()
        link = center.subscribe(newsletter.list_id, unique_address())
        old, new = center.settings.member_center_master_keys.get_secret_value(), Fernet.generate_key().decode()

        def started(keys: str) -> Any:
            update = {"member_center_master_keys": SecretStr(keys), "member_center_listen": "127.0.0.1:0"}
            return wiring.start(center.settings.model_copy(update=update))

        with pytest.raises(RuntimeError, match="fits none of the master keys"):
            started(new)
        second = started(f"{new},{old}")
        admin = center.credentials["admin"]
        answer = _admin_of(center, second.address).ReencryptKeys(admin_pb.ReencryptKeysRequest())
        stored = center.admin.ListKeys(admin_pb.ListKeysRequest()).keys
        # And the keys of the audit log and of the address hashes.
        assert answer.reencrypted == len(stored) + 2
        shown = _admin_of(center, second.address).ListKeys(admin_pb.ListKeysRequest()).keys
        assert {key.master_key_id for key in shown} == {answer.master_key_id}
        second.stop(0)
        center.server.stop(0)
        with pytest.raises(RuntimeError, match="fits none of the master keys"):
            started(old)
        third = started(new)
        stub = member_center_pb2_grpc.MemberCenterStub(grpc.insecure_channel(third.address))
        assert stub.ConfirmSubscription(pb.ConfirmSubscriptionRequest(token=link))
        assert stub.IssueToken(pb.IssueTokenRequest(grant_type="client_credentials", **admin)).access_token
        audit = audit_pb2_grpc.AuditLogStub(_channel(center, third.address))
        assert list(audit.VerifyAuditLog(audit_pb2.VerifyAuditLogRequest()).problems) == []
        third.stop(0)
    what = "secrets of Member Center under a new master key"
    hand_in_claim(record_property, ClaimRow("L6", what, 0, answer.reencrypted, 0))


def _channel(center: MemberCenter, address: str) -> grpc.Channel:
    admin = center.credentials["admin"]
    return open_internal_channel(address, AccessTokens(address, admin["client_id"], admin["client_secret"]))


def _admin_of(center: MemberCenter, address: str) -> Any:
    return member_center_admin_pb2_grpc.MemberCenterAdminStub(_channel(center, address))


def test_l6_credentials_of_esp_accounts_are_encrypted_anew_tenant_by_tenant(
    send_engine: SendEngine, record_property: object
) -> None:
    old, new = send_engine.settings()["send_engine_master_keys"], Fernet.generate_key().decode()
    tenants = [send_engine.member_center.newsletter().tenant_id for _ in range(5)]
    operator = (("authorization", f"Bearer {send_engine.member_center.token('internal:admin', None)}"),)
    admin = send_engine_admin_pb2_grpc.SendEngineAdminStub(send_engine.channel)
    for tenant_id in tenants:
        admin.SetEspAccount(
            send_pb.SetEspAccountRequest(tenant_id=tenant_id, smtp_url="smtps://user:hidden-word@relay.example:465"),
            metadata=operator,
        )
    settings = send_engine.settings(send_engine_master_keys=f"{new},{old}", send_engine_listen="127.0.0.1:0")
    second = engine_wiring.start(engine_wiring.ServiceSettings(**settings))
    channel = grpc.insecure_channel(second.address)
    answer = send_engine_admin_pb2_grpc.SendEngineAdminStub(channel).ReencryptCredentials(
        send_pb.ReencryptCredentialsRequest(), metadata=operator
    )
    channel.close()
    second.stop(0)
    assert answer.reencrypted == len(tenants) + 1
    stored = [bytes(row[0]) for row in send_engine.database.rows("SELECT encrypted_url FROM esp_accounts")]
    assert {MasterKeys(new).decrypt(one) for one in stored} == {b"smtps://user:hidden-word@relay.example:465"}
    for one in stored:
        with pytest.raises(RuntimeError):
            MasterKeys(old).decrypt(one)
    what = "secrets of Send Engine under a new master key"
    hand_in_claim(record_property, ClaimRow("L6", what, 0, answer.reencrypted, 0))
