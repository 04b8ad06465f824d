"""Claims A11, L6 and T6: a secret is shown once and is nowhere afterwards: in no dump, log, broker or error.

So it is with the sealed links of answers and of mails.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
from collections.abc import Iterator
from email import message_from_bytes
from pathlib import Path
from urllib.parse import quote

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from messmail.audit.v1 import audit_pb2
from messmail.send_engine.v1 import send_engine_admin_pb2 as send_pb
from tests.claims_table import ClaimRow, hand_in_claim
from tests.issuer_key import forger_of_stack
from tests.recount import Ledger
from tests.remains import DATABASES, everything_written
from tests.stack import Client, Newsletter, Stack, link_token, unique_address, wait_until

pytestmark = pytest.mark.timeout(300)

PASSWORD = "a-word-of-the-relay-that-nobody-else-knows"


@pytest.mark.claim("A11", "processes that hold secrets: no core file of them", run=4)
def test_a11_no_process_leaves_a_core_file(stack: Stack) -> None:
    for part in ("member-center", "send-engine", "gateway", "worker"):
        pids = stack.pids(part)
        assert pids
        for pid in pids:
            limits = Path(f"/proc/{pid}/limits").read_text(encoding="ascii").splitlines()
            (core,) = (line.split() for line in limits if line.startswith("Max core file size"))
            assert core[4:6] == ["0", "0"]


def dump(stack: Stack) -> Iterator[tuple[str, str]]:
    """Yields the text of every row of every table of both databases, whoever's it is, and the table's name."""
    ledger = Ledger(stack)
    for database in DATABASES:
        tables = ledger.rows(
            "SELECT quote_ident(relname) FROM pg_class WHERE relnamespace = 'public'::regnamespace "
            "AND relkind IN ('r', 'S', 'm')",
            database=database,
        )
        assert len(tables) > 10
        for (table,) in tables:
            for (row,) in ledger.rows(f"SELECT t::text FROM {table} t", database=database):
                yield f"{database}.{table}", row


def forms_of(secret: bytes) -> Iterator[str]:
    """Yields a secret as text and bytes could hold it: as it is, in hexadecimal and in base64 at any offset."""
    if secret.isascii():
        yield secret.decode()
    yield secret.hex()
    for offset in range(3):
        for encoded in (base64.b64encode, base64.urlsafe_b64encode):
            # Whatever stands before it, these characters of its base64 depend on nothing else.
            yield encoded(bytes(offset) + secret)[4:-4].decode()


def links_of_mails(stack: Stack, newsletter: Newsletter, confirming: str) -> dict[str, bytes]:
    """Has a newsletter sent; returns the tokens of its links and of the confirmation mail that somebody gets."""
    reader, token = unique_address(), stack.access_token(newsletter.client)
    stack.import_members(newsletter, [reader])
    body = {"list_id": newsletter.list_id, "subject": "Weekly", "body_text": "{{ preferences_url }}", "template": True}
    stack.wait_for_job(stack.site.post_json("/api/send-jobs", body, token).answer["id"], token)
    mail = stack.mailbox.wait_for(reader)
    texts = {
        "a one-click link": str(message_from_bytes(stack.mailbox.raw(mail))["List-Unsubscribe"]),
        "a preferences link": stack.mailbox.content(mail)["Text"],
        "a mailed confirm link": stack.mailbox.content(stack.mailbox.wait_for(confirming))["Text"],
    }
    return {name: link_token(text).encode() for name, text in texts.items()}


def test_a11_l6_t6_no_secret_is_in_a_dump_a_log_or_an_answer(
    stack: Stack, tmp_path: Path, record_property: object
) -> None:
    newsletter = stack.make_newsletter()
    client = newsletter.client
    rotated = stack.messmail("clients", "rotate", client.client_id)["client_secret"]
    second = Client(client.client_id, rotated)
    # Two live while one rotates.
    tokens = [stack.access_token(one) for one in (client, second)]
    person = {"list_id": newsletter.list_id, "email": unique_address()}
    subscribed = stack.site.post_json("/newsletter/subscribe", person)
    asked = stack.site.post_json("/newsletter/unsubscribe-token", person)
    links = links_of_mails(stack, newsletter, person["email"]) | {
        "a confirm token": subscribed.answer["confirm_token"].encode(),
        "an unsubscribe token": asked.answer["unsubscribe_token"].encode(),
    }
    stack.operator.send_engine_admin.SetEspAccount(
        send_pb.SetEspAccountRequest(
            tenant_id=newsletter.tenant_id, smtp_url=f"smtps://user:{quote(PASSWORD)}@relay.example:465"
        )
    )
    key = forger_of_stack(stack, tokens[0]).key
    secrets: dict[str, bytes] = links | {
        "the first client secret": client.client_secret.encode(),
        "the second client secret": rotated.encode(),
        "an access token": tokens[0].encode(),
        "another access token": tokens[1].encode(),
        "a relay's password": PASSWORD.encode(),
        "the key that signs": key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
        "the number of the key that signs": key.private_numbers().private_value.to_bytes(32, "big"),
    }
    for client_file in json.loads((stack.data_dir / "secrets/credentials").read_text()).values():
        secrets[f"the secret of {client_file['client_id']}"] = client_file["client_secret"].encode()
    for service in DATABASES:
        for name in (f"{service}-master-keys", f"{service}_app-password"):
            secrets[name] = (stack.data_dir / "secrets" / name).read_text().strip().encode()
    refusals = [
        stack.site.post_form("/oauth/token", {"grant_type": "x", "client_id": "x", "client_secret": rotated}).answer,
        stack.site.post_form("/oauth/revoke", {"client_id": client.client_id, "client_secret": f"{rotated}x"}).answer,
        stack.site.get(f"/api/send-jobs/{tokens[0]}", tokens[0]).answer,
        stack.site.get(f"/newsletter/confirm?token={subscribed.answer['confirm_token']}x").answer,
        stack.site.get("/api/send-jobs", f"{tokens[0]}x").answer,
        stack.run_command("clients", "rotate", rotated).stderr,
    ]
    # What is recorded is written before long.
    newest = audit_pb2.ListAuditEventsRequest(page_size=10)

    def is_refusal_logged() -> bool:
        logged = stack.operator.send_engine_audit.ListAuditEvents(newest).events
        return any(event.event == "call_refused" for event in logged)

    wait_until(is_refusal_logged, "the audit log")
    sought = {form: name for name, secret in secrets.items() for form in forms_of(secret)}
    assert all(len(form) >= 16 for form in sought)
    found: list[str] = []
    rows = 0
    for table, row in dump(stack):
        rows += 1
        found += [f"{name} in {table}" for form, name in sought.items() if form in row]
    for place, content in everything_written(stack, tmp_path):
        found += [f"{name} in {place}" for form, name in sought.items() if form.encode() in content]
    for number, told in enumerate(map(json.dumps, refusals)):
        found += [f"{name} in refusal {number}" for form, name in sought.items() if form in told]
    assert found == []
    assert rows > 20
    hand_in_claim(
        record_property, ClaimRow("A11", "secrets looked for in all that is written or told", 0, len(secrets), 0)
    )
    hand_in_claim(record_property, ClaimRow("L6", "rows of a dump without a secret", 0, rows, 0))
    hand_in_claim(record_property, ClaimRow("T6", "kinds of links looked for in dump and logs", 5, len(links), 0))


def test_a11_the_dump_would_show_a_secret_that_is_stored_as_it_is(stack: Stack) -> None:
    # The search finds what it is to find: the hash of a secret, which is stored, as bytes.
    client = stack.make_newsletter().client
    hashed = hashlib.sha256(client.client_secret.encode()).digest()
    assert any(form in row for (_, row), form in itertools.product(list(dump(stack)), forms_of(hashed)))
