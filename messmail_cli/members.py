"""`messmail members import`: sends a CSV file of members to Member Center, page by page.

Memory does not grow with the file. What was refused is written to a file of its own, ready to be corrected.
"""

import contextlib
import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, TextIO

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from messmail.member_center.v1 import member_center_admin_pb2 as admin_pb2
from messmail_cli.connection import Installation, administers
from messmail_cli.failures import CommandFailed
from messmail_cli.member_file import MemberFile, MemberRow
from messmail_cli.printing import Answer, progress_console
from servicekit.errors import MessmailError

app = typer.Typer(no_args_is_help=True, add_completion=False)

_PAGE_ROWS: Final = 1000
# Far below the 4 MiB that a service reads, also when every row has the largest preferences.
_PAGE_BYTES: Final = 1_000_000
_PAGE_SECONDS: Final = 60.0


@app.callback()
def _members() -> None:
    """Import members from a CSV file."""


@app.command("import")
@administers
def import_members(
    installation: Installation,
    file: Annotated[
        Path,
        typer.Argument(
            exists=True,
            dir_okay=False,
            readable=True,
            metavar="FILE.csv",
            help="CSV in UTF-8 with the columns email and, where wanted, preferences (a JSON object).",
        ),
    ],
    tenant: Annotated[str, typer.Option(help="The tenant's id.")],
    list_id: Annotated[str, typer.Option("--list", help="The list's id.")],
    confirmed: Annotated[
        bool, typer.Option("--confirmed", help="Their consent is proven already: they need not confirm.")
    ] = False,
    evidence: Annotated[str, typer.Option(help="How it was proven; kept in each person's consent log.")] = "",
    rejects: Annotated[
        Path | None, typer.Option(help="Where to write bad rows with their reasons. Left out: beside FILE.csv.")
    ] = None,
) -> Answer:
    """Import members; without --confirmed each is sent a confirmation mail.

    Nobody who unsubscribed, complained or bounced is resurrected. Repeating an import is safe: who is a member already
    is skipped.
    """
    if confirmed and not evidence.strip():
        raise typer.BadParameter("say with --evidence how the consent was proven", param_hint="--confirmed")
    if evidence and not confirmed:
        raise typer.BadParameter("evidence is of a consent that --confirmed says is proven", param_hint="--evidence")
    if rejects is not None and rejects.exists() and rejects.samefile(file):
        raise typer.BadParameter("the file that is read cannot be written at the same time", param_hint="--rejects")
    page_of = admin_pb2.ImportMembersRequest(tenant_id=tenant, list_id=list_id, confirmed=confirmed, evidence=evidence)
    with contextlib.closing(MemberFile(file)) as members, _Import(rejects or _beside(file)) as result:
        if members.ignored_columns:
            progress_console().print(f"These columns are not read: {', '.join(members.ignored_columns)}", markup=False)
        with _progress() as progress:
            task = progress.add_task("", total=members.size)
            try:
                for page in _pages(members, result):
                    result.add_page(installation, page_of, page)
                    progress.update(task, completed=members.position, description=result.summary())
            except (CommandFailed, MessmailError) as error:
                error.message += f" (until then: {result.summary()})"
                raise
            progress.update(task, completed=members.size, description=result.summary())
    facts = {"imported": result.imported, "skipped": result.skipped, "rejected": result.rejected}
    if result.rejected:
        return Answer(
            facts | {"rejects_file": str(result.rejects)},
            f"{result.summary()}; the rejected rows and their reasons are in {result.rejects}",
        )
    return Answer(facts, result.summary())


@dataclass
class _Import:
    """What has become of the rows so far."""

    rejects: Path
    imported: int = 0
    skipped: int = 0
    rejected: int = 0
    _file: TextIO | None = field(default=None, repr=False)

    def __enter__(self) -> "_Import":
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()

    def add_page(
        self, installation: Installation, page_of: admin_pb2.ImportMembersRequest, page: list[MemberRow]
    ) -> None:
        """Imports a page, and counts what became of it."""
        request = admin_pb2.ImportMembersRequest()
        request.CopyFrom(page_of)
        request.rows.extend(_row(member) for member in page)
        answer = installation.member_center_admin.ImportMembers(request, timeout=_PAGE_SECONDS)
        self.imported += answer.imported
        self.skipped += answer.skipped
        for refused in answer.rejected:
            self.reject(page[refused.index], refused.problem)

    def reject(self, member: MemberRow, problem: str) -> None:
        """Counts a bad row and writes it to the file of bad rows, which only its owner may read."""
        if self._file is None:
            descriptor = os.open(self.rejects, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            self._file = os.fdopen(descriptor, "w", encoding="utf-8", newline="")
            csv.writer(self._file).writerow(("email", "preferences", "line", "problem"))
        csv.writer(self._file).writerow((member.email, member.preferences_text, member.line, problem))
        self.rejected += 1

    def summary(self) -> str:
        """Says it in words."""
        return f"{self.imported:,} imported, {self.skipped:,} skipped, {self.rejected:,} rejected"


def _pages(members: MemberFile, result: _Import) -> Iterator[list[MemberRow]]:
    page: list[MemberRow] = []
    page_bytes = 0
    for member in members:
        if member.problem:
            result.reject(member, member.problem)
            continue
        row_bytes = len(member.email) * 4 + len(member.preferences_text) * 4 + 16
        if page and (len(page) == _PAGE_ROWS or page_bytes + row_bytes > _PAGE_BYTES):
            yield page
            page, page_bytes = [], 0
        page.append(member)
        page_bytes += row_bytes
    if page:
        yield page


def _row(member: MemberRow) -> admin_pb2.ImportRow:
    row = admin_pb2.ImportRow(email=member.email)
    if member.preferences is not None:
        row.preferences.update(member.preferences)
    return row


def _beside(file: Path) -> Path:
    return file.with_name(f"{file.stem}.rejected.csv")


def _progress() -> Progress:
    console = progress_console()
    return Progress(
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
