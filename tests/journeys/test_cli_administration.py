"""The command line administers a running installation: what it says, and what it does."""

import csv
import json
import re
from pathlib import Path

import jwt
import pytest

from tests.stack import Client, Newsletter, Stack, unique_address, wait_until

pytestmark = pytest.mark.timeout(240)

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
NOBODY = "00000000-0000-4000-8000-000000000000"


def test_a_tenant_site_is_set_up_with_three_commands(stack: Stack) -> None:
    tenant = stack.messmail("tenants", "create", "--name", "Acme 書店")["tenant_id"]
    assert {"tenant_id": tenant, "name": "Acme 書店"}.items() <= stack.messmail("tenants", "list")["tenants"][
        -1
    ].items()
    made = stack.messmail(
        *("lists", "create", "--tenant", tenant, "--name", "Weekly", "--from", "Acme <news@acme.example>"),
        *("--reply-to", "desk@acme.example", "--language", "en"),
    )
    [shown] = stack.messmail("lists", "list", "--tenant", tenant)["lists"]
    assert shown["list_id"] == made["list_id"]
    assert (shown["from"], shown["reply_to"]) == ("Acme <news@acme.example>", "desk@acme.example")
    client = stack.messmail(
        *("clients", "create", "--tenant", tenant, "--usage", "tenant_api"),
        *("--scope", "newsletter:send.write", "--scope", "newsletter:send.read"),
    )
    assert set(client) == {"client_id", "client_secret"}
    token = stack.access_token(Client(client["client_id"], client["client_secret"]))
    job = stack.site.post_json(
        "/api/send-jobs", {"list_id": made["list_id"], "subject": "First", "body_text": "Hello"}, token
    )
    assert (job.status, job.answer["tenant_id"]) == (201, tenant)


def test_an_operator_changes_what_a_list_asks_of_its_callers(stack: Stack) -> None:
    tenant = stack.make_tenant()
    made = stack.messmail(
        *("lists", "create", "--tenant", tenant, "--name", "Weekly", "--from", "Acme <news@acme.example>"),
        *(
            "--no-return-confirm-token",
            "--allow-origin",
            "https://shop.example",
            "--allow-origin",
            "http://localhost:3000",
        ),
    )["list_id"]
    origins = {"origins": ["https://shop.example", "http://localhost:3000"]}
    as_made = {"require_token": False, "return_confirm_token": False, "allowed_origins": origins, "honeypot_field": ""}
    [shown] = stack.messmail("lists", "list", "--tenant", tenant)["lists"]
    assert shown["settings"] == as_made
    update = ("lists", "update", "--tenant", tenant, made)
    changed = stack.messmail(*update, "--require-token", "--honeypot-field", "website")["list"]
    assert changed["settings"] == {**as_made, "require_token": True, "honeypot_field": "website"}
    said = stack.run_command(*update, "--no-require-token", "--return-confirm-token", "--no-origins")
    assert said.stdout.splitlines() == [
        "require_token: no",
        "return_confirm_token: yes",
        "allowed_origins: none",
        "honeypot_field: website",
    ]
    assert stack.messmail(*update, "--honeypot-field", "")["list"]["settings"]["honeypot_field"] == ""
    wrong = stack.run_command(*update, "--allow-origin", "https://shop.example/")
    assert wrong.returncode != 0 and "settings.allowed_origins.origins[0]" in wrong.stderr
    assert stack.run_command(*update, "--no-origins", "--allow-origin", "https://shop.example").returncode == 2


def test_an_operator_steers_a_job_and_exports_what_became_of_each_mail(stack: Stack, tmp_path: Path) -> None:
    newsletter = stack.make_newsletter()
    readers = [unique_address(f"reader{number}") for number in range(3)]
    stack.import_members(newsletter, readers)
    token = stack.access_token(newsletter.client)
    body = {"list_id": newsletter.list_id, "subject": "Steered", "body_text": "Hello"}
    job = stack.site.post_json("/api/send-jobs", body, token).answer["id"]
    stack.wait_for_job(job, token)
    of_job = ("--tenant", newsletter.tenant_id, job)

    listed = stack.messmail("jobs", "deliveries", *of_job)["deliveries"]
    assert [(one["state"], one["attempts"]) for one in listed] == [("sent", 1)] * 3
    assert stack.messmail("jobs", "deliveries", "--state", "failed", *of_job) == {"deliveries": []}
    file = tmp_path / "deliveries.csv"
    assert stack.messmail("jobs", "deliveries", "--csv", str(file), *of_job) == {"written": 3, "file": str(file)}
    with file.open(newline="") as opened:
        written = list(csv.DictReader(opened))
    assert {one["delivery_id"] for one in written} == {one["delivery_id"] for one in listed}
    assert written[0].keys() == listed[0].keys()
    assert not any(reader in file.read_text() for reader in readers)

    assert stack.messmail("jobs", "retry", "--state", "failed", *of_job)["status"] == "completed"
    assert stack.messmail("jobs", "resolve", "--outcome", "sent", "--all", *of_job)["resolved"] == 0

    later = stack.site.post_json("/api/send-jobs", body | {"scheduled_at": "2099-01-01T00:00:00Z"}, token).answer["id"]
    of_later = ("--tenant", newsletter.tenant_id, later)
    for verb in ("pause", "resume"):
        assert "SEND_JOB_WRONG_STATE" in stack.run_command("jobs", verb, *of_later).stderr
    assert stack.messmail("jobs", "cancel", *of_later)["status"] == "cancelled"


