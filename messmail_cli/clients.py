"""`messmail clients`: makes OAuth clients, gives them new secrets, and ends them."""

from enum import StrEnum
from typing import Annotated

import typer

from messmail.member_center.v1 import member_center_admin_pb2 as admin_pb2
from messmail_cli.connection import Installation, administers
from messmail_cli.printing import Answer, facts_of

app = typer.Typer(no_args_is_help=True, add_completion=False)


class Usage(StrEnum):
    """What a client is for, as the contract names it."""

    TENANT_API = "tenant_api"
    WEBHOOK_OUTBOUND = "webhook_outbound"
    INTERNAL = "internal"


@app.callback()
def _clients() -> None:
    """Make, rotate and disable OAuth clients."""


@app.command()
@administers
def create(
    installation: Installation,
    usage: Annotated[Usage, typer.Option(help="A tenant's site, its receiver of webhooks, or an internal caller.")],
    scope: Annotated[
        list[str],
        typer.Option(
            default_factory=list,
            show_default=False,
            help="A scope that its tokens may have; repeat it for more. tenant_api: newsletter:send.write, "
            "newsletter:send.read, newsletter:members.write. "
            "internal: internal:send, internal:feed, internal:gateway, internal:admin.",
        ),
    ],
    tenant: Annotated[str, typer.Option(help="The tenant's id. Left out for internal clients.")] = "",
    name: Annotated[str, typer.Option(help="A name for the operator.")] = "",
) -> Answer:
    """Make a client. Its secret is shown only now."""
    made = installation.member_center_admin.CreateClient(
        admin_pb2.CreateClientRequest(
            tenant_id=tenant,
            usage=admin_pb2.ClientUsage.Value(f"CLIENT_USAGE_{usage.name}"),
            scopes=scope,
            name=name,
        )
    )
    return Answer(facts_of(made), _shown_once(made))


@app.command()
@administers
def rotate(installation: Installation, client: Annotated[str, typer.Argument(help="The client's id.")]) -> Answer:
    """Give a client a new secret, shown only now. The one before keeps working until the next rotation."""
    rotated = installation.member_center_admin.RotateClientSecret(admin_pb2.RotateClientSecretRequest(client_id=client))
    return Answer(facts_of(rotated), _shown_once(rotated))


@app.command()
@administers
def disable(installation: Installation, client: Annotated[str, typer.Argument(help="The client's id.")]) -> Answer:
    """End a client: it gets no more tokens, and those it has are refused within seconds."""
    ended = installation.member_center_admin.DisableClient(admin_pb2.DisableClientRequest(client_id=client))
    return Answer(facts_of(ended), f"Client {client} ended at {ended.disabled_at.ToJsonString()}")


def _shown_once(made: admin_pb2.CreateClientResponse | admin_pb2.RotateClientSecretResponse) -> str:
    return (
        f"client_id:     {made.client_id}\n"
        f"client_secret: {made.client_secret}\n"
        "The secret is not shown again: keep it safe now."
    )
