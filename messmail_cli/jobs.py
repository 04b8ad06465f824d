"""`messmail jobs`: shows, watches and cancels send jobs."""

from typing import Annotated, Any, Final

import typer
from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from messmail.send_engine.v1 import send_engine_pb2 as pb2
from messmail_cli.connection import Installation, administers
from messmail_cli.printing import Answer, facts_of, progress_console
from servicekit.errors import MessmailError, Reason

app = typer.Typer(no_args_is_help=True, add_completion=False)

_TenantOption = Annotated[str, typer.Option(help="The tenant's id.")]
_JobArgument = Annotated[str, typer.Argument(help="The job's id.")]
_ENDED: Final = {pb2.SEND_JOB_STATUS_COMPLETED, pb2.SEND_JOB_STATUS_CANCELLED, pb2.SEND_JOB_STATUS_FAILED}
_STATES: Final = tuple(name for name in pb2.SendJobCounters.DESCRIPTOR.fields_by_name if name != "total")


@app.callback()
def _jobs() -> None:
    """Show, watch and cancel send jobs."""


@app.command()
@administers
def show(installation: Installation, job: _JobArgument, tenant: _TenantOption) -> Answer:
    """Show a send job and its counters."""
    answer = installation.send_engine_jobs.GetSendJob(pb2.GetSendJobRequest(id=job, tenant_id=tenant))
    return Answer(_facts(answer.send_job), _picture(answer.send_job))


@app.command()
@administers
def watch(installation: Installation, job: _JobArgument, tenant: _TenantOption) -> Answer:
    """Watch a send job until it ends. The exit status is 0 when it completed, else 1."""
    console = progress_console()
    seen = pb2.SendJob()
    with Live(console=console, refresh_per_second=8, transient=True) as live:
        while seen.status not in _ENDED:
            try:
                for answer in installation.send_engine_jobs.WatchSendJob(
                    pb2.WatchSendJobRequest(id=job, tenant_id=tenant)
                ):
                    seen = answer.send_job
                    if console.is_terminal:
                        live.update(_picture(seen))
            except MessmailError as error:
                # The service was restarted, so it has to be asked again; it is a fault only when it stays away.
                if error.reason != Reason.ERROR_REASON_UNAVAILABLE or not seen.id:
                    raise
                seen = installation.send_engine_jobs.GetSendJob(
                    pb2.GetSendJobRequest(id=job, tenant_id=tenant), wait_for_ready=True, timeout=60
                ).send_job
    completed = seen.status == pb2.SEND_JOB_STATUS_COMPLETED
    return Answer(_facts(seen), _picture(seen), exit_status=0 if completed else 1)


@app.command()
@administers
def cancel(installation: Installation, job: _JobArgument, tenant: _TenantOption) -> Answer:
    """Cancel a send job, and say how many of its mails had gone."""
    answer = installation.send_engine_jobs.CancelSendJob(pb2.CancelSendJobRequest(id=job, tenant_id=tenant))
    facts = facts_of(answer) | {"status": _word(answer.status)}
    return Answer(facts, f"Cancelled. {answer.sent:,} mails had been sent, {answer.sending:,} were under way")


def _facts(job: pb2.SendJob) -> dict[str, Any]:
    """The job as the REST face tells it."""
    return facts_of(job) | {"status": _word(job.status)}


def _word(status: pb2.SendJobStatus.ValueType) -> str:
    return pb2.SendJobStatus.Name(status).removeprefix("SEND_JOB_STATUS_").lower()


def _picture(job: pb2.SendJob) -> Group:
    counters = job.counters
    ended = counters.total - counters.pending - counters.claimed - counters.sending - counters.deferred
    heading = Table.grid(padding=(0, 2))
    bar = ProgressBar(total=max(1, counters.total), completed=ended, width=40)
    heading.add_row(_word(job.status), bar, f"{ended:,} of {counters.total:,}", job.name or job.subject)
    numbers = Table.grid(padding=(0, 2))
    numbers.add_row(*(f"{state} {getattr(counters, state):,}" for state in _STATES if getattr(counters, state)))
    lines: list[Any] = [heading, numbers]
    if job.status_reason:
        lines.append(job.status_reason)
    return Group(*lines)
