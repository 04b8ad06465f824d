"""The operator's face: the service MemberCenterAdmin. What it does about one person is in people."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import grpc

from member_center.complaints import Complaints
from member_center.imports import Imports
from member_center.keyrings import Keyrings
from member_center.limits import Limiter
from member_center.lists import Lists, NewList, sender_of
from member_center.oauth import OAuth
from member_center.people import People
from member_center.records.consent import Evidence
from member_center.records.installation import KeyRing, Limits, NewsletterList, SettingChanges, Usage
from member_center.records.people import ImportRow
from member_center.servicers.messages import read_proof, timestamp
from member_center.servicers.people import PeopleServicer
from member_center.suppressions import Suppressions
from member_center.tenants import Tenants
from messmail.member_center.v1 import member_center_admin_pb2 as pb
from servicekit.access import caller
from servicekit.json_bounds import BoundsError, check_struct

_PAGE_SIZE = 100
_USAGES = {
    pb.CLIENT_USAGE_TENANT_API: Usage.TENANT_API,
    pb.CLIENT_USAGE_WEBHOOK_OUTBOUND: Usage.WEBHOOK_OUTBOUND,
    pb.CLIENT_USAGE_INTERNAL: Usage.INTERNAL,
}
_RINGS = {pb.KEY_RING_SIGNING: KeyRing.SIGNING, pb.KEY_RING_LINKS: KeyRing.LINKS}


class MemberCenterAdminServicer(PeopleServicer):
    """Serves the operator."""

    def __init__(
        self,
        tenants: Tenants,
        lists: Lists,
        oauth: OAuth,
        imports: Imports,
        limiter: Limiter,
        keyrings: Keyrings,
        suppressions: Suppressions,
        complaints: Complaints,
        people: People,
    ) -> None:
        self._tenants = tenants
        self._lists = lists
        self._oauth = oauth
        self._imports = imports
        self._limiter = limiter
        self._keyrings = keyrings
        self._suppressions = suppressions
        self._complaints = complaints
        self._people = people

    def CreateTenant(self, request: pb.CreateTenantRequest, context: grpc.ServicerContext) -> pb.CreateTenantResponse:
        """Makes a tenant."""
        return pb.CreateTenantResponse(tenant_id=str(self._tenants.create(request.name)))

    def ListTenants(self, request: pb.ListTenantsRequest, context: grpc.ServicerContext) -> pb.ListTenantsResponse:
        """Lists the tenants."""
        page = self._tenants.page(request.page_token, request.page_size or _PAGE_SIZE)
        tenants = [
            pb.Tenant(tenant_id=str(each.tenant_id), name=each.name, created_at=timestamp(each.created_at))
            for each in page.items
        ]
        return pb.ListTenantsResponse(tenants=tenants, next_page_token=page.next_page_token)

    def CreateList(self, request: pb.CreateListRequest, context: grpc.ServicerContext) -> pb.CreateListResponse:
        """Makes a list of a tenant."""
        # The field is called `from`, which no attribute of Python can be.
        wanted = NewList(
            request.name,
            getattr(request, "from"),
            request.reply_to,
            request.envelope_sender,
            request.language,
            _setting_changes(request.settings),
        )
        return pb.CreateListResponse(list_id=str(self._lists.create(UUID(request.tenant_id), wanted)))

    def UpdateList(self, request: pb.UpdateListRequest, context: grpc.ServicerContext) -> pb.UpdateListResponse:
        """Changes settings of a list."""
        changes = _setting_changes(request.settings)
        updated = self._lists.update(UUID(request.tenant_id), UUID(request.list_id), changes)
        return pb.UpdateListResponse(list=_newsletter_list(updated))

    def ListLists(self, request: pb.ListListsRequest, context: grpc.ServicerContext) -> pb.ListListsResponse:
        """Lists the lists of a tenant."""
        page = self._lists.page(UUID(request.tenant_id), request.page_token, request.page_size or _PAGE_SIZE)
        return pb.ListListsResponse(
            lists=[_newsletter_list(each) for each in page.items], next_page_token=page.next_page_token
        )

    def CreateClient(self, request: pb.CreateClientRequest, context: grpc.ServicerContext) -> pb.CreateClientResponse:
        """Makes an OAuth client."""
        tenant_id = UUID(request.tenant_id) if request.tenant_id else None
        made = self._oauth.create_client(tenant_id, _USAGES[request.usage], tuple(request.scopes), request.name)
        return pb.CreateClientResponse(client_id=str(made.id), client_secret=made.secret)

    def RotateClientSecret(
        self, request: pb.RotateClientSecretRequest, context: grpc.ServicerContext
    ) -> pb.RotateClientSecretResponse:
        """Gives a client a new secret."""
        made = self._oauth.rotate_secret(UUID(request.client_id))
        return pb.RotateClientSecretResponse(client_id=str(made.id), client_secret=made.secret)

    def DisableClient(
        self, request: pb.DisableClientRequest, context: grpc.ServicerContext
    ) -> pb.DisableClientResponse:
        """Ends a client."""
        disabled_at = self._oauth.disable_client(UUID(request.client_id))
        return pb.DisableClientResponse(disabled_at=timestamp(disabled_at))

    def ImportMembers(
        self, request: pb.ImportMembersRequest, context: grpc.ServicerContext
    ) -> pb.ImportMembersResponse:
        """Imports a page of members."""
        imported = self._imports.import_page(
            UUID(request.tenant_id),
            UUID(request.list_id),
            _import_rows(request.rows),
            proven=request.confirmed,
            evidence=Evidence(caller().client_id, text=read_proof(request.evidence)),
        )
        return pb.ImportMembersResponse(
            imported=imported.imported,
            skipped=imported.skipped,
            rejected=[pb.RejectedRow(index=index, problem=problem) for index, problem in imported.rejected],
        )

    def RotateKeys(self, request: pb.RotateKeysRequest, context: grpc.ServicerContext) -> pb.RotateKeysResponse:
        """Makes a new current key in a ring."""
        return pb.RotateKeysResponse(key_ids=self._keyrings.rotate(_RINGS[request.ring]))

    def ListKeys(self, request: pb.ListKeysRequest, context: grpc.ServicerContext) -> pb.ListKeysResponse:
        """Lists the keys."""
        return pb.ListKeysResponse(
            keys=[
                pb.StoredKey(
                    ring=pb.KeyRing.Value(f"KEY_RING_{ring.name}"),
                    key_id=key.id,
                    purpose=key.purpose,
                    state=pb.KeyState.Value(f"KEY_STATE_{key.state.name}"),
                    created_at=timestamp(key.created_at),
                    master_key_id=key.master_key,
                )
                for ring, key in self._keyrings.shown()
            ]
        )

    def RemoveKey(self, request: pb.RemoveKeyRequest, context: grpc.ServicerContext) -> pb.RemoveKeyResponse:
        """Takes a key away."""
        return pb.RemoveKeyResponse(made_key_id=self._keyrings.remove(_RINGS[request.ring], request.key_id))

    def ReencryptKeys(
        self, request: pb.ReencryptKeysRequest, context: grpc.ServicerContext
    ) -> pb.ReencryptKeysResponse:
        """Encrypts the keys anew."""
        count, master_key_id = self._keyrings.reencrypt()
        return pb.ReencryptKeysResponse(reencrypted=count, master_key_id=master_key_id)

    def SetLimits(self, request: pb.SetLimitsRequest, context: grpc.ServicerContext) -> pb.SetLimitsResponse:
        """Sets limits."""
        wanted = Limits(**{field.name: value for field, value in request.limits.ListFields()})
        if request.list_id:
            in_force = self._limiter.set_list_limits(UUID(request.tenant_id), UUID(request.list_id), wanted)
        else:
            in_force = self._limiter.set_limits(wanted)
        return pb.SetLimitsResponse(
            limits=pb.Limits(**{name: getattr(in_force, name) for name in pb.Limits.DESCRIPTOR.fields_by_name})
        )


def _newsletter_list(found: NewsletterList) -> pb.NewsletterList:
    return pb.NewsletterList(
        list_id=str(found.id),
        name=found.profile.name,
        reply_to=found.profile.reply_to,
        envelope_sender=found.profile.envelope_sender,
        language=found.profile.language,
        created_at=timestamp(found.created_at),
        settings=pb.ListSettings(
            require_token=found.settings.require_token,
            return_confirm_token=found.settings.return_confirm_token,
            allowed_origins=pb.AllowedOrigins(origins=found.settings.allowed_origins),
            honeypot_field=found.settings.honeypot_field,
        ),
        **{"from": sender_of(found.profile)},
    )


def _setting_changes(settings: pb.ListSettings) -> SettingChanges:
    given = {field.name: value for field, value in settings.ListFields()}
    if settings.HasField("allowed_origins"):
        given["allowed_origins"] = tuple(settings.allowed_origins.origins)
    return SettingChanges(**given)


def _import_rows(rows: Sequence[pb.ImportRow]) -> list[ImportRow]:
    """Reads rows one by one: what is wrong with one is told of that one."""
    read = []
    for row in rows:
        try:
            read.append(ImportRow(row.email, check_struct(row.preferences)))
        except BoundsError as error:
            read.append(ImportRow(row.email, {}, error.problem))
    return read