def test_a_rotated_secret_works_beside_the_one_before_and_a_disabled_client_ends(stack: Stack) -> None:
    first = stack.make_newsletter().client
    rotated = stack.messmail("clients", "rotate", first.client_id)
    assert rotated["client_id"] == first.client_id
    second = Client(first.client_id, rotated["client_secret"])
    assert stack.access_token(first)
    assert stack.access_token(second)
    assert stack.messmail("clients", "disable", first.client_id)["disabled_at"]
    for client in (first, second):
        refused = stack.site.post_form(
            "/oauth/token",
            {
                "grant_type": "client_credentials",
                "client_id": client.client_id,
                "client_secret": client.client_secret,
            },
        )
        assert (refused.status, refused.answer["error"]) == (401, "invalid_client")
    ended = stack.run_command("clients", "rotate", first.client_id)
    assert (ended.returncode, "CLIENT_NOT_FOUND" in ended.stderr) == (1, True)


def test_a_client_for_webhooks_gets_no_token(stack: Stack) -> None:
    made = stack.messmail("clients", "create", "--tenant", stack.make_tenant(), "--usage", "webhook_outbound")
    refused = stack.site.post_form("/oauth/token", {"grant_type": "client_credentials"} | made)
    assert (refused.status, refused.answer["error"]) == (400, "unauthorized_client")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("lists", "list", "--tenant", NOBODY), "TENANT_NOT_FOUND"),
        (("lists", "create", "--tenant", NOBODY, "--name", "x", "--from", "a@acme.example"), "TENANT_NOT_FOUND"),
        (("lists", "list", "--tenant", "acme"), "INVALID_FIELD"),
        (("tenants", "create", "--name", ""), "INVALID_FIELD"),
        (("clients", "rotate", NOBODY), "CLIENT_NOT_FOUND"),
        (("clients", "create", "--usage", "internal", "--scope", "everything"), "SCOPE_INVALID"),
        (("jobs", "show", "--tenant", NOBODY, NOBODY), "SEND_JOB_NOT_FOUND"),
        (("jobs", "watch", "--tenant", NOBODY, NOBODY), "SEND_JOB_NOT_FOUND"),
        (("jobs", "cancel", "--tenant", NOBODY, NOBODY), "SEND_JOB_NOT_FOUND"),
    ],
)
def test_a_refusal_is_one_line_with_reason_and_request_id(
    stack: Stack, arguments: tuple[str, ...], reason: str
) -> None:
    ended = stack.run_command(*arguments, "--json")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith(f"messmail: {reason}: ")
    assert ended.stderr.count("\n") == 1
    assert UUID.search(ended.stderr.partition("(request ")[2])


def test_a_wrong_credential_is_named(stack: Stack) -> None:
    ended = stack.run_command("tenants", "list", "--client-secret", "wrong")
    assert ended.returncode == 1
    assert "CLIENT_AUTHENTICATION_FAILED" in ended.stderr
    assert "MESSMAIL_CLIENT_SECRET" in ended.stderr


def import_file(stack: Stack, newsletter: Newsletter, file: Path, *options: str) -> dict[str, object]:
    target = ("--tenant", newsletter.tenant_id, "--list", newsletter.list_id)
    return stack.messmail("members", "import", *target, str(file), *options)


