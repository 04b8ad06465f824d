"""`messmail lists`: makes, changes and lists a tenant's lists."""

from typing import Annotated

import typer

from messmail.member_center.v1 import member_center_admin_pb2 as admin_pb2
from messmail_cli.connection import Installation, administers
from messmail_cli.printing import Answer, facts_of, table

app = typer.Typer(no_args_is_help=True, add_completion=False)

RequireToken = Annotated[
    bool | None,
    typer.Option(
        "--require-token/--no-require-token",
        help="Whether calls that name the list need a token with the scope newsletter:members.write. Not unless set.",
    ),
]
ReturnConfirmToken = Annotated[
    bool | None,
    typer.Option(
        "--return-confirm-token/--no-return-confirm-token",
        help="Whether subscribe answers with a confirm_token. It does unless set.",
    ),
]
AllowOrigin = Annotated[
    list[str] | None,
    typer.Option(
        help="An origin whose pages may call and read the answers (CORS), such as https://shop.example; repeat it for "
        "more. None unless set.",
    ),
]
HoneypotField = Annotated[
    str | None,
    typer.Option(help="A member of the preferences that only a program fills in; empty for none. None unless set."),
]


@app.callback()
def _lists() -> None:
    """Make, change and list a tenant's lists."""


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
    require_token: RequireToken = None,
    return_confirm_token: ReturnConfirmToken = None,
    allow_origin: AllowOrigin = None,
    honeypot_field: HoneypotField = None,
) -> Answer:
    """Make a list. Each call makes one more."""
    request = admin_pb2.CreateListRequest(
        tenant_id=tenant,
        name=name,
        reply_to=reply_to,
        envelope_sender=envelope_sender,
        language=language,
        settings=_settings(require_token, return_confirm_token, allow_origin or None, honeypot_field),
    )
    setattr(request, "from", sender)
    made = installation.member_center_admin.CreateList(request)
    return Answer(facts_of(made), f"Made list {made.list_id}")


@app.command()
@administers
def update(
    installation: Installation,
    list_id: Annotated[str, typer.Argument(metavar="LIST", help="The list's id.")],
    tenant: Annotated[str, typer.Option(help="The tenant's id.")],
    require_token: RequireToken = None,
    return_confirm_token: ReturnConfirmToken = None,
    allow_origin: AllowOrigin = None,
    no_origins: Annotated[bool, typer.Option("--no-origins", help="Allow no origin any more.")] = False,
    honeypot_field: HoneypotField = None,
) -> Answer:
    """Change settings of a list; what is left out keeps its value. In force within five seconds."""
    if no_origins and allow_origin:
        raise typer.BadParameter("name origins or none, not both", param_hint="--no-origins")
    origins = [] if no_origins else allow_origin or None
    request = admin_pb2.UpdateListRequest(
        tenant_id=tenant,
        list_id=list_id,
        settings=_settings(require_token, return_confirm_token, origins, honeypot_field),
    )
    updated = installation.member_center_admin.UpdateList(request).list
    settings = {**facts_of(updated.settings), "allowed_origins": list(updated.settings.allowed_origins.origins)}
    text = "\n".join(f"{name}: {_written(value)}" for name, value in settings.items())
    return Answer({"list": facts_of(updated)}, text)


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


def _settings(
    require_token: bool | None,
    return_confirm_token: bool | None,
    origins: list[str] | None,
    honeypot_field: str | None,
) -> admin_pb2.ListSettings:
    return admin_pb2.ListSettings(
        require_token=require_token,
        return_confirm_token=return_confirm_token,
        allowed_origins=None if origins is None else admin_pb2.AllowedOrigins(origins=origins),
        honeypot_field=honeypot_field,
    )


def _written(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(value) or "none"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value) or "none"
