"""Sets the scene as an operator does: a tenant with a list, an OAuth client for its site, and its first members."""

import secrets
from dataclasses import dataclass
from typing import Final

from messmail.member_center.v1 import member_center_admin_pb2 as admin_pb2
from messmail_cli.connection import Installation
from messmail_cli.failures import CommandFailed

MEMBERS: Final = 1000
_EVIDENCE: Final = "Made-up people of the demonstration; each agreed by being made up."


@dataclass(frozen=True, slots=True)
class Scene:
    """What the tenant's site was given, and who is on the list."""

    tenant_id: str
    list_id: str
    client_id: str
    client_secret: str
    members: frozenset[str]
    newcomer: str
    subject: str
    address_end: str


def set_scene(installation: Installation) -> Scene:
    """Makes a new tenant each time, so that the walk can be repeated on the same data."""
    admin = installation.member_center_admin
    # Addresses differ from run to run: there is a limit of confirmation mails for each address and day.
    run = secrets.token_hex(3)
    address_end = f".{run}@mail.example"
    tenant_id = admin.CreateTenant(admin_pb2.CreateTenantRequest(name=f"Demo Magazine {run}")).tenant_id
    newsletter = admin_pb2.CreateListRequest(tenant_id=tenant_id, name="Demo Weekly", language="en")
    setattr(newsletter, "from", "Demo Magazine <news@magazine.example>")
    list_id = admin.CreateList(newsletter).list_id
    client = admin.CreateClient(
        admin_pb2.CreateClientRequest(
            tenant_id=tenant_id,
            usage=admin_pb2.CLIENT_USAGE_TENANT_API,
            scopes=["newsletter:send.write", "newsletter:send.read"],
            name="the magazine's site",
        )
    )
    members = [f"reader{number:04}{address_end}" for number in range(1, MEMBERS + 1)]
    rows = [admin_pb2.ImportRow(email=email) for email in members]
    answer = admin.ImportMembers(
        admin_pb2.ImportMembersRequest(
            tenant_id=tenant_id, list_id=list_id, rows=rows, confirmed=True, evidence=_EVIDENCE
        ),
        timeout=60,
    )
    if answer.imported != MEMBERS:
        raise CommandFailed(f"Only {answer.imported:,} of {MEMBERS:,} members could be imported")
    return Scene(
        tenant_id,
        list_id,
        client.client_id,
        client.client_secret,
        members=frozenset(members),
        newcomer=f"mei{address_end}",
        # By its subject a mail of this run is told from all others in the mailbox.
        subject=f"Weekly Update {run}",
        address_end=address_end,
    )
