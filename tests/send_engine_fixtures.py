"""What Send Engine's own tests run against: real PostgreSQL, Valkey, gRPC and SMTP, and a Member Center that obeys.

Member Center is the other side of a contract, so here a server of that contract stands in whose people, refusals and
silences a test decides. A test module imports both fixtures by name; each module has engines of its own.
"""

from __future__ import annotations

import asyncio
import base64
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import grpc
import jwt
import psycopg
import pytest
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.asymmetric import ec

from local_stack.data_directory import DataDirectory
from local_stack.engines import running
from local_stack.engines.postgres import Postgres
from local_stack.engines.valkey import Valkey
from messmail.member_center.v1 import member_center_feed_pb2 as feed
from messmail.member_center.v1 import member_center_feed_pb2_grpc as feed_grpc
from messmail.member_center.v1 import member_center_pb2, member_center_pb2_grpc
from messmail.send_engine.v1 import send_engine_pb2 as pb
from messmail.send_engine.v1 import send_engine_pb2_grpc
from send_engine import wiring
from servicekit.errors import MessmailError, Reason, to_grpc_status

ISSUER = "http://issuer.example"
PASSWORD = "of@the/app:role"
MASTER_KEY = Fernet.generate_key().decode()


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 20.0) -> Any:
    """Waits until the condition gives something true, and returns that; fails the test after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds:.0f} s in vain for {what}")
        time.sleep(0.02)
    return found


# ---- engines


@dataclass(frozen=True)
class Engines:
    """The engines, and databases made in them."""

    postgres: Postgres
    valkey: Valkey

    def database(self) -> Ledgerbase:
        """Makes a migrated database of Send Engine."""
        name = f"send_engine_{uuid.uuid4().hex[:8]}"
        owner_url = self.postgres.create_database(name)
        return Ledgerbase(owner_url, wiring.migrate(owner_url, PASSWORD), self.postgres.superuser_url(name))


@dataclass(frozen=True)
class Ledgerbase:
    """A database of Send Engine: as its owner, as the app role, and as the superuser, who sees every row."""

    owner_url: str
    app_url: str
    superuser_url: str

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Reads what there is, whoever's it is."""
        with psycopg.connect(self.superuser_url) as connection:
            return connection.execute(query.encode(), values).fetchall()

    def change(self, statement: str, *values: Any) -> int:
        """Changes what there is, and returns how many rows."""
        with psycopg.connect(self.superuser_url) as connection:
            return connection.execute(statement.encode(), values).rowcount

    def move_clock(self, seconds: float) -> None:
        """Sets the database's clock that much ahead of the real one."""
        self.change("UPDATE messmail_clock SET ahead = make_interval(secs => %s)", seconds)

    def deliveries(self, job_id: str) -> list[tuple[Any, ...]]:
        """Reads (subscription, state, reason, last_reply, attempts) of a job's deliveries."""
        return self.rows(
            "SELECT d.subscription_id, d.state, d.reason, d.last_reply, d.attempts FROM deliveries d "
            "JOIN batches b ON b.tenant_id = d.tenant_id AND b.id = d.batch_id WHERE b.job_id = %s",
            UUID(job_id),
        )


@pytest.fixture(scope="module")
def send_engine_engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    """PostgreSQL and Valkey."""
    data = DataDirectory(tmp_path_factory.mktemp("engines") / "data")
    with (
        running(Postgres.prepare(data), data.logs / "postgres.log") as postgres,
        running(Valkey.prepare(data), data.logs / "valkey.log") as valkey,
    ):
        yield Engines(postgres, valkey)


# ---- Member Center


@dataclass
class Person:
    """Somebody on a list."""

    subscription_id: UUID
    address: str
    preferences: str = "{}"
    refusal: int = 0


@dataclass
class Newsletter:
    """A list of a tenant, and who is on it."""

    tenant_id: str
    list_id: str
    people: dict[UUID, Person] = field(default_factory=dict)

    def add(self, count: int, preferences: str = "{}", domain: str = "mail.example") -> list[Person]:
        """Adds confirmed people."""
        added = [
            Person(subscription_id, f"{subscription_id.hex}@{domain}", preferences)
            for subscription_id in (uuid.uuid4() for _ in range(count))
        ]
        self.people |= {person.subscription_id: person for person in added}
        return added


