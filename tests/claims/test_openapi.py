"""Whatever the OpenAPI document allows and forbids, the running gateway answers as it documents, never with a fault."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.claims_table import ClaimRow, cases, hand_in_claim
from tests.policy.source_tree import ROOT
from tests.stack import Newsletter, Stack, unique_address

FULL = 10_000
# In full, the cases that the document itself names and the borders of every field are tried as well.
PHASES = "examples,coverage,fuzzing,stateful" if cases(FULL) >= FULL / 10 else "fuzzing,stateful"
EXAMPLES_OF_AN_OPERATION = 60 if cases(FULL) >= FULL / 10 else 8


@pytest.fixture(scope="module")
def newsletter(unlimited: Stack) -> Newsletter:
    return unlimited.make_newsletter()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_gateway_answers_as_its_openapi_document_says(
    stack: Stack, newsletter: Newsletter, tmp_path: Path, record_property: object
) -> None:
    asked, run, failures = cases(FULL), 0, list[Any]()
    while run < asked and not failures:
        report = run_schemathesis(stack, newsletter, random.SystemRandom().randrange(2**32), tmp_path / "report.json")
        run += report["test_cases"]["generated"]
        failures += report["failures"] + report["errors"]
    what = "requests made from the OpenAPI document, valid and not, alone and in sequence"
    hand_in_claim(record_property, ClaimRow("I9", what, FULL, run, len(failures)))
    assert failures == []


def run_schemathesis(stack: Stack, newsletter: Newsletter, seed: int, report: Path) -> Any:
    """Runs Schemathesis once, with all of its checks, and returns its report."""
    print(f"seed {seed}")
    # A token of ten minutes, and links of a day at least, outlast a run.
    token = stack.access_token(newsletter.client)
    ended = subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "schemathesis.cli",
                "--config-file",
                str(Path(__file__).with_name("schemathesis.toml")),
            ),
            *("run", f"{stack.http}/openapi.json", "--url", stack.http, "--seed", str(seed)),
            *("--phases", PHASES, "--max-examples", str(EXAMPLES_OF_AN_OPERATION), "--checks", "all", "--mode", "all"),
            *("--header", f"Authorization: Bearer {token}", "--continue-on-failure", "--no-shrink"),
            *("--report", "json", "--report-json-path", str(report)),
        ],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "generated"))),
            "SCHEMATHESIS_HOOKS": "tests.claims.openapi_hooks",
            "MESSMAIL_KNOWN": json.dumps(known_values(stack, newsletter, token)),
            "MESSMAIL_SEED": str(seed),
        },
        cwd=report.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    print(ended.stdout, ended.stderr)
    assert ended.returncode in (0, 1), ended.stderr
    return json.loads(report.read_text())


def known_values(stack: Stack, newsletter: Newsletter, token: str) -> dict[str, Sequence[str]]:
    """Returns values that mean something, by the names of the fields they go into."""
    email, job = unique_address(), {"list_id": newsletter.list_id, "subject": "Weekly", "body_text": "Hello"}
    member = {"list_id": newsletter.list_id, "email": email}
    confirm = stack.site.post_json("/newsletter/subscribe", member).answer["confirm_token"]
    leave = stack.site.post_json("/newsletter/unsubscribe-token", member).answer["unsubscribe_token"]
    return {
        "list_id": [newsletter.list_id],
        "tenant_id": [newsletter.tenant_id],
        "email": [email, unique_address()],
        "id": [stack.site.post_json("/api/send-jobs", job, token).answer["id"]],
        "token": [confirm, leave, token],
        "client_id": [newsletter.client.client_id],
        "client_secret": [newsletter.client.client_secret],
        "scope": ["newsletter:send.read"],
    }
