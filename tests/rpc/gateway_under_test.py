"""A gateway in a process of its own, and the two public services played by small servicers behind the real guard.

What the services decide is tested with the real ones; here it is how HTTP becomes a call and an answer becomes HTTP.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from google.protobuf.message import Message

from messmail.member_center.v1 import member_center_pb2 as mc
from messmail.member_center.v1 import member_center_pb2_grpc
from messmail.send_engine.v1 import send_engine_pb2 as se
from messmail.send_engine.v1 import send_engine_pb2_grpc
from servicekit.access import Caller, caller
from servicekit.errors import MessmailError, Reason
from servicekit.server import RunningServer, Service, start_server
from servicekit.tokens import TokenVerifier

ROOT = Path(__file__).resolve().parents[2]
ISSUER = "http://gateway.example"
KEY = ec.generate_private_key(ec.SECP256R1())
# The same in every worker of the tests: cases are named after them.
TENANT, LIST, JOB, GATEWAY_CLIENT, SITE_CLIENT = (str(uuid.UUID(int=number, version=4)) for number in range(1, 6))
GATEWAY_SECRET = "the gateway's own secret, as long as those that are made"
SITE_SECRET = "s=cr&t %+/ü"
EXPIRED, SUPERSEDED = "an-expired-token", "a-superseded-token"

_MEMBERSHIPS = [
    mc.ListMembership(list_id=LIST, list_name="<b>Acme & Co</b>", status=mc.SUBSCRIPTION_STATUS_CONFIRMED),
    mc.ListMembership(list_id=TENANT, list_name="Offers", status=mc.SUBSCRIPTION_STATUS_PENDING),
    mc.ListMembership(list_id=JOB, list_name="Events", status=mc.SUBSCRIPTION_STATUS_UNSUBSCRIBED),
]


class Keys:
    """The key set of the issuer, with keys that can be taken out."""

    def __init__(self) -> None:
        self.kid = "first"

    def key(self, kid: str) -> EllipticCurvePublicKey | None:
        return KEY.public_key() if kid == self.kid else None


KEYS = Keys()


def access_token(scope: str, tenant: str | None = TENANT) -> str:
    now = int(time.time())
    client = str(uuid.uuid4())
    claims = {
        "iss": ISSUER, "aud": "messmail", "exp": now + 600, "iat": now, "jti": uuid.uuid4().hex, "sub": client,
        "client_id": client, "scope": scope, "usage": "tenant_api" if tenant else "internal",
    }  # fmt: skip
    if tenant:
        claims["tenant_id"] = tenant
    return jwt.encode(claims, KEY, algorithm="ES256", headers={"typ": "at+jwt", "kid": KEYS.kid})


@dataclass
class Seen:
    """What a servicer was called with."""

    rpcs: list[str] = field(default_factory=list)
    requests: list[Message] = field(default_factory=list)
    callers: list[Caller] = field(default_factory=list)
    tokens_issued: int = 0

    def note(self, rpc: str, request: Message) -> None:
        self.rpcs.append(rpc)
        self.requests.append(request)
        self.callers.append(caller())


class MemberCenter(member_center_pb2_grpc.MemberCenterServicer):
    def __init__(self, seen: Seen) -> None:
        self.seen = seen

    def IssueToken(self, request: mc.IssueTokenRequest, context: Any) -> mc.IssueTokenResponse:
        secrets = {GATEWAY_CLIENT: GATEWAY_SECRET, SITE_CLIENT: SITE_SECRET}
        if secrets.get(request.client_id) != request.client_secret:
            raise MessmailError(
                Reason.ERROR_REASON_CLIENT_AUTHENTICATION_FAILED, 'the client is unknown or its "secret" is wrong'
            )
        if request.client_id == GATEWAY_CLIENT:
            self.seen.tokens_issued += 1
            token = access_token("internal:gateway", None)
        else:
            self.seen.note("IssueToken", request)
            token = access_token("newsletter:send.read")
        return mc.IssueTokenResponse(access_token=token, token_type="Bearer", expires_in=600, scope=request.scope)

    def GetJsonWebKeySet(self, request: Message, context: Any) -> mc.GetJsonWebKeySetResponse:
        return mc.GetJsonWebKeySetResponse(keys=[mc.JsonWebKey(kty="EC", kid="first")])

    def GetAuthorizationServerMetadata(
        self, request: Message, context: Any
    ) -> mc.GetAuthorizationServerMetadataResponse:
        return mc.GetAuthorizationServerMetadataResponse(issuer=ISSUER)

    def Subscribe(self, request: mc.SubscribeRequest, context: Any) -> mc.SubscribeResponse:
        self.seen.note("Subscribe", request)
        return mc.SubscribeResponse(status=mc.SUBSCRIPTION_STATUS_PENDING, confirm_token="sealed")

    def FollowConfirmLink(self, request: mc.FollowConfirmLinkRequest, context: Any) -> mc.FollowConfirmLinkResponse:
        self.seen.note("FollowConfirmLink", request)
        _follow(request.token)
        return mc.FollowConfirmLinkResponse(
            status=mc.SUBSCRIPTION_STATUS_PENDING, list_id=LIST, list_name="<b>Acme & Co</b>", language="zh-TW"
        )

    def ConfirmSubscription(
        self, request: mc.ConfirmSubscriptionRequest, context: Any
    ) -> mc.ConfirmSubscriptionResponse:
        self.seen.note("ConfirmSubscription", request)
        _follow(request.token)
        return mc.ConfirmSubscriptionResponse(
            status=mc.SUBSCRIPTION_STATUS_CONFIRMED, list_id=LIST, list_name="Acme", language="en"
        )

    def RequestUnsubscribeToken(
        self, request: mc.RequestUnsubscribeTokenRequest, context: Any
    ) -> mc.RequestUnsubscribeTokenResponse:
        return mc.RequestUnsubscribeTokenResponse(unsubscribe_token="sealed")

    def FollowUnsubscribeLink(
        self, request: mc.FollowUnsubscribeLinkRequest, context: Any
    ) -> mc.FollowUnsubscribeLinkResponse:
        self.seen.note("FollowUnsubscribeLink", request)
        return mc.FollowUnsubscribeLinkResponse(
            status=mc.SUBSCRIPTION_STATUS_CONFIRMED, list_name="Acme", language="en"
        )

    def Unsubscribe(self, request: mc.UnsubscribeRequest, context: Any) -> mc.UnsubscribeResponse:
        self.seen.note("Unsubscribe", request)
        _follow(request.token)
        return mc.UnsubscribeResponse(status=mc.SUBSCRIPTION_STATUS_UNSUBSCRIBED, list_name="Acme", language="en")

    def GetPreferences(self, request: mc.GetPreferencesRequest, context: Any) -> mc.GetPreferencesResponse:
        self.seen.note("GetPreferences", request)
        answer = mc.GetPreferencesResponse()
        if request.email.startswith("known"):
            answer.preferences.update({"lang": "zh-TW", "n": 1, "deep": {"a": [True, None, 1.5]}})
        return answer

    def UpdatePreferences(self, request: mc.UpdatePreferencesRequest, context: Any) -> mc.UpdatePreferencesResponse:
        self.seen.note("UpdatePreferences", request)
        return mc.UpdatePreferencesResponse(preferences=request.preferences)

    def GetPreferenceCenter(
        self, request: mc.GetPreferenceCenterRequest, context: Any
    ) -> mc.GetPreferenceCenterResponse:
        self.seen.note("GetPreferenceCenter", request)
        _follow(request.token)
        return mc.GetPreferenceCenterResponse(language="zh-TW", lists=_MEMBERSHIPS)

    def UpdatePreferenceCenter(
        self, request: mc.UpdatePreferenceCenterRequest, context: Any
    ) -> mc.UpdatePreferenceCenterResponse:
        self.seen.note("UpdatePreferenceCenter", request)
        _follow(request.token)
        return mc.UpdatePreferenceCenterResponse(language="en", lists=_MEMBERSHIPS[2:])


class SendEngine(send_engine_pb2_grpc.SendEngineServicer):
    def __init__(self, seen: Seen) -> None:
        self.seen = seen

    def CreateSendJob(self, request: se.CreateSendJobRequest, context: Any) -> se.CreateSendJobResponse:
        self.seen.note("CreateSendJob", request)
        job = se.SendJob(
            id=JOB,
            tenant_id=TENANT,
            list_id=request.list_id,
            subject=request.subject,
            status=se.SEND_JOB_STATUS_SCHEDULED,
            counters=se.SendJobCounters(total=3, pending=3),
            scheduled_at=request.scheduled_at,
        )
        return se.CreateSendJobResponse(send_job=job)

    def GetSendJob(self, request: se.GetSendJobRequest, context: Any) -> se.GetSendJobResponse:
        self.seen.note("GetSendJob", request)
        if request.id != JOB:
            raise MessmailError(Reason.ERROR_REASON_SEND_JOB_NOT_FOUND, "there is no such send job")
        return se.GetSendJobResponse(send_job=se.SendJob(id=JOB, status=se.SEND_JOB_STATUS_SENDING))

    def ListSendJobs(self, request: se.ListSendJobsRequest, context: Any) -> se.ListSendJobsResponse:
        self.seen.note("ListSendJobs", request)
        if request.page_token == "too often":
            raise MessmailError(Reason.ERROR_REASON_RATE_LIMITED, "too often", retry_after=1.2, limit="calls")
        return se.ListSendJobsResponse(send_jobs=[se.SendJob(id=JOB)])

    def CancelSendJob(self, request: se.CancelSendJobRequest, context: Any) -> se.CancelSendJobResponse:
        self.seen.note("CancelSendJob", request)
        raise ZeroDivisionError("the secret of the house is 4711")

    def WatchSendJob(self, request: se.WatchSendJobRequest, context: Any) -> Iterator[se.WatchSendJobResponse]:
        yield se.WatchSendJobResponse()


def _follow(token: str) -> None:
    reasons = {EXPIRED: Reason.ERROR_REASON_LINK_EXPIRED, SUPERSEDED: Reason.ERROR_REASON_LINK_SUPERSEDED}
    if token in reasons:
        raise MessmailError(reasons[token], "the link is too old")


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """An answer as it came over the wire. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class GatewayProcess:
    """A gateway that runs."""

    process: subprocess.Popen[bytes]
    host: str
    port: int

    def call(self, method: str, target: str, body: bytes | None = None, /, **headers: str) -> HttpAnswer:
        """Makes one request; underscores in header names stand for hyphens."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=30)
        try:
            connection.request(method, target, body, {name.replace("_", "-"): text for name, text in headers.items()})
            response = connection.getresponse()
            names = {name.lower(): value for name, value in response.getheaders()}
            return HttpAnswer(response.status, names, response.read())
        finally:
            connection.close()

    def post_json(self, target: str, value: object, /, **headers: str) -> HttpAnswer:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        return self.call("POST", target, body, Content_Type="application/json", **headers)

    def post_form(self, target: str, body: bytes, /, **headers: str) -> HttpAnswer:
        return self.call("POST", target, body, Content_Type="application/x-www-form-urlencoded", **headers)


@dataclass(frozen=True)
class GatewayUnderTest(GatewayProcess):
    """A gateway that runs, and what the services behind it have seen."""

    seen: Seen
    services: tuple[RunningServer, ...]


def serve_services(seen: Seen) -> tuple[RunningServer, RunningServer]:
    """Serves the two public services on free ports."""
    member_center, send_engine = MemberCenter(seen), SendEngine(seen)  # type: ignore[abstract]
    verifier = TokenVerifier(ISSUER, KEYS, lambda _: False)
    return (
        start_server(
            "127.0.0.1:0",
            [
                Service(
                    "messmail.member_center.v1.MemberCenter",
                    lambda server: member_center_pb2_grpc.add_MemberCenterServicer_to_server(member_center, server),
                )
            ],
            verifier,
        ),
        start_server(
            "127.0.0.1:0",
            [
                Service(
                    "messmail.send_engine.v1.SendEngine",
                    lambda server: send_engine_pb2_grpc.add_SendEngineServicer_to_server(send_engine, server),
                )
            ],
            verifier,
        ),
    )


@contextmanager
def running_gateway(log: Path, **settings: str) -> Iterator[GatewayUnderTest]:
    """Runs a gateway in front of the two services; its log goes into a file."""
    seen = Seen()
    services = serve_services(seen)
    behind = {
        "MEMBER_CENTER_ADDRESS": services[0].address,
        "SEND_ENGINE_ADDRESS": services[1].address,
        "GATEWAY_CLIENT_ID": GATEWAY_CLIENT,
        "GATEWAY_CLIENT_SECRET": GATEWAY_SECRET,
        "PUBLIC_BASE_URL": ISSUER,
    }
    try:
        with gateway_process(log, **behind | settings) as started:
            yield GatewayUnderTest(started.process, started.host, started.port, seen, services)
    finally:
        for service in services:
            service.stop(0)


@contextmanager
def gateway_process(log: Path, **settings: str) -> Iterator[GatewayProcess]:
    """Runs a gateway with these settings; its log goes into a file."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "generated")]),
        "GATEWAY_LISTEN": "127.0.0.1:0",
        **settings,
    }
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-c", "from gateway.wiring import serve; serve()"], env=environment, stderr=stream
        )
    try:
        host, _, port = ready_address(process, log).rpartition(":")
        yield GatewayProcess(process, host, int(port))
    finally:
        process.terminate()
        process.wait(30)


def ready_address(process: subprocess.Popen[bytes], log: Path) -> str:
    """Waits for the event "ready" and returns its address."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        for event in logged(log):
            if event.get("event") == "ready":
                return str(event["address"])
        time.sleep(0.02)
    raise AssertionError(f"the gateway did not start: {log.read_text()}")


def logged(log: Path) -> list[dict[str, Any]]:
    """Returns the events in a log so far."""
    whole_lines = log.read_text().rpartition("\n")[0].splitlines()
    return [json.loads(line) for line in whole_lines if line.startswith("{")]
