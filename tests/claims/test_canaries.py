"""Three tenants do whatever comes to mind, with each other's ids, too; every text of theirs carries a canary.

No answer to a tenant, no mail to its readers and no line of a log shows a canary of another.
"""

from __future__ import annotations

import random
import urllib.parse
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from messmail.member_center.v1 import member_center_admin_pb2 as admin_pb2
from messmail.member_center.v1 import member_center_pb2 as mc
from messmail.member_center.v1 import member_center_pb2_grpc
from messmail.send_engine.v1 import send_engine_pb2 as se
from messmail.send_engine.v1 import send_engine_pb2_grpc
from tests.claims_table import ClaimRow, cases, hand_in_claim
from tests.stack import Newsletter, Stack, link_token, wait_until

FULL, STEPS_OF_A_RUN = 10_000, 50
WHO = st.integers(0, 2)
PERSON = st.integers(0, 4)
OVER_REST = st.booleans()
# By what follows the job in the path.
JOB_CALLS: dict[str, tuple[str, Callable[..., Message]]] = {
    "": ("GetSendJob", se.GetSendJobRequest),
    "/deliveries": ("ListDeliveries", se.ListDeliveriesRequest),
    "/cancel": ("CancelSendJob", se.CancelSendJobRequest),
}
# What a tenant is answered that names what is another's.
NOT_THEIRS = (400, 404, "INVALID_ARGUMENT", "NOT_FOUND")


@dataclass
class Exchange:
    """A call over gRPC, in the shape of one over REST: the name of its status, and its answer or refusal."""

    status: str
    answer: Any


@dataclass
class Tenant:
    """A tenant, the word that stands in all that it types, and what it has made."""

    canary: str
    newsletter: Newsletter
    token: str
    links: list[str] = field(default_factory=list)
    mailed: list[str] = field(default_factory=list)
    jobs: list[str] = field(default_factory=list)

    def member(self, person: int) -> dict[str, Any]:
        return {"list_id": self.newsletter.list_id, "email": f"reader{person}.{self.canary}@mail.example"}


def over_grpc(rpc: Callable[..., Message], request: Message, by: Tenant | None) -> Exchange:
    """Makes a call, with the tenant's token where there is one."""
    metadata = (("authorization", f"Bearer {by.token}"),) if by else ()
    try:
        answer = rpc(request, metadata=metadata, timeout=30)
    except grpc.RpcError as refused:
        assert isinstance(refused, grpc.Call)
        return Exchange(refused.code().name, f"{refused.details()} {refused.trailing_metadata()}")
    return Exchange("OK", MessageToDict(answer, preserving_proto_field_name=True))


def ask(
    rest: bool, by: Tenant | None, on_site: Callable[[str], Any], rpc: Callable[..., Message], request: Message
) -> Any:
    """Makes a call over REST or gRPC."""
    return on_site(by.token if by else "") if rest else over_grpc(rpc, request, by)


