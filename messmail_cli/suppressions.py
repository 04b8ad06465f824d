"""`messmail suppressions`: addresses that a tenant must not mail."""

from enum import StrEnum
from typing import Annotated

import typer

from messmail.member_center.v1 import member_center_people_pb2 as people_pb2
from messmail_cli.connection import Installation, administers
from messmail_cli.printing import Answer, facts_of, table

app = typer.Typer(no_args_is_help=True, add_completion=False)

_SCOPE_PREFIX, _REASON_PREFIX = "SUPPRESSION_SCOPE_", "SUPPRESSION_REASON_"


class Scope(StrEnum):
    """What a suppression stops, as the contract names it."""

    NEWSLETTER = "newsletter"
    EVERYTHING = "everything"


class Reason(StrEnum):
    """Why an operator suppresses an address, as the contract names it."""

    MANUAL = "manual"
    COMPLAINT = "complaint"
    BOUNCED = "bounced"


@app.callback()
def _suppressions() -> None:
    """Suppress addresses, list suppressions and lift them."""


@app.command()
@administers
def add(
    installation: Installation,
    tenant: Annotated[str, typer.Option(help="The tenant's id.")],
    email: Annotated[str, typer.Option(help="The address. Only a keyed hash of it is kept.")],
    list_id: Annotated[str, typer.Option("--list", help="The list's id. Left out: all lists of the tenant.")] = "",
    scope: Annotated[
        Scope, typer.Option(help="Stop newsletters, or everything: confirmation mails too.")
    ] = Scope.NEWSLETTER,
    reason: Annotated[Reason, typer.Option(help="Why.")] = Reason.MANUAL,
) -> Answer:
    """Suppress an address. No job mails it from now on, and no import brings it back."""
    added = installation.member_center_admin.AddSuppression(
        people_pb2.AddSuppressionRequest(
            tenant_id=tenant,
            email=email,
            list_id=list_id,
            scope=people_pb2.SuppressionScope.Value(f"{_SCOPE_PREFIX}{scope.name}"),
            reason=people_pb2.SuppressionReason.Value(f"{_REASON_PREFIX}{reason.name}"),
        )
    ).suppression
    return Answer(suppression_facts(added), f"Made suppression {added.suppression_id}")


@app.command("list")
@administers
def show_all(
    installation: Installation,
    tenant: Annotated[str, typer.Option(help="The tenant's id.")],
    email: Annotated[str, typer.Option(help="The address whose suppressions to list. Left out: all.")] = "",
) -> Answer:
    """List the suppressions of a tenant or of one address, oldest first."""
    found: list[dict[str, object]] = []
    request = people_pb2.ListSuppressionsRequest(tenant_id=tenant, email=email, page_size=1000)
    while True:
        page = installation.member_center_admin.ListSuppressions(request)
        found.extend(suppression_facts(one) for one in page.suppressions)
        request.page_token = page.next_page_token
        if not request.page_token:
            break
    columns = ("suppression_id", "list_id", "scope", "reason", "created_at")
    rows = [tuple(str(one[column]) or "all" for column in columns) for one in found]
    heads = ("suppression", "list", "scope", "reason", "made at")
    return Answer({"suppressions": found}, table(heads, rows) if rows else "None.")


@app.command()
@administers
def remove(
    installation: Installation,
    suppression: Annotated[str, typer.Argument(help="The suppression's id, as `list` shows it.")],
    tenant: Annotated[str, typer.Option(help="The tenant's id.")],
) -> Answer:
    """Lift a suppression."""
    installation.member_center_admin.RemoveSuppression(
        people_pb2.RemoveSuppressionRequest(tenant_id=tenant, suppression_id=suppression)
    )
    return Answer({"suppression_id": suppression}, f"Suppression {suppression} is lifted")


def suppression_facts(found: people_pb2.Suppression) -> dict[str, object]:
    """Turns a suppression into facts, with its enums as lower-case words."""
    return facts_of(found) | {
        "scope": people_pb2.SuppressionScope.Name(found.scope).removeprefix(_SCOPE_PREFIX).lower(),
        "reason": people_pb2.SuppressionReason.Name(found.reason).removeprefix(_REASON_PREFIX).lower(),
    }