def test_an_import_takes_the_good_rows_and_writes_the_bad_ones_down(stack: Stack, tmp_path: Path) -> None:
    newsletter = stack.make_newsletter()
    good = [unique_address() for _ in range(1500)]
    file = tmp_path / "members.csv"
    with file.open("w", newline="", encoding="utf-8") as stream:
        rows = csv.writer(stream)
        rows.writerow(("email", "preferences"))
        rows.writerows((email, json.dumps({"lang": "en"})) for email in good)
        rows.writerow(("nobody", ""))
        rows.writerow((unique_address(), "{broken"))
    proven = ("--confirmed", "--evidence", "Signed up at the till")

    first = import_file(stack, newsletter, file, *proven)
    rejects = tmp_path / "members.rejected.csv"
    assert first == {"imported": 1500, "skipped": 0, "rejected": 2, "rejects_file": str(rejects)}
    assert rejects.stat().st_mode & 0o777 == 0o600
    with rejects.open(newline="", encoding="utf-8") as stream:
        bad = list(csv.DictReader(stream))
    assert sorted((row["line"], row["email"] == "nobody") for row in bad) == [("1502", True), ("1503", False)]
    assert all(row["problem"] for row in bad)

    again = import_file(stack, newsletter, file, *proven, "--rejects", str(tmp_path / "again.csv"))
    assert (again["imported"], again["skipped"], again["rejected"]) == (0, 1500, 2)

    token = stack.access_token(newsletter.client)
    made = stack.site.post_json(
        "/api/send-jobs", {"list_id": newsletter.list_id, "subject": "To all", "body_text": "Hello"}, token
    )
    assert stack.wait_for_job(made.answer["id"], token)["counters"]["sent"] == 1500


def test_an_import_never_resurrects_somebody_who_left(stack: Stack, tmp_path: Path) -> None:
    newsletter = stack.make_newsletter()
    leaver = unique_address()
    stack.import_members(newsletter, [leaver])
    asked = stack.site.post_json("/newsletter/unsubscribe-token", {"list_id": newsletter.list_id, "email": leaver})
    left = stack.site.post_json("/newsletter/unsubscribe", {"token": asked.answer["unsubscribe_token"]})
    assert left.answer["status"] == "unsubscribed"
    file = tmp_path / "members.csv"
    file.write_text(f"email\n{leaver}\n")
    answer = import_file(stack, newsletter, file, "--confirmed", "--evidence", "again")
    assert answer == {"imported": 0, "skipped": 1, "rejected": 0}


def test_people_imported_without_proof_are_asked_first(stack: Stack, tmp_path: Path) -> None:
    newsletter = stack.make_newsletter()
    asked = unique_address()
    file = tmp_path / "members.csv"
    file.write_text(f"email\n{asked}\n")
    assert import_file(stack, newsletter, file) == {"imported": 1, "skipped": 0, "rejected": 0}
    assert "/newsletter/confirm?token=" in stack.mailbox.content(stack.mailbox.wait_for(asked))["Text"]


@pytest.mark.parametrize(
    ("options", "told"),
    [(["--confirmed"], "--evidence"), (["--evidence", "a form"], "--confirmed"), (["--rejects", "FILE"], "--rejects")],
)
def test_options_that_contradict_each_other_are_refused_before_anything_is_sent(
    stack: Stack, tmp_path: Path, options: list[str], told: str
) -> None:
    file = tmp_path / "members.csv"
    file.write_text("email\nnobody\n")
    given = [str(file) if option == "FILE" else option for option in options]
    ended = stack.run_command("members", "import", "--tenant", NOBODY, "--list", NOBODY, str(file), *given)
    assert ended.returncode == 2
    assert told in ended.stderr
    assert file.read_text() == "email\nnobody\n"


def test_a_job_is_shown_watched_and_cancelled(stack: Stack) -> None:
    newsletter = stack.make_newsletter()
    stack.import_members(newsletter, [unique_address() for _ in range(20)])
    token = stack.access_token(newsletter.client)
    body = {"list_id": newsletter.list_id, "subject": "Now", "body_text": "Hello"}
    made = stack.site.post_json("/api/send-jobs", body, token).answer["id"]
    of_tenant = ("--tenant", newsletter.tenant_id)
    watched = stack.messmail("jobs", "watch", *of_tenant, made)
    assert (watched["status"], watched["counters"]["sent"]) == ("completed", 20)
    assert stack.messmail("jobs", "show", *of_tenant, made) == watched
    finished = stack.run_command("jobs", "cancel", *of_tenant, made)
    assert finished.returncode == 1
    assert "SEND_JOB_FINISHED" in finished.stderr

    later = stack.site.post_json("/api/send-jobs", body | {"scheduled_at": "2099-01-01T00:00:00Z"}, token).answer["id"]
    cancelled = stack.messmail("jobs", "cancel", *of_tenant, later)
    assert (cancelled["status"], cancelled["sent"]) == ("cancelled", 0)
    assert stack.messmail("jobs", "watch", *of_tenant, later, status=1)["status"] == "cancelled"