class World:
    """The stack with the three, and what was seen of it."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        admin = stack.operator.member_center_admin
        limits = admin_pb2.Limits(
            anonymous_calls_per_ip_per_minute=1_000_000,
            subscribes_per_address_per_hour=1_000_000,
            subscribes_per_list_per_minute=1_000_000,
            calls_per_client_per_minute=1_000_000,
        )
        admin.SetLimits(admin_pb2.SetLimitsRequest(limits=limits))
        self.tenants = [self._tenant() for _ in range(3)]
        self.center = member_center_pb2_grpc.MemberCenterStub(grpc.insecure_channel(stack.ready["member_center"]))
        self.engine = send_engine_pb2_grpc.SendEngineStub(grpc.insecure_channel(stack.ready["send_engine"]))
        self.steps = 0
        self.leaks: list[str] = []

    def _tenant(self) -> Tenant:
        canary = f"canary{uuid.uuid4().hex[:12]}"
        admin = self.stack.operator.member_center_admin
        tenant_id = admin.CreateTenant(admin_pb2.CreateTenantRequest(name=canary)).tenant_id
        request = admin_pb2.CreateListRequest(tenant_id=tenant_id, name=f"List {canary}", language="en")
        setattr(request, "from", f"{canary} <news@acme.example>")
        list_id = admin.CreateList(request).list_id
        client = self.stack.make_client(tenant_id, "newsletter:send.write", "newsletter:send.read")
        return Tenant(canary, Newsletter(tenant_id, list_id, client), "")

    def begin(self) -> None:
        """Renews the tokens, which live for ten minutes, and takes the links of a mail of each tenant."""
        for tenant in self.tenants:
            tenant.token = self.stack.access_token(tenant.newsletter.client)
            for mail in self.stack.mailbox.mails(tenant.canary):
                if mail.subject.startswith("From "):
                    text = self.stack.mailbox.content(mail)["Text"]
                    tenant.mailed = [link_token(text), link_token(text.partition("token=")[2])]
                    break

    def look(self, step: str, text: object, *allowed: Tenant) -> None:
        """Notes each canary in a text but those of the tenants that it is for."""
        for tenant in self.tenants:
            if tenant not in allowed and tenant.canary in str(text):
                self.leaks.append(f"{step}: {text}")


def machine_of(world: World) -> type[RuleBasedStateMachine]:
    """Makes the state machine that lives in this world."""
    site, center, engine = world.stack.site, world.center, world.engine

    class Tenants(RuleBasedStateMachine):
        """A step is one call, by a tenant or by nobody, to something of a tenant's."""

        def answered(self, step: str, exchange: Any, caller: Tenant | None, owner: Tenant) -> Any:
            world.steps += 1
            assert exchange.status not in ("INTERNAL", "UNKNOWN"), exchange
            assert isinstance(exchange.status, str) or exchange.status < 500, exchange
            # Without a token, whoever knows list and address is answered: the contract has it so.
            world.look(
                step, exchange.answer, *([owner] if caller in (None, owner) else []), *([caller] if caller else [])
            )
            if caller not in (None, owner):
                assert exchange.status in NOT_THEIRS, exchange
            return exchange.answer if exchange.status in (200, 201, "OK") else {}

        @rule(caller=st.none() | WHO, owner=WHO, person=PERSON, rest=OVER_REST)
        def subscribe(self, caller: int | None, owner: int, person: int, rest: bool) -> None:
            by, of = caller_of(caller), world.tenants[owner]
            body = of.member(person) | {"preferences": {"name": of.canary}}
            request = mc.SubscribeRequest(**body)
            exchange = ask(rest, by, partial(site.post_json, "/newsletter/subscribe", body), center.Subscribe, request)
            of.links += filter(None, [self.answered("subscribe", exchange, by, of).get("confirm_token")])

        @rule(owner=WHO, which=st.integers(0, 1000), caller=st.none() | WHO, rest=OVER_REST)
        def confirm(self, owner: int, which: int, caller: int | None, rest: bool) -> None:
            by, of = caller_of(caller), world.tenants[owner]
            if of.links:
                body: dict[str, Any] = {"token": of.links[which % len(of.links)]}
                post, request = (
                    partial(site.post_json, "/newsletter/confirm", body),
                    mc.ConfirmSubscriptionRequest(**body),
                )
                self.answered("confirm", ask(rest, by, post, center.ConfirmSubscription, request), by, of)

        @rule(owner=WHO, caller=st.none() | WHO, rest=OVER_REST)
        def open_unsubscribe_link_of_a_mail(self, owner: int, caller: int | None, rest: bool) -> None:
            by, of = caller_of(caller), world.tenants[owner]
            for token in of.mailed[:1]:
                get = partial(site.get, f"/newsletter/unsubscribe?{urllib.parse.urlencode({'token': token})}")
                request = mc.FollowUnsubscribeLinkRequest(token=token)
                exchange = ask(rest, by, get, center.FollowUnsubscribeLink, request)
                opened = self.answered("mailed", exchange, by, of)
                assert opened or by not in (None, of), exchange

        @rule(owner=WHO, caller=st.none() | WHO, rest=OVER_REST)
        def open_preference_center_of_a_mail(self, owner: int, caller: int | None, rest: bool) -> None:
            by, of = caller_of(caller), world.tenants[owner]
            for token in of.mailed[1:]:
                get = partial(site.get, f"/newsletter/preference-center?{urllib.parse.urlencode({'token': token})}")
                request = mc.GetPreferenceCenterRequest(token=token)
                exchange = ask(rest, by, get, center.GetPreferenceCenter, request)
                opened = self.answered("mailed", exchange, by, of)
                assert opened or by not in (None, of), exchange

        @rule(owner=WHO, person=PERSON, caller=st.none() | WHO, rest=OVER_REST)
        def leave(self, owner: int, person: int, caller: int | None, rest: bool) -> None:
            by, of = caller_of(caller), world.tenants[owner]
            body = of.member(person)
            post = partial(site.post_json, "/newsletter/unsubscribe-token", body)
            request = mc.RequestUnsubscribeTokenRequest(**body)
            exchange = ask(rest, by, post, center.RequestUnsubscribeToken, request)
            token = self.answered("unsubscribe-token", exchange, by, of).get("unsubscribe_token")
            if token and person == 0:
                self.answered("unsubscribe", site.post_json("/newsletter/unsubscribe", {"token": token}), None, of)

        @rule(caller=st.none() | WHO, owner=WHO, person=PERSON, rest=OVER_REST)
        def read_preferences(self, caller: int | None, owner: int, person: int, rest: bool) -> None:
            by, of = caller_of(caller), world.tenants[owner]
            get = partial(site.get, f"/newsletter/preferences?{urllib.parse.urlencode(of.member(person))}")
            request = mc.GetPreferencesRequest(**of.member(person))
            self.answered("preferences", ask(rest, by, get, center.GetPreferences, request), by, of)

        @rule(caller=st.none() | WHO, owner=WHO, person=PERSON, rest=OVER_REST)
        def change_preferences(self, caller: int | None, owner: int, person: int, rest: bool) -> None:
            by, of = caller_of(caller), world.tenants[owner]
            body = of.member(person) | {"preferences": {"name": f"{of.canary} {person}"}}
            post, request = (
                partial(site.post_json, "/newsletter/preferences", body),
                mc.UpdatePreferencesRequest(**body),
            )
            self.answered("preferences", ask(rest, by, post, center.UpdatePreferences, request), by, of)

        @rule(caller=WHO, owner=WHO, rest=OVER_REST)
        def send(self, caller: int, owner: int, rest: bool) -> None:
            by, of = world.tenants[caller], world.tenants[owner]
            body: dict[str, Any] = {
                "list_id": of.newsletter.list_id,
                "name": by.canary,
                "subject": f"From {by.canary}",
                "body_text": f"{by.canary} for {{{{ preferences.name }}}} of {{{{ list_name }}}}\n"
                "{{ unsubscribe_url }}\n{{ preferences_url }}",
                "template": True,
            }
            request = se.CreateSendJobRequest(**body)
            exchange = ask(rest, by, partial(site.post_json, "/api/send-jobs", body), engine.CreateSendJob, request)
            by.jobs += filter(None, [self.answered("send", exchange, by, of).get("id")])

        @rule(caller=WHO, owner=WHO, which=st.integers(0, 1000), over=st.sampled_from(list(JOB_CALLS)), rest=OVER_REST)
        def job(self, caller: int, owner: int, which: int, over: str, rest: bool) -> None:
            by, of = world.tenants[caller], world.tenants[owner]
            if of.jobs:
                job_id = of.jobs[which % len(of.jobs)]
                path = f"/api/send-jobs/{job_id}{over}"
                on_site = partial(site.post_json, path, {}) if over == "/cancel" else partial(site.get, path)
                rpc, request = JOB_CALLS[over]
                self.answered("job", ask(rest, by, on_site, getattr(engine, rpc), request(id=job_id)), by, of)

        @rule(caller=WHO)
        def jobs(self, caller: int) -> None:
            by = world.tenants[caller]
            self.answered("jobs", site.get("/api/send-jobs?page_size=20", by.token), by, by)
            listed = over_grpc(engine.ListSendJobs, se.ListSendJobsRequest(page_size=200), by)
            self.answered("ListSendJobs", listed, by, by)

    def caller_of(number: int | None) -> Tenant | None:
        return None if number is None else world.tenants[number]

    return Tenants


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_no_tenant_is_shown_a_canary_of_another(stack: Stack, record_property: object) -> None:
    world, number = World(stack), random.SystemRandom().randrange(2**32)
    print(f"seed {number}")
    while world.steps < cases(FULL) and not world.leaks:
        world.begin()
        run_state_machine_as_test(
            seed(number + world.steps)(machine_of(world)),
            settings=settings(
                max_examples=4,
                stateful_step_count=STEPS_OF_A_RUN,
                database=None,
                deadline=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            ),
        )
    mails = look_at_mails(world)
    lines = look_at_logs(world)
    what = "steps of three tenants: no answer, mail or log line shows a canary of another"
    hand_in_claim(record_property, ClaimRow("T3", what, FULL, world.steps, len(world.leaks)))
    assert world.leaks == []
    assert mails and lines
    assert all(tenant.mailed for tenant in world.tenants) or world.steps < 1000


def look_at_mails(world: World) -> int:
    """Looks at every mail that the three sent, once all of their jobs are over; returns how many."""
    for tenant in world.tenants:
        for job in tenant.jobs:
            wait_until(partial(is_over, world.stack, job, tenant.token), "the end of a job", 120)
    seen = 0
    for tenant in world.tenants:
        for mail in world.stack.mailbox.mails(tenant.canary):
            world.look("mail", (mail, world.stack.mailbox.content(mail)), tenant)
            seen += 1
    return seen


def is_over(stack: Stack, job: str, token: str) -> bool:
    return stack.site.get(f"/api/send-jobs/{job}", token).answer["status"] in ("completed", "cancelled", "failed")


def look_at_logs(world: World) -> int:
    """Looks at every line that the stack has logged: what a tenant typed has no place in any. Returns how many."""
    texts = [path.read_text(errors="replace") for path in world.stack.data_dir.rglob("*.log")] + [world.stack.output()]
    lines = [line for text in texts for line in text.splitlines()]
    for line in lines:
        world.look("log", line)
    return len(lines)