class StandInMemberCenter(member_center_pb2_grpc.MemberCenterServicer, feed_grpc.MemberCenterFeedServicer):
    """Serves tokens, keys and the feed as the contract says."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.lists: dict[tuple[str, str], Newsletter] = {}
        self.outbox: dict[bytes, feed.ConfirmationMail] = {}
        self.confirmed: list[feed.ConfirmationMailResult] = []
        self.asked: list[list[UUID]] = []
        self.silent = False
        self.page_delay = 0.0
        self.kids = ["k"]
        self.revoked = feed.ListRevocationsResponse()
        self.key_sets_served = 0
        self.asked_for_preferences_urls: set[bool] = set()
        self.before_consent: Callable[[list[UUID]], None] = lambda group: None
        self._server = grpc.server(ThreadPoolExecutor(8))
        member_center_pb2_grpc.add_MemberCenterServicer_to_server(self, self._server)
        feed_grpc.add_MemberCenterFeedServicer_to_server(self, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def stop(self) -> None:
        self._server.stop(0).wait()

    def newsletter(self, people: int = 0, **said: str) -> Newsletter:
        """Makes a tenant with a list."""
        made = Newsletter(said.get("tenant_id", str(uuid.uuid4())), str(uuid.uuid4()))
        made.add(people)
        self.lists[made.tenant_id, made.list_id] = made
        return made

    def add_confirmation(self, newsletter: Newsletter, address: str) -> bytes:
        """Puts a confirmation mail into the outbox."""
        mail_id = uuid.uuid4().bytes
        self.outbox[mail_id] = feed.ConfirmationMail(
            tenant_id=newsletter.tenant_id,
            mail_id=mail_id,
            fence=1,
            profile=_profile(newsletter.list_id),
            address=address,
            language="en",
            confirm_url=f"{ISSUER}/newsletter/confirm?token=abc",
        )
        return mail_id

    def token(self, scopes: str, tenant_id: str | None) -> str:
        """Signs an access token: a tenant's, or an internal client's."""
        now, client = int(time.time()), str(uuid.uuid4())
        payload = {
            "iss": ISSUER, "aud": "messmail", "exp": now + 600, "iat": now, "jti": uuid.uuid4().hex, "sub": client,
            "client_id": client, "scope": scopes, "usage": "tenant_api" if tenant_id else "internal",
        }  # fmt: skip
        if tenant_id:
            payload["tenant_id"] = tenant_id
        return jwt.encode(payload, self._key, algorithm="ES256", headers={"typ": "at+jwt", "kid": "k"})

    def IssueToken(self, request: Any, context: Any) -> member_center_pb2.IssueTokenResponse:
        return member_center_pb2.IssueTokenResponse(
            access_token=self.token("internal:feed", None), token_type="Bearer", expires_in=600
        )

    def GetJsonWebKeySet(self, request: Any, context: Any) -> member_center_pb2.GetJsonWebKeySetResponse:
        numbers = self._key.public_key().public_numbers()
        x, y = (base64.urlsafe_b64encode(n.to_bytes(32, "big")).rstrip(b"=").decode() for n in (numbers.x, numbers.y))
        self.key_sets_served += 1
        return member_center_pb2.GetJsonWebKeySetResponse(
            keys=[
                member_center_pb2.JsonWebKey(kty="EC", crv="P-256", x=x, y=y, kid=kid, use="sig", alg="ES256")
                for kid in self.kids
            ]
        )

    def ListRevocations(self, request: Any, context: Any) -> feed.ListRevocationsResponse:
        return self.revoked

    def GetListProfile(
        self, request: feed.GetListProfileRequest, context: grpc.ServicerContext
    ) -> feed.GetListProfileResponse:
        self._list(request, context)
        return feed.GetListProfileResponse(profile=_profile(request.list_id))

    def ListConfirmedSubscriptions(
        self, request: feed.ListConfirmedSubscriptionsRequest, context: grpc.ServicerContext
    ) -> feed.ListConfirmedSubscriptionsResponse:
        time.sleep(self.page_delay)
        people = sorted(self._list(request, context).people.values(), key=lambda one: one.subscription_id.bytes)
        later = [one for one in people if one.subscription_id.bytes > request.after]
        answer = feed.ListConfirmedSubscriptionsResponse(more=len(later) > request.page_size)
        answer.as_of.GetCurrentTime()
        page = later[: request.page_size]
        answer.subscription_ids = b"".join(one.subscription_id.bytes for one in page)
        answer.recipient_domains.extend(one.address.rpartition("@")[2] for one in page)
        return answer

    def AuthorizeRecipients(
        self, request: feed.AuthorizeRecipientsRequest, context: grpc.ServicerContext
    ) -> feed.AuthorizeRecipientsResponse:
        group = [UUID(bytes=raw) for raw in request.subscription_ids]
        self.before_consent(group)
        self.asked_for_preferences_urls.add(not request.omit_preferences_urls)
        people = self._list(request, context).people
        preferences = "" if request.omit_preferences_urls else f"{ISSUER}/newsletter/preference-center?token={{}}"
        answer = feed.AuthorizeRecipientsResponse()
        answer.read_at.GetCurrentTime()
        for subscription_id in group:
            person = people.get(subscription_id)
            if person is None or person.refusal:
                reason = person.refusal if person else feed.REFUSAL_REASON_GONE
                answer.refused.add(subscription_id=subscription_id.bytes, reason=feed.RefusalReason.ValueType(reason))
            else:
                answer.authorized.add(
                    subscription_id=subscription_id.bytes,
                    address=person.address,
                    preferences_json=person.preferences,
                    one_click_url=f"{ISSUER}/newsletter/unsubscribe?token={subscription_id.hex}",
                    preferences_url=preferences.format(subscription_id.hex),
                )
        self.asked.append(group)
        return answer

    def LeaseConfirmationMails(
        self, request: feed.LeaseConfirmationMailsRequest, context: grpc.ServicerContext
    ) -> feed.LeaseConfirmationMailsResponse:
        self._speak(context)
        mails = [self.outbox.pop(mail_id) for mail_id in list(self.outbox)[: request.page_size]]
        return feed.LeaseConfirmationMailsResponse(mails=mails, more=bool(self.outbox))

    def AcknowledgeConfirmationMails(
        self, request: feed.AcknowledgeConfirmationMailsRequest, context: grpc.ServicerContext
    ) -> feed.AcknowledgeConfirmationMailsResponse:
        self.confirmed.extend(request.results)
        return feed.AcknowledgeConfirmationMailsResponse(recorded=len(request.results))

    def _list(self, request: Any, context: grpc.ServicerContext) -> Newsletter:
        self._speak(context)
        found = self.lists.get((request.tenant_id, request.list_id))
        if found is None:
            error = MessmailError(Reason.ERROR_REASON_LIST_NOT_FOUND, "there is no such list")
            context.abort_with_status(to_grpc_status(error, "request"))
        assert found is not None
        return found

    def _speak(self, context: grpc.ServicerContext) -> None:
        if self.silent:
            context.abort(grpc.StatusCode.UNAVAILABLE, "silent")


def _profile(list_id: str) -> feed.ListProfile:
    return feed.ListProfile(
        list_id=list_id,
        list_name="Weekly",
        from_name="Acme",
        from_address="news@acme.example",
        envelope_sender="bounces@acme.example",
        language="en",
    )


# ---- the mailbox at the end


class Sink:
    """An SMTP server that writes down what it accepts before it answers, and answers as a test tells it."""

    def __init__(self) -> None:
        self.accepted: list[tuple[str, bytes]] = []
        self.delay = 0.0
        # Seconds before the answer to the final dot, for those who have their own.
        self.delays: dict[str, float] = {}
        self.connections = 0
        # Asked for each recipient, with the attempt: what to answer to RCPT, b"" to take it, None to cut the line
        # after the final dot.
        self.answer: Callable[[str, int], bytes | None] = lambda recipient, attempt: b""
        # Asked for each MAIL: what to answer to it, b"" to take it.
        self.sender_answer: Callable[[], bytes] = lambda: b""
        self.attempts: dict[str, int] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**20), self._loop
        ).result()
        self._server = server
        self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"

    def recipients(self) -> list[str]:
        """Returns the recipients of all accepted mails, in their order, doubled ones doubled."""
        return [recipient for recipient, _ in self.accepted]

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        self._server.close()
        serving = asyncio.all_tasks() - {asyncio.current_task()}
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        writer.write(b"220 sink ESMTP\r\n")
        recipient, is_refused = "", False
        try:
            while line := await reader.readline():
                verb = line[:4].upper()
                if verb == b"EHLO":
                    writer.write(b"250-sink\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SMTPUTF8\r\n")
                elif verb == b"MAIL":
                    refusal = self.sender_answer()
                    is_refused = bool(refusal)
                    writer.write(refusal or b"250 2.1.0 OK\r\n")
                elif is_refused and verb in (b"RCPT", b"DATA"):
                    writer.write(b"503 5.5.1 no sender\r\n")
                elif verb == b"RCPT":
                    recipient = line.partition(b"<")[2].partition(b">")[0].decode()
                    self.attempts[recipient] = self.attempts.get(recipient, 0) + 1
                    writer.write(self._reply(recipient) or b"250 2.1.5 OK\r\n")
                elif verb == b"DATA":
                    if self._reply(recipient):
                        writer.write(b"503 5.5.1 no recipient\r\n")
                        continue
                    writer.write(b"354 go\r\n")
                    await writer.drain()
                    data = await reader.readuntil(b"\r\n.\r\n")
                    self.accepted.append((recipient, data))
                    if self._reply(recipient) is None:
                        return
                    if delay := self.delays.get(recipient, self.delay):
                        await asyncio.sleep(delay)
                    writer.write(b"250 2.0.0 kept\r\n")
                elif verb == b"QUIT":
                    writer.write(b"221 bye\r\n")
                    return
                else:
                    writer.write(b"250 2.0.0 OK\r\n")
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def _reply(self, recipient: str) -> bytes | None:
        return self.answer(recipient, self.attempts[recipient])


# ---- Send Engine


class Installation:
    """Send Engine on the engines, with a stand-in Member Center and a sink: a server, and workers as asked for."""

    def __init__(self, engines: Engines) -> None:
        self.engines = engines
        self.database = engines.database()
        self.member_center = StandInMemberCenter()  # type: ignore[abstract]
        self.sink = Sink()
        self.broker_url = engines.valkey.url
        self._server = wiring.start(wiring.ServiceSettings(**self.settings(), send_engine_listen="127.0.0.1:0"))
        self.channel = grpc.insecure_channel(self._server.address)
        self.stub = send_engine_pb2_grpc.SendEngineStub(self.channel)

    def settings(self, **more: Any) -> dict[str, Any]:
        """Returns the settings that the processes share."""
        return {
            "send_engine_master_keys": MASTER_KEY,
            "send_engine_database_url": self.database.app_url,
            "broker_url": self.broker_url,
            "public_base_url": ISSUER,
            "member_center_address": self.member_center.address,
            "send_engine_client_id": str(uuid.uuid4()),
            "send_engine_client_secret": "a-secret-as-long-as-those-that-are-made-here",
            **more,
        }

    @contextmanager
    def worker(self, **settings: Any) -> Iterator[wiring.RunningWorker]:
        """Runs a worker for the length of a `with` block."""
        worker = wiring.RunningWorker(
            wiring.WorkerSettings(**self.settings(**{"send_engine_smtp_url": f"smtp://{self.sink.address}"} | settings))
        )
        try:
            yield worker
        finally:
            worker.stop()

    def credentials(self, tenant_id: str, scopes: str = "newsletter:send.write newsletter:send.read") -> Any:
        """Returns the metadata of a tenant's client."""
        return (("authorization", f"Bearer {self.member_center.token(scopes, tenant_id)}"),)

    def create(self, newsletter: Newsletter, **fields: Any) -> pb.SendJob:
        """Makes a send job."""
        request = pb.CreateSendJobRequest(
            **({"list_id": newsletter.list_id, "subject": "Hello", "body_text": "Good morning."} | fields)
        )
        return self.stub.CreateSendJob(request, metadata=self.credentials(newsletter.tenant_id), timeout=10).send_job

    def get(self, job: pb.SendJob) -> pb.SendJob:
        """Reads a send job, and checks that its counters add up."""
        request = pb.GetSendJobRequest(id=job.id)
        found = self.stub.GetSendJob(request, metadata=self.credentials(job.tenant_id), timeout=10).send_job
        c = found.counters
        parts = (c.pending, c.claimed, c.sending, c.deferred, c.sent, c.failed, c.suppressed, c.cancelled, c.unknown)
        assert sum(parts) == c.total, c
        return found

    def cancel(self, job: pb.SendJob) -> pb.CancelSendJobResponse:
        """Cancels a send job."""
        request = pb.CancelSendJobRequest(id=job.id)
        return self.stub.CancelSendJob(request, metadata=self.credentials(job.tenant_id), timeout=10)

    def wait(self, job: pb.SendJob, status: int = pb.SEND_JOB_STATUS_COMPLETED, seconds: float = 30.0) -> pb.SendJob:
        """Waits until a send job has a status; looks at its counters all the while."""

        def has_it() -> pb.SendJob | None:
            found = self.get(job)
            return found if found.status == status else None

        found = wait_until(has_it, f"job {pb.SendJobStatus.Name(pb.SendJobStatus.ValueType(status))}", seconds)
        assert isinstance(found, pb.SendJob)
        return found

    def stop(self) -> None:
        self.channel.close()
        self._server.stop(grace=1.0)
        self.member_center.stop()
        self.sink.stop()


@pytest.fixture
def send_engine(send_engine_engines: Engines) -> Iterator[Installation]:
    """A fresh Send Engine without workers."""
    made = Installation(send_engine_engines)
    try:
        yield made
    finally:
        made.stop()
