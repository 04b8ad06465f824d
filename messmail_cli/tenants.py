"""`messmail tenants`: makes and lists tenants."""

from typing import Annotated

import typer

from messmail.member_center.v1 import member_center_admin_pb2 as admin_pb2
from messmail_cli.connection import Installation, administers
from messmail_cli.printing import Answer, facts_of, table

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.callback()
def _tenants() -> None:
    """Make and list tenants."""


@app.command()
@administers
def create(
    installation: Installation,
    name: Annotated[str, typer.Option(help="The tenant's name, for the operator.")],
) -> Answer:
    """Make a tenant. Each call makes one more."""
    made = installation.member_center_admin.CreateTenant(admin_pb2.CreateTenantRequest(name=name))
    return Answer(facts_of(made), f"Made tenant {made.tenant_id}")


@app.command("list")
@administers
def show_all(installation: Installation) -> Answer:
    """List the tenants, oldest first."""
    tenants: list[admin_pb2.Tenant] = []
    page_token = ""
    while True:
        page = installation.member_center_admin.ListTenants(admin_pb2.ListTenantsRequest(page_token=page_token))
        tenants.extend(page.tenants)
        page_token = page.next_page_token
        if not page_token:
            break
    rows = [(one.tenant_id, one.name, one.created_at.ToJsonString()) for one in tenants]
    return Answer(
        {"tenants": [facts_of(one) for one in tenants]},
        table(("tenant", "name", "made"), rows) if rows else "None yet.",
    )
