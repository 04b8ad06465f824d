"""S7: once an unsubscription is committed, no consent answer read later lets that person be mailed.

Here at its source: unsubscriptions race with the question about a whole group, again and again. `read_at` and the
commit are of one clock, the database's. The same of mails: those who leave while a job runs.
"""

from __future__ import annotations

import random
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import pytest

from messmail.member_center.v1 import member_center_admin_pb2 as admin_pb
from messmail.member_center.v1 import member_center_feed_pb2 as feed_pb
from messmail.member_center.v1 import member_center_feed_pb2_grpc as feed_grpc
from messmail.member_center.v1 import member_center_pb2 as pb
from messmail.member_center.v1 import member_center_pb2_grpc
from servicekit.clients import AccessTokens, open_channel, open_internal_channel
from tests.claims_table import ClaimRow, hand_in_claim
from tests.faults.faults_table import runs
from tests.rig.proving_ground import ProvingGround
from tests.rig.workers import Crew

GROUP = 50
LEAVERS = 4
PEOPLE_OF_THE_JOB = 1_000

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


class Races:
    """Groups of confirmed people, who leave while Send Engine asks about them."""

    def __init__(self, ground: ProvingGround) -> None:
        environment = Crew(ground.stack, ground.sink.address, ground.folder).environment()
        address = environment["MEMBER_CENTER_ADDRESS"]
        tokens = AccessTokens(
            address, environment["SEND_ENGINE_CLIENT_ID"], environment["SEND_ENGINE_CLIENT_SECRET"], "internal:feed"
        )
        self.ground = ground
        self.feed = feed_grpc.MemberCenterFeedStub(open_internal_channel(address, tokens))
        self.public = member_center_pb2_grpc.MemberCenterStub(open_channel(address))
        self.newsletter = ground.stack.make_newsletter()
        # Who has left, and until when at the latest that was committed: PostgreSQL is on this machine, and its clock.
        self.left: dict[bytes, float] = {}
        self.violations: list[str] = []
        many = admin_pb.Limits(anonymous_calls_per_ip_per_minute=1_000_000)
        ground.stack.operator.member_center_admin.SetLimits(admin_pb.SetLimitsRequest(limits=many))

    def run(self, chance: random.Random, races: int) -> None:
        """Makes so many people leave, a group after the other, while others ask about the group."""
        for start in range(0, races, GROUP):
            emails = [f"leaver{start + number}.{uuid.uuid4().hex[:8]}@mail.example" for number in range(GROUP)]
            self.ground.stack.import_members(self.newsletter, emails)
            people = {email: person.bytes for email, person in self._members(emails).items()}
            tokens = {email: self._unsubscribe_token(email) for email in emails}
            done = threading.Event()
            with ThreadPoolExecutor(LEAVERS + 2) as pool:
                askers = [pool.submit(self._ask, list(people.values()), done) for _ in range(2)]
                chance.shuffle(emails)
                list(pool.map(self._leave, [people[email] for email in emails], [tokens[email] for email in emails]))
                done.set()
                for asker in askers:
                    asker.result()

    def _ask(self, group: list[bytes], done: threading.Event) -> None:
        last = False
        while True:
            gone = set(self.left)
            answer = self.feed.AuthorizeRecipients(
                feed_pb.AuthorizeRecipientsRequest(
                    tenant_id=self.newsletter.tenant_id, list_id=self.newsletter.list_id, subscription_ids=group
                )
            )
            read_at = answer.read_at.ToNanoseconds() / 1e9
            for one in answer.authorized:
                left_at = self.left.get(one.subscription_id)
                if one.subscription_id in gone:
                    self.violations.append("authorized, though the unsubscription was answered before the question")
                elif left_at is not None and read_at > left_at:
                    self.violations.append("authorized by an answer read after the unsubscription was answered")
            if last:
                return
            last = done.is_set()

    def _leave(self, person: bytes, token: str) -> None:
        self.public.Unsubscribe(pb.UnsubscribeRequest(token=token), timeout=30)
        self.left[person] = time.time()

    def _unsubscribe_token(self, email: str) -> str:
        request = pb.RequestUnsubscribeTokenRequest(list_id=self.newsletter.list_id, email=email)
        return str(self.public.RequestUnsubscribeToken(request, timeout=30).unsubscribe_token)

    def _members(self, emails: list[str]) -> dict[str, uuid.UUID]:
        return dict(
            self.ground.ledger.rows(
                "SELECT address, id FROM subscriptions WHERE list_id = %s AND address = ANY(%s)",
                *(self.newsletter.list_id, emails),
                database="member_center",
            )
        )


def test_an_answer_read_after_an_unsubscription_never_names_the_person(
    ground: ProvingGround, chance: random.Random, record_property: object
) -> None:
    asked = 10_000
    races = runs(asked, 500)
    trial = Races(ground)
    trial.run(chance, races)
    hand_in_claim(
        record_property,
        ClaimRow("S7", "left while consent was asked: not mailable later", asked, races, len(trial.violations)),
    )
    assert trial.violations == []
    assert len(trial.left) == races


def test_nobody_who_left_before_the_consent_answer_gets_the_mail(
    ground: ProvingGround, chance: random.Random, record_property: object
) -> None:
    newsletter = ground.stack.make_newsletter()
    emails = [f"{uuid.uuid4().hex}@leaving.example" for _ in range(PEOPLE_OF_THE_JOB)]
    ground.stack.import_members(newsletter, emails)
    public = member_center_pb2_grpc.MemberCenterStub(open_channel(ground.stack.ready["member_center"]))
    leavers = chance.sample(emails, PEOPLE_OF_THE_JOB // 2)
    tokens = {
        email: public.RequestUnsubscribeToken(
            pb.RequestUnsubscribeTokenRequest(list_id=newsletter.list_id, email=email)
        ).unsubscribe_token
        for email in leavers
    }
    left: dict[str, datetime] = {}
    ground.sink.slow_down(0.02)
    token = ground.stack.access_token(newsletter.client)
    body = {"list_id": newsletter.list_id, "subject": "Who stays", "body_text": "Hello"}
    with ground.crew(workers=1):
        job = ground.stack.site.post_json("/api/send-jobs", body, token).answer["id"]
        for email in leavers:
            public.Unsubscribe(pb.UnsubscribeRequest(token=tokens[email]))
            left[email] = datetime.now(UTC)
        counters = ground.stack.wait_for_job(job, token)["counters"]
    mailed = {
        entry["recipient"]: parsedate_to_datetime(entry["date"])
        for entry in ground.sink.entries()
        if entry["recipient"].endswith("@leaving.example")
    }
    # A mail's Date is the moment when its consent answer was read, in whole seconds.
    late = [email for email, at in left.items() if email in mailed and mailed[email] > at]
    hand_in_claim(
        record_property,
        ClaimRow("S7", "left while a job ran: not mailed later", run=len(leavers), violations=len(late)),
    )
    assert late == []
    assert counters["sent"] == len(mailed)
    assert counters["suppressed"] > 0, "nobody left between the plan and the mail"
