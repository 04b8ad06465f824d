"""`messmail limits`: sets how much is allowed: requests to Member Center, and mails a second out of Send Engine."""

from enum import StrEnum
from typing import Annotated, Any

import typer

from messmail.member_center.v1 import member_center_admin_pb2 as admin_pb2
from messmail.send_engine.v1 import send_engine_admin_pb2 as send_pb2
from messmail_cli.connection import Installation, administers
from messmail_cli.printing import Answer, facts_of, table

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.callback()
def _limits() -> None:
    """Set limits on requests (set) and on mails a second (set-sending, show-sending)."""


class Scope(StrEnum):
    """What a limit on mails a second is about."""

    TENANT = "tenant"
    ESP_ACCOUNT = "esp-account"
    DOMAIN = "domain"


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
    failed_logins_per_client_and_ip_per_minute: Annotated[
        int | None, typer.Option(min=0, help="Failed authentications of one OAuth client from one IP address.")
    ] = None,
    failed_logins_per_ip_per_minute: Annotated[
        int | None, typer.Option(min=0, help="Failed authentications from one IP address.")
    ] = None,
) -> Answer:
    """Set limits on requests; what is left out keeps its value. In force within five seconds. 0 allows nothing."""
    request = admin_pb2.SetLimitsRequest(
        tenant_id=tenant,
        list_id=list_id,
        limits=admin_pb2.Limits(
            subscribes_per_address_per_hour=subscribes_per_address_per_hour,
            subscribes_per_list_per_minute=subscribes_per_list_per_minute,
            confirmation_mails_per_address_per_day=confirmation_mails_per_address_per_day,
            anonymous_calls_per_ip_per_minute=anonymous_calls_per_ip_per_minute,
            calls_per_client_per_minute=calls_per_client_per_minute,
            failed_logins_per_client_and_ip_per_minute=failed_logins_per_client_and_ip_per_minute,
            failed_logins_per_ip_per_minute=failed_logins_per_ip_per_minute,
        ),
    )
    in_force = facts_of(installation.member_center_admin.SetLimits(request).limits)
    return Answer({"limits": in_force}, "\n".join(f"{name}: {value}" for name, value in in_force.items()))


@app.command("set-sending")
@administers
def set_sending(
    installation: Installation,
    scope: Annotated[Scope, typer.Option(help="What is limited.")],
    mails_per_second: Annotated[float, typer.Option(min=0, help="From 0.01 on; 0 takes the limit away.")],
    tenant: Annotated[str, typer.Option(help="The tenant. Left out: the installation's ESP account.")] = "",
    domain: Annotated[str, typer.Option(help="The recipient domain, for --scope domain.")] = "",
) -> Answer:
    """Limit newsletter mails a second of a tenant, over an ESP account or to a domain. In force within 2 seconds."""
    request = send_pb2.SetSendLimitRequest(
        tenant_id=tenant, scope=_scope(scope), domain=domain, mails_per_second=mails_per_second
    )
    limit = installation.send_engine_admin.SetSendLimit(request).limit
    about = limit.domain or scope.value
    rate = f"{limit.mails_per_second:g} mails a second" if limit.mails_per_second else "no limit"
    return Answer({"limit": _facts(limit)}, f"{about}: {rate}")


@app.command("show-sending")
@administers
def show_sending(
    installation: Installation,
    tenant: Annotated[str, typer.Option(help="The tenant. Left out: the installation's ESP account.")] = "",
) -> Answer:
    """Show the limits on mails a second, and which domains are slowed down at present because they asked for it."""
    limits: list[send_pb2.SendLimit] = []
    page_token = ""
    while True:
        page = installation.send_engine_admin.ListSendLimits(
            send_pb2.ListSendLimitsRequest(tenant_id=tenant, page_token=page_token)
        )
        limits.extend(page.limits)
        page_token = page.next_page_token
        if not page_token:
            break
    facts = [_facts(limit) for limit in limits]
    rows = [
        (limit["scope"], limit["domain"], _rate(limit["mails_per_second"]), _rate(limit["slowed_to"]))
        for limit in facts
    ]
    return Answer(
        {"limits": facts},
        table(("limits", "domain", "mails a second", "slowed down to"), rows) if rows else "None.",
    )


def _scope(scope: Scope) -> send_pb2.SendLimitScope.ValueType:
    return send_pb2.SendLimitScope.Value(f"SEND_LIMIT_SCOPE_{scope.name}")


def _facts(limit: send_pb2.SendLimit) -> dict[str, Any]:
    scope = send_pb2.SendLimitScope.Name(limit.scope).removeprefix("SEND_LIMIT_SCOPE_")
    return facts_of(limit) | {"scope": Scope[scope].value}


def _rate(mails_per_second: float) -> str:
    return f"{mails_per_second:g}" if mails_per_second else ""
