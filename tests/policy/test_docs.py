"""What the documents name exists: files, links, make targets and commands."""

import re
import sys
from pathlib import Path

import pytest

from messmail_cli.main import main
from tests.policy.source_tree import ROOT

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
FILE = re.compile(
    r"`((?:[a-z_]+/)+[\w.-]+\.(?:py|proto|md|json)|(?:[a-z_]+/){2,}|(?:proto|generated|bench|tools|tests)/)`"
)
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#]+)")
MAKE = re.compile(r"\bmake ([a-z-]+)\b")
COMMAND = re.compile(r"^(?:\.venv/bin/)?messmail ((?:[a-z-]+ ?){1,2})", re.MULTILINE)


def test_there_are_documents() -> None:
    assert len(DOCUMENTS) > 10


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_file_and_link_that_a_document_names_exists(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    missing = [name for name in FILE.findall(text) if not (ROOT / name).exists()]
    missing += [link for link in LINK.findall(text) if not (document.parent / link).exists()]
    assert missing == []


def test_every_make_target_that_a_document_names_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    named = {target for path in DOCUMENTS for code in code_of(path) for target in MAKE.findall(code)}
    assert {"demo", "test"} <= named <= targets


# The commands that have commands of their own.
GROUPS = ("audit", "clients", "jobs", "keys", "limits", "lists", "members", "people", "suppressions", "tenants")


def test_every_command_that_a_document_names_exists(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    named = {tuple(words.split()) for path in DOCUMENTS for block in code_of(path) for words in COMMAND.findall(block)}
    assert ("up",) in named
    for words in sorted(named):
        command = words if words[0] in GROUPS else words[:1]
        monkeypatch.setattr(sys, "argv", ["messmail", *command, "--help"])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0, f"messmail {' '.join(command)}: {capsys.readouterr().err}"


def code_of(document: Path) -> list[str]:
    """The code blocks and code spans of a document."""
    text = document.read_text(encoding="utf-8")
    return re.findall(r"```\w*\n(.*?)```", text, re.DOTALL) + re.findall(r"`([^`\n]+)`", text)
