"""`messmail people`: all that both services know of one person, shown or erased in one call; and complaints."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from messmail.member_center.v1 import member_center_pb2
from messmail.member_center.v1 import member_center_people_pb2 as people_pb2
from messmail.send_engine.v1 import send_engine_admin_pb2
from messmail_cli.connection import Installation, administers
from messmail_cli.printing import Answer, facts_of
from messmail_cli.suppressions import suppression_facts

app = typer.Typer(no_args_is_help=True, add_completion=False)

# Send Engine reads through all deliveries of the tenant.
_LEDGER_SECONDS: Final = 600.0
_Tenant = Annotated[str, typer.Option(help="The tenant's id.")]
_Email = Annotated[str, typer.Option(help="The person's address.")]
_List = Annotated[str, typer.Option("--list", help="The list's id.")]


@app.callback()
def _people() -> None:
    """Show or erase all that is known of a person; record and lift complaints."""


@app.command()
@administers
def export(
    installation: Installation,
    tenant: _Tenant,
    email: _Email,
    output: Annotated[
        Path | None, typer.Option(help="Write it to this file, which only its owner may read. Left out: show it.")
    ] = None,
) -> Answer:
    """Show all that is known of a person: subscriptions, consent log, mails and what became of them."""
    person = _person(installation, tenant, email)
    facts = facts_of(person) | {
        "subscriptions": [_subscription_facts(one) for one in person.subscriptions],
        "suppressions": [suppression_facts(one) for one in person.suppressions],
        "deliveries": [],
    }
    if ids := _ids_of(person):
        request = send_engine_admin_pb2.ExportRecipientRequest(tenant_id=tenant, subscription_ids=ids)
        found = installation.send_engine_admin.ExportRecipient(request, timeout=_LEDGER_SECONDS)
        facts["deliveries"] = [facts_of(one) for one in found.deliveries]
    if output is None:
        return Answer(facts, json.dumps(facts, ensure_ascii=False, indent=2))
    with os.fdopen(os.open(output, os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="utf-8") as file:
        # A file that was there before is nobody else's to read from now on, either.
        os.fchmod(file.fileno(), 0o600)
        file.truncate()
        json.dump(facts, file, ensure_ascii=False, indent=2)
    return Answer({"file": str(output)}, f"Wrote {output}")


@app.command()
@administers
def erase(installation: Installation, tenant: _Tenant, email: _Email) -> Answer:
    """Erase a person from both services. A keyed hash stays, so that no import brings the person back.

    Repeating it is safe, also after it has failed half-way.
    """
    ids = _ids_of(_person(installation, tenant, email))
    # The ledger first: once Member Center has forgotten the person, nobody knows the ids. And once more for what was
    # recorded in between: when Member Center has answered, no further mail to the person begins.
    deliveries = _disown(installation, tenant, ids)
    request = people_pb2.ErasePersonRequest(tenant_id=tenant, email=email)
    erased = list(installation.member_center_admin.ErasePerson(request).subscription_ids)
    deliveries += _disown(installation, tenant, erased)
    facts = {"subscriptions": len(erased), "deliveries": deliveries}
    return Answer(facts, f"Erased {len(erased)} subscriptions; {deliveries} deliveries are nobody's now")


@app.command()
@administers
def complain(
    installation: Installation,
    tenant: _Tenant,
    list_id: _List,
    email: _Email,
    evidence: Annotated[str, typer.Option(help="How it became known; kept in the consent log.")] = "",
) -> Answer:
    """Record that a person reported a mail as unwanted. Only `pardon` opens the list to them again."""
    request = people_pb2.RecordComplaintRequest(tenant_id=tenant, list_id=list_id, email=email, evidence=evidence)
    return _state(installation.member_center_admin.RecordComplaint(request).status)


@app.command()
@administers
def pardon(
    installation: Installation,
    tenant: _Tenant,
    list_id: _List,
    email: _Email,
    evidence: Annotated[str, typer.Option(help="Why; kept in the consent log.")],
) -> Answer:
    """Lift a complaint. The person is unsubscribed then, and may subscribe again by the link of a mail."""
    request = people_pb2.LiftComplaintRequest(tenant_id=tenant, list_id=list_id, email=email, evidence=evidence)
    return _state(installation.member_center_admin.LiftComplaint(request).status)


def _person(installation: Installation, tenant: str, email: str) -> people_pb2.ExportPersonResponse:
    request = people_pb2.ExportPersonRequest(tenant_id=tenant, email=email)
    return installation.member_center_admin.ExportPerson(request)


def _ids_of(person: people_pb2.ExportPersonResponse) -> list[str]:
    return [one.subscription_id for one in person.subscriptions]


def _disown(installation: Installation, tenant: str, ids: Sequence[str]) -> int:
    if not ids:
        return 0
    request = send_engine_admin_pb2.EraseRecipientRequest(tenant_id=tenant, subscription_ids=ids)
    return int(installation.send_engine_admin.EraseRecipient(request, timeout=_LEDGER_SECONDS).erased)


def _subscription_facts(known: people_pb2.PersonSubscription) -> dict[str, Any]:
    log = [facts_of(line) | {"status": _status_word(line.status)} for line in known.consent_log]
    return facts_of(known) | {"status": _status_word(known.status), "consent_log": log}


def _state(status: member_center_pb2.SubscriptionStatus.ValueType) -> Answer:
    return Answer({"status": _status_word(status)}, _status_word(status))


def _status_word(status: member_center_pb2.SubscriptionStatus.ValueType) -> str:
    return member_center_pb2.SubscriptionStatus.Name(status).removeprefix("SUBSCRIPTION_STATUS_").lower()
