"""`messmail lists`: makes and lists a tenant's lists."""

from typing import Annotated

import typer

from messmail.member_center.v1 import member_center_admin_pb2 as admin_pb2
from messmail_cli.connection import Installation, administers
from messmail_cli.printing import Answer, facts_of, table

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.callback()
def _lists() -> None:
    """Make and list a tenant's lists."""


@app.command()
@administers
def create(
    installation: Installation,
    tenant: Annotated[str, typer.Option(help="The tenant's id.")],
    name: Annotated[str, typer.Option(help="The list's name, as people see it.")],
    sender: Annotated[
        str, typer.Option("--from", help='The From of its mails, for example "Acme <news@acme.example>".')
    ],
    reply_to: Annotated[str, typer.Option(help="Where answers go. Left out: the From address.")] = "",
    envelope_sender: Annotated[str, typer.Option(help="Where bounces go. Left out: the From address.")] = "",
    language: Annotated[str, typer.Option(help='For people who chose none: "zh-TW" or "en". Left out: zh-TW.')] = "",
) -> Answer:
    """Make a list. Each call makes one more."""
    request = admin_pb2.CreateListRequest(
        tenant_id=tenant, name=name, reply_to=reply_to, envelope_sender=envelope_sender, language=language
    )
    setattr(request, "from", sender)
    made = installation.member_center_admin.CreateList(request)
    return Answer(facts_of(made), f"Made list {made.list_id}")


@app.command("list")
@administers
def show_all(installation: Installation, tenant: Annotated[str, typer.Option(help="The tenant's id.")]) -> Answer:
    """List the lists of a tenant, oldest first."""
    lists: list[admin_pb2.NewsletterList] = []
    page_token = ""
    while True:
        request = admin_pb2.ListListsRequest(tenant_id=tenant, page_token=page_token)
        page = installation.member_center_admin.ListLists(request)
        lists.extend(page.lists)
        page_token = page.next_page_token
        if not page_token:
            break
    rows = [(one.list_id, one.name, getattr(one, "from"), one.language) for one in lists]
    return Answer(
        {"lists": [facts_of(one) for one in lists]},
        table(("list", "name", "from", "language"), rows) if rows else "None yet.",
    )
