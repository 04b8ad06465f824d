"""The public face: the service MemberCenter."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any
from uuid import UUID

import grpc

from member_center.cross_origin import CrossOrigin
from member_center.login_limits import LoginLimits
from member_center.oauth import GRANT_TYPE, TENANT_SCOPES, OAuth
from member_center.preference_center import Choice, PreferenceCenters
from member_center.preferences import MemberPreferences
from member_center.records.consent import Answer, PreferenceCenter
from member_center.servicers.messages import (
    read_address,
    read_evidence,
    read_object,
    read_proof,
    read_tenant,
    status_number,
    struct,
    timestamp,
)
from member_center.signing_keys import SigningKey, SigningKeys
from member_center.subscriptions import Person, Subscriptions
from messmail.member_center.v1 import member_center_pb2 as pb
from messmail.member_center.v1 import member_center_pb2_grpc
from servicekit.access import caller
from servicekit.tokens import ALGORITHM, AUDIENCE

TOKEN_KIND = "Bearer"
CLIENT_AUTHENTICATION = ("client_secret_post", "client_secret_basic")
_COORDINATE_BYTES = 32


class MemberCenterServicer(member_center_pb2_grpc.MemberCenterServicer):
    """Serves tenant sites and the people on their lists."""

    def __init__(
        self,
        oauth: OAuth,
        keys: SigningKeys,
        login_limits: LoginLimits,
        subscriptions: Subscriptions,
        preferences: MemberPreferences,
        preference_centers: PreferenceCenters,
        cross_origin: CrossOrigin,
        issuer: str,
    ) -> None:
        self._oauth = oauth
        self._keys = keys
        self._login_limits = login_limits
        self._subscriptions = subscriptions
        self._preferences = preferences
        self._preference_centers = preference_centers
        self._cross_origin = cross_origin
        self._issuer = issuer

    def IssueToken(self, request: pb.IssueTokenRequest, context: grpc.ServicerContext) -> pb.IssueTokenResponse:
        """Issues an access token."""
        with self._login_limits.attempt(caller(), request.client_id):
            issued = self._oauth.issue_token(
                request.grant_type, request.client_id, request.client_secret, request.scope
            )
        return pb.IssueTokenResponse(
            access_token=issued.token,
            token_type=TOKEN_KIND,
            expires_in=issued.expires_in,
            scope=" ".join(issued.scopes),
        )

    def RevokeToken(self, request: pb.RevokeTokenRequest, context: grpc.ServicerContext) -> pb.RevokeTokenResponse:
        """Ends an access token."""
        with self._login_limits.attempt(caller(), request.client_id):
            self._oauth.revoke_token(request.client_id, request.client_secret, request.token)
        return pb.RevokeTokenResponse()

    def IntrospectToken(
        self, request: pb.IntrospectTokenRequest, context: grpc.ServicerContext
    ) -> pb.IntrospectTokenResponse:
        """Tells what an access token says."""
        with self._login_limits.attempt(caller(), request.client_id):
            claims = self._oauth.introspect_token(request.client_id, request.client_secret, request.token)
        if claims is None:
            return pb.IntrospectTokenResponse(active=False)
        return pb.IntrospectTokenResponse(
            active=True,
            scope=" ".join(sorted(claims.scopes)),
            client_id=str(claims.client_id),
            token_type=TOKEN_KIND,
            exp=claims.expires_at,
            iat=claims.issued_at,
            sub=str(claims.client_id),
            aud=AUDIENCE,
            iss=self._issuer,
            jti=claims.token_id,
            tenant_id=None if claims.tenant_id is None else str(claims.tenant_id),
            usage=claims.usage,
        )

    def GetJsonWebKeySet(
        self, request: pb.GetJsonWebKeySetRequest, context: grpc.ServicerContext
    ) -> pb.GetJsonWebKeySetResponse:
        """Returns the public keys."""
        return pb.GetJsonWebKeySetResponse(keys=[_json_web_key(key) for key in self._keys.listed()])

    def GetAuthorizationServerMetadata(
        self, request: pb.GetAuthorizationServerMetadataRequest, context: grpc.ServicerContext
    ) -> pb.GetAuthorizationServerMetadataResponse:
        """Describes the authorization server."""
        address = self._issuer.rstrip("/")
        return pb.GetAuthorizationServerMetadataResponse(
            issuer=self._issuer,
            token_endpoint=f"{address}/oauth/token",
            jwks_uri=f"{address}/.well-known/jwks.json",
            response_types_supported=[],
            grant_types_supported=[GRANT_TYPE],
            token_endpoint_auth_methods_supported=CLIENT_AUTHENTICATION,
            scopes_supported=TENANT_SCOPES,
            service_documentation=f"{address}/docs",
            revocation_endpoint=f"{address}/oauth/revoke",
            revocation_endpoint_auth_methods_supported=CLIENT_AUTHENTICATION,
            introspection_endpoint=f"{address}/oauth/introspect",
            introspection_endpoint_auth_methods_supported=CLIENT_AUTHENTICATION,
        )

    def Subscribe(self, request: pb.SubscribeRequest, context: grpc.ServicerContext) -> pb.SubscribeResponse:
        """Asks for a subscription."""
        preferences = None
        if request.HasField("preferences"):
            preferences = read_object("preferences", request.preferences)
        evidence = read_evidence(caller(), request.client if request.HasField("client") else None)
        evidence = replace(evidence, text=read_proof(request.evidence))
        asked = self._subscriptions.subscribe(caller(), _person(request), preferences, evidence)
        return pb.SubscribeResponse(status=status_number(asked.status), confirm_token=asked.confirm_token)

    def FollowConfirmLink(
        self, request: pb.FollowConfirmLinkRequest, context: grpc.ServicerContext
    ) -> pb.FollowConfirmLinkResponse:
        """Follows a confirmation link."""
        answer = self._subscriptions.follow_confirm_link(caller(), request.token, read_evidence(caller(), None))
        return pb.FollowConfirmLinkResponse(**_told(answer))

    def ConfirmSubscription(
        self, request: pb.ConfirmSubscriptionRequest, context: grpc.ServicerContext
    ) -> pb.ConfirmSubscriptionResponse:
        """Confirms a subscription."""
        evidence = read_evidence(caller(), request.client if request.HasField("client") else None)
        answer = self._subscriptions.confirm(caller(), request.token, evidence)
        return pb.ConfirmSubscriptionResponse(**_told(answer))

    def RequestUnsubscribeToken(
        self, request: pb.RequestUnsubscribeTokenRequest, context: grpc.ServicerContext
    ) -> pb.RequestUnsubscribeTokenResponse:
        """Returns an unsubscribe token."""
        token, expires_at = self._subscriptions.request_unsubscribe_token(caller(), _person(request))
        return pb.RequestUnsubscribeTokenResponse(unsubscribe_token=token, expires_at=timestamp(expires_at))

    def FollowUnsubscribeLink(
        self, request: pb.FollowUnsubscribeLinkRequest, context: grpc.ServicerContext
    ) -> pb.FollowUnsubscribeLinkResponse:
        """Tells the state for the page of an unsubscribe link."""
        answer = self._subscriptions.follow_unsubscribe_link(caller(), request.token)
        return pb.FollowUnsubscribeLinkResponse(**_told(answer))

    def Unsubscribe(self, request: pb.UnsubscribeRequest, context: grpc.ServicerContext) -> pb.UnsubscribeResponse:
        """Unsubscribes from one list."""
        evidence = read_evidence(caller(), request.client if request.HasField("client") else None)
        answer = self._subscriptions.unsubscribe(caller(), request.token, evidence)
        return pb.UnsubscribeResponse(**_told(answer))

    def GetPreferences(
        self, request: pb.GetPreferencesRequest, context: grpc.ServicerContext
    ) -> pb.GetPreferencesResponse:
        """Returns preferences."""
        return pb.GetPreferencesResponse(preferences=struct(self._preferences.get(caller(), _person(request))))

    def UpdatePreferences(
        self, request: pb.UpdatePreferencesRequest, context: grpc.ServicerContext
    ) -> pb.UpdatePreferencesResponse:
        """Changes preferences."""
        patch = read_object("preferences", request.preferences)
        return pb.UpdatePreferencesResponse(
            preferences=struct(self._preferences.update(caller(), _person(request), patch))
        )

    def CheckOrigin(self, request: pb.CheckOriginRequest, context: grpc.ServicerContext) -> pb.CheckOriginResponse:
        """Tells whether pages of an origin may call."""
        allowed = self._cross_origin.allows(caller(), request.origin, request.list_id, request.token)
        return pb.CheckOriginResponse(allowed=allowed)

    def GetPreferenceCenter(
        self, request: pb.GetPreferenceCenterRequest, context: grpc.ServicerContext
    ) -> pb.GetPreferenceCenterResponse:
        """Opens the preference centre."""
        shown = self._preference_centers.get(caller(), request.token)
        return pb.GetPreferenceCenterResponse(language=shown.language, lists=_list_memberships(shown))

    def UpdatePreferenceCenter(
        self, request: pb.UpdatePreferenceCenterRequest, context: grpc.ServicerContext
    ) -> pb.UpdatePreferenceCenterResponse:
        """Changes what the preference centre shows."""
        evidence = read_evidence(caller(), request.client if request.HasField("client") else None)
        leave_list_id = UUID(request.leave_list_id) if request.leave_list_id else None
        choice = Choice(request.language, leave_list_id, request.leave_all)
        shown = self._preference_centers.update(caller(), request.token, choice, evidence)
        return pb.UpdatePreferenceCenterResponse(language=shown.language, lists=_list_memberships(shown))


def _person(
    request: pb.SubscribeRequest
    | pb.RequestUnsubscribeTokenRequest
    | pb.GetPreferencesRequest
    | pb.UpdatePreferencesRequest,
) -> Person:
    tenant_id = read_tenant(caller(), request.tenant_id)
    return Person(tenant_id, UUID(request.list_id), read_address(request.email))


def _told(answer: Answer) -> Any:
    """The fields that all answers about a link have."""
    return {
        "status": status_number(answer.status),
        "list_id": str(answer.list_id),
        "list_name": answer.list_name,
        "language": answer.language,
    }


def _list_memberships(shown: PreferenceCenter) -> list[pb.ListMembership]:
    return [
        pb.ListMembership(
            list_id=str(membership.subscription.list_id),
            list_name=membership.list_name,
            status=status_number(status),
        )
        for membership, status in shown.lists
    ]


def _json_web_key(key: SigningKey) -> pb.JsonWebKey:
    numbers = key.public_key.public_numbers()
    return pb.JsonWebKey(
        kty="EC",
        crv="P-256",
        x=_base64url(numbers.x),
        y=_base64url(numbers.y),
        kid=key.kid,
        use="sig",
        alg=ALGORITHM,
    )


def _base64url(number: int) -> str:
    return base64.urlsafe_b64encode(number.to_bytes(_COORDINATE_BYTES, "big")).decode().rstrip("=")
