"""Every curl command of the guide, run by the real curl as it is printed, against the real stack.

Only placeholders are replaced: the `https://{…}` hosts and `<…>`. What each command answers and does is checked.
"""

import json
import os
import re
import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.stack import Newsletter, Stack

pytestmark = [pytest.mark.curl, pytest.mark.timeout(300)]

DOCS = Path(__file__).parents[2] / "docs"
GUIDE = DOCS / "tenant-site-guide.zh-TW.md"
ENGLISH = DOCS / "tenant-site-guide.en.md"
# The guide as it was published first. What it promises is kept: it is never edited.
PUBLISHED = Path(__file__).parent / "published_guide.zh-TW.md"
READER = "user@example.com"


def curl_commands(guide: Path) -> list[str]:
    """Takes every curl command out of a guide's code blocks; none may stand anywhere else."""
    text = guide.read_text(encoding="utf-8")
    blocks: list[str] = re.findall(r"^```bash\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    commands = [unescaped(block.strip()) for block in blocks]
    assert all(command.startswith("curl ") for command in commands)
    assert len(commands) == len(re.findall(r"^\s*curl ", text, re.MULTILINE))
    return commands


def unescaped(command: str) -> str:
    r"""Takes back what one published example does: \" inside single quotes, where a shell keeps the backslash."""
    return re.sub(r"'[^']*'", lambda quoted: quoted.group().replace('\\"', '"'), command)


def placeholders_replaced(command: str, base_url: str, values: dict[str, str]) -> str:
    """Fills a command in; a placeholder without a value is an error."""
    command = re.sub(r"https://\{[a-z-]+\}", base_url, command)
    return re.sub(r"<([A-Z_]+)>", lambda name: values[name.group(1)], command)


@dataclass(frozen=True)
class CurlAnswer:
    """What curl was answered. Names of headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: Any


class Reader:
    """Runs the commands of the guide, each exactly once."""

    def __init__(self, stack: Stack, newsletter: Newsletter, home: Path) -> None:
        self._base_url = stack.http
        self._commands = curl_commands(GUIDE)
        self.values = {
            "TENANT_ID": newsletter.tenant_id,
            "LIST_ID": newsletter.list_id,
            "CLIENT_ID": newsletter.client.client_id,
            "CLIENT_SECRET": newsletter.client.client_secret,
        }
        # Curl's own configuration file has it tell status and headers, so the command itself stays as printed.
        self._headers = home / "headers"
        (home / ".curlrc").write_text(f'write-out = "\\n%{{http_code}}"\ndump-header = "{self._headers}"\n')
        self._environment = {"HOME": str(home), "CURL_HOME": str(home), "PATH": os.environ["PATH"], "no_proxy": "*"}

    def run(self, path: str, *, with_text: str = "") -> CurlAnswer:
        """Runs the command for a path; where several have it, the one that contains a text."""
        found = [c for c in self._commands if re.search(rf'\}}{re.escape(path)}[\s"?]', c) and with_text in c]
        assert len(found) == 1, f"{len(found)} commands of the guide call {path}"
        self._commands.remove(found[0])
        command = placeholders_replaced(found[0], self._base_url, self.values)
        ended = subprocess.run(
            ["bash", "-c", command], env=self._environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert ended.returncode == 0, ended.stderr
        body, _, status = ended.stdout.rpartition("\n")
        lines = [line.partition(": ") for line in self._headers.read_text().splitlines()[1:] if line]
        return CurlAnswer(int(status), {name.lower(): value for name, _, value in lines}, json.loads(body))

    @property
    def not_run(self) -> list[str]:
        """The commands that nobody has run yet."""
        return self._commands


def test_every_curl_command_of_the_guide_does_what_it_says(stack: Stack, tmp_path: Path) -> None:
    newsletter = stack.make_newsletter()
    reader = Reader(stack, newsletter, tmp_path)
    values = reader.values

    subscribed = reader.run("/newsletter/subscribe")
    assert (subscribed.status, subscribed.body["status"]) == (200, "pending")
    confirmation = stack.mailbox.wait_for(READER)
    text = stack.mailbox.content(confirmation)["Text"]
    assert f"{stack.http}/newsletter/confirm?token=" in text
    assert re.search(r"[\u4e00-\u9fff]", text), "the guide asks for zh-TW"

    values["CONFIRM_TOKEN"] = subscribed.body["confirm_token"]
    confirmed = reader.run("/newsletter/confirm")
    assert (confirmed.status, confirmed.body["status"]) == (200, "confirmed")
    read = reader.run("/newsletter/preferences", with_text="--data-urlencode")
    assert (read.status, read.body) == (200, {"lang": "zh-TW"})
    changed = reader.run("/newsletter/preferences", with_text="POST")
    assert (changed.status, changed.body) == (200, {"lang": "en", "topics": ["books"]})

    issued = reader.run("/oauth/token")
    assert issued.status == 200
    assert (issued.body["token_type"], issued.body["scope"]) == ("Bearer", "newsletter:send.write")
    values["ACCESS_TOKEN"] = issued.body["access_token"]
    short = reader.run("/api/send-jobs", with_text='"subject": "Weekly",')
    assert (short.status, short.body["tenant_id"]) == (201, newsletter.tenant_id)
    long = reader.run("/api/send-jobs", with_text="scheduled_at")
    assert (long.status, long.body["name"]) == (201, "Weekly Update")
    assert long.headers["location"] == f"/api/send-jobs/{long.body['id']}"
    assert long.headers["x-request-id"]
    assert stack.mailbox.content(stack.mailbox.wait_for(READER, subject="Weekly"))["Text"].startswith("Hello")
    content = stack.mailbox.content(stack.mailbox.wait_for(READER, subject="Weekly Update"))
    assert "<p>Hello</p>" in content["HTML"]
    assert content["Text"].startswith("Hello")
    values["IDEMPOTENCY_KEY"] = str(uuid.uuid4())
    monthly = reader.run("/api/send-jobs", with_text="Idempotency-Key")
    assert (monthly.status, monthly.body["status"]) == (201, "scheduled")

    both = stack.access_token(newsletter.client)
    values["ACCESS_TOKEN"] = both
    for job in (short, long, monthly):
        counters = stack.wait_for_job(job.body["id"], both)["counters"]
        assert (counters["total"], counters["sent"]) == (1, 1)
    values["SEND_JOB_ID"] = long.body["id"]
    shown = reader.run("/api/send-jobs/<SEND_JOB_ID>")
    assert (shown.status, shown.body["status"], shown.body["id"]) == (200, "completed", long.body["id"])
    listed = reader.run("/api/send-jobs", with_text="page_size")
    assert [job["id"] for job in listed.body["send_jobs"]] == [job.body["id"] for job in (monthly, long, short)]
    # Nobody of this job failed or is unknown, so these change nothing; what they do is tested elsewhere.
    asked_for = reader.run("/api/send-jobs/<SEND_JOB_ID>/deliveries")
    assert (asked_for.status, asked_for.body) == (200, {"deliveries": [], "next_page_token": ""})
    retried = reader.run("/api/send-jobs/<SEND_JOB_ID>/retry")
    assert (retried.status, retried.body) == (200, shown.body)
    resolved = reader.run("/api/send-jobs/<SEND_JOB_ID>/resolve")
    assert (resolved.status, resolved.body) == (200, {"resolved": 0, "send_job": shown.body})
    for verb in ("pause", "resume"):
        refused = reader.run(f"/api/send-jobs/<SEND_JOB_ID>/{verb}")
        assert (refused.status, refused.body["reason"]) == (409, "SEND_JOB_WRONG_STATE")

    planned = stack.site.post_json(
        "/api/send-jobs",
        {"list_id": newsletter.list_id, "subject": "Later", "body_text": "x", "scheduled_at": "2099-01-01T00:00:00Z"},
        both,
    )
    values["SEND_JOB_ID"] = planned.answer["id"]
    cancelled = reader.run("/api/send-jobs/<SEND_JOB_ID>/cancel")
    assert (cancelled.status, cancelled.body["status"], cancelled.body["sent"]) == (200, "cancelled", 0)

    asked = reader.run("/newsletter/unsubscribe-token")
    assert asked.status == 200
    values["UNSUBSCRIBE_TOKEN"] = asked.body["unsubscribe_token"]
    left = reader.run("/newsletter/unsubscribe")
    assert (left.status, left.body["status"]) == (200, "unsubscribed")
    last = stack.site.post_json(
        "/api/send-jobs", {"list_id": newsletter.list_id, "subject": "Too late", "body_text": "x"}, both
    )
    assert stack.wait_for_job(last.answer["id"], both)["counters"]["sent"] == 0
    assert "Too late" not in [mail.subject for mail in stack.mailbox.mails(READER)]

    assert reader.not_run == []


@pytest.mark.parametrize("guide", [GUIDE, ENGLISH], ids=["zh-TW", "en"])
def test_a_refusal_is_answered_as_the_guide_prints_it(stack: Stack, guide: Path) -> None:
    [printed] = re.findall(r"^```json\n(.*?)^```", guide.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    expected = json.loads(printed.replace("https://{member-center}", stack.http))
    answered = stack.site.post_json("/newsletter/subscribe", {"list_id": str(uuid.uuid4()), "email": READER})
    assert answered.status == expected["status"]
    assert answered.answer | {"request_id": "", "detail": ""} == expected | {"request_id": "", "detail": ""}


def test_the_guide_keeps_every_command_of_the_published_one() -> None:
    published = curl_commands(PUBLISHED)
    assert len(published) == 6
    assert set(published) <= set(curl_commands(GUIDE))


def test_both_editions_have_the_same_commands() -> None:
    assert curl_commands(ENGLISH) == curl_commands(GUIDE)


def test_only_our_edition_prints_the_escaped_example_right() -> None:
    assert '\\"' in PUBLISHED.read_text(encoding="utf-8")
    assert '\\"' not in GUIDE.read_text(encoding="utf-8")