def test_after_a_rotation_of_keys_old_tokens_and_links_stay_good(stack: Stack) -> None:
    newsletter = stack.make_newsletter()
    token = stack.access_token(newsletter.client)
    asked = stack.site.post_json(
        "/newsletter/subscribe", {"list_id": newsletter.list_id, "email": unique_address()}
    ).answer

    def listed() -> set[str]:
        return {key["kid"] for key in stack.site.get("/.well-known/jwks.json").answer["keys"]}

    before = listed()
    rotated = stack.messmail("keys", "rotate")
    assert rotated["links"]
    [kid] = rotated["signing"]
    wait_until(lambda: kid in listed(), "the new key to be listed")
    assert before <= listed()
    fresh = wait_until(lambda: token_signed_by(kid, stack, newsletter.client), "the new key to sign")
    for one in (token, fresh):
        assert stack.site.get("/api/send-jobs", one).status == 200
    confirmed = stack.site.post_json("/newsletter/confirm", {"token": asked["confirm_token"]})
    assert (confirmed.status, confirmed.answer["status"]) == (200, "confirmed")


def token_signed_by(kid: str, stack: Stack, client: Client) -> str | None:
    token = stack.access_token(client)
    return token if jwt.get_unverified_header(token)["kid"] == kid else None


def test_a_limit_of_one_list_is_set_and_shown(stack: Stack) -> None:
    newsletter = stack.make_newsletter()
    of_list = ("--tenant", newsletter.tenant_id, "--list", newsletter.list_id)
    limits = stack.messmail("limits", "set", *of_list, "--subscribes-per-address-per-hour", "1")["limits"]
    assert limits["subscribes_per_address_per_hour"] == 1
    assert limits["subscribes_per_list_per_minute"] == 6000


def test_limits_on_mails_a_second_are_set_shown_and_taken_away(stack: Stack) -> None:
    tenant = ("--tenant", stack.make_tenant())
    change = ("limits", "set-sending", *tenant, "--scope")
    stack.messmail(*change, "tenant", "--mails-per-second", "50")
    stack.messmail(*change, "domain", "--domain", "Mail.Example", "--mails-per-second", "2.5")
    limits = stack.messmail("limits", "show-sending", *tenant)["limits"]
    assert [(one["scope"], one["domain"], one["mails_per_second"]) for one in limits] == [
        ("domain", "mail.example", 2.5),
        ("tenant", "", 50.0),
    ]
    assert "mail.example" in stack.run_command("limits", "show-sending", *tenant).stdout
    stack.messmail(*change, "tenant", "--mails-per-second", "0")
    assert len(stack.messmail("limits", "show-sending", *tenant)["limits"]) == 1
    refused = stack.run_command(*change, "domain", "--mails-per-second", "1")
    assert refused.returncode == 1
    assert "domain" in refused.stderr


def test_suppressions_are_made_listed_and_lifted(stack: Stack) -> None:
    newsletter, email = stack.make_newsletter(), unique_address()
    of_tenant = ("--tenant", newsletter.tenant_id)
    stack.import_members(newsletter, [email])
    made = stack.messmail("suppressions", "add", *of_tenant, "--email", email, "--reason", "bounced")
    assert (made["list_id"], made["scope"], made["reason"]) == ("", "newsletter", "bounced")
    assert stack.messmail("suppressions", "list", *of_tenant, "--email", email)["suppressions"] == [made]
    shown = stack.run_command("suppressions", "list", *of_tenant).stdout
    assert made["suppression_id"] in shown
    assert email not in shown

    token = stack.access_token(newsletter.client)
    body = {"list_id": newsletter.list_id, "subject": "To nobody", "body_text": "Hello"}
    job = stack.site.post_json("/api/send-jobs", body, token).answer["id"]
    counters = stack.wait_for_job(job, token)["counters"]
    assert (counters["total"], counters["suppressed"], counters["sent"]) == (1, 1, 0)
    [delivery] = stack.messmail("jobs", "deliveries", *of_tenant, job)["deliveries"]
    assert (delivery["state"], delivery["reason"]) == ("suppressed", "suppressed")

    stack.messmail("suppressions", "remove", *of_tenant, made["suppression_id"])
    assert stack.messmail("suppressions", "list", *of_tenant) == {"suppressions": []}
    again = stack.run_command("suppressions", "remove", *of_tenant, made["suppression_id"])
    assert "SUPPRESSION_NOT_FOUND" in again.stderr


def test_a_complaint_is_recorded_and_lifted_to_unsubscribed(stack: Stack) -> None:
    newsletter, email = stack.make_newsletter(), unique_address()
    stack.import_members(newsletter, [email])
    of_person = ("--tenant", newsletter.tenant_id, "--list", newsletter.list_id, "--email", email)
    assert stack.messmail("people", "complain", *of_person) == {"status": "complained"}
    assert stack.messmail("people", "pardon", *of_person, "--evidence", "a call") == {"status": "unsubscribed"}
