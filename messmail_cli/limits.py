"""`messmail limits`: sets how much is allowed."""

from typing import Annotated

import typer

from messmail.member_center.v1 import member_center_admin_pb2 as admin_pb2
from messmail_cli.connection import Installation, administers
from messmail_cli.printing import Answer, facts_of

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.callback()
def _limits() -> None:
    """Set limits of the installation or of one list."""


@app.command("set")
@administers
def change(
    installation: Installation,
    tenant: Annotated[str, typer.Option(help="The tenant of the list. Left out: the whole installation.")] = "",
    list_id: Annotated[str, typer.Option("--list", help="The list. Left out: the whole installation.")] = "",
    subscribes_per_address_per_hour: Annotated[
        int | None, typer.Option(min=0, help="Subscribe calls for one address on one list.")
    ] = None,
    subscribes_per_list_per_minute: Annotated[
        int | None, typer.Option(min=0, help="Subscribe calls for one list.")
    ] = None,
    confirmation_mails_per_address_per_day: Annotated[
        int | None, typer.Option(min=0, help="Confirmation mails to one address, over all tenants.")
    ] = None,
    anonymous_calls_per_ip_per_minute: Annotated[
        int | None, typer.Option(min=0, help="Calls of one IP address without a token.")
    ] = None,
    calls_per_client_per_minute: Annotated[
        int | None, typer.Option(min=0, help="Calls of one OAuth client with a token.")
    ] = None,
) -> Answer:
    """Set limits; what is left out keeps its value. In force everywhere within five seconds. 0 allows nothing."""
    request = admin_pb2.SetLimitsRequest(
        tenant_id=tenant,
        list_id=list_id,
        limits=admin_pb2.Limits(
            subscribes_per_address_per_hour=subscribes_per_address_per_hour,
            subscribes_per_list_per_minute=subscribes_per_list_per_minute,
            confirmation_mails_per_address_per_day=confirmation_mails_per_address_per_day,
            anonymous_calls_per_ip_per_minute=anonymous_calls_per_ip_per_minute,
            calls_per_client_per_minute=calls_per_client_per_minute,
        ),
    )
    in_force = facts_of(installation.member_center_admin.SetLimits(request).limits)
    return Answer({"limits": in_force}, "\n".join(f"{name}: {value}" for name, value in in_force.items()))
