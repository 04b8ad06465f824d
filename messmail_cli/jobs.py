"""`messmail jobs`: shows, watches and steers send jobs. What became of each mail is in job_deliveries."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from messmail.send_engine.v1 import send_engine_pb2 as pb2
from messmail_cli import job_deliveries
from messmail_cli.connection import Installation, administers
from messmail_cli.printing import Answer, facts_of, progress_console
from servicekit.errors import MessmailError, Reason

app = typer.Typer(no_args_is_help=True, add_completion=False)

_TenantOption = Annotated[str, typer.Option(help="The tenant's id.")]
_JobArgument = Annotated[str, typer.Argument(help="The job's id.")]
_ENDED: Final = {pb2.SEND_JOB_STATUS_COMPLETED, pb2.SEND_JOB_STATUS_CANCELLED, pb2.SEND_JOB_STATUS_FAILED}
_STATES: Final = tuple(name for name in pb2.SendJobCounters.DESCRIPTOR.fields_by_name if name != "total")


class RetriedState(StrEnum):
    """Whose mails are sent again."""

    FAILED = "failed"
    UNKNOWN = "unknown"


class Outcome(StrEnum):
    """What became of a mail whose fate was unknown."""

    SENT = "sent"
    FAILED = "failed"


class State(StrEnum):
    """The state of a delivery."""

    PENDING = "pending"
    CLAIMED = "claimed"
    SENDING = "sending"
    DEFERRED = "deferred"
    SENT = "sent"
    FAILED = "failed"
    SUPPRESSED = "suppressed"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"


@app.callback()
def _jobs() -> None:
    """Show, watch, pause, resume, retry, resolve and cancel send jobs, and list their deliveries."""


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


@app.command()
@administers
def pause(installation: Installation, job: _JobArgument, tenant: _TenantOption) -> Answer:
    """Pause a send job. No mail of it is begun later than a second afterwards."""
    answer = installation.send_engine_jobs.PauseSendJob(pb2.PauseSendJobRequest(id=job, tenant_id=tenant))
    return Answer(_facts(answer.send_job), _picture(answer.send_job))


@app.command()
@administers
def resume(installation: Installation, job: _JobArgument, tenant: _TenantOption) -> Answer:
    """Go on with a paused send job."""
    answer = installation.send_engine_jobs.ResumeSendJob(pb2.ResumeSendJobRequest(id=job, tenant_id=tenant))
    return Answer(_facts(answer.send_job), _picture(answer.send_job))


@app.command()
@administers
def retry(
    installation: Installation,
    job: _JobArgument,
    tenant: _TenantOption,
    state: Annotated[list[RetriedState], typer.Option(help="Whose mails are sent again; repeat it for both.")],
) -> Answer:
    """Send a completed job again to those whose delivery failed, or whose fate is unknown."""
    states = [pb2.RetriedState.Value(f"RETRIED_STATE_{each.name}") for each in state]
    answer = installation.send_engine_jobs.RetrySendJob(
        pb2.RetrySendJobRequest(id=job, tenant_id=tenant, states=states)
    )
    return Answer(_facts(answer.send_job), _picture(answer.send_job))


@app.command()
@administers
def resolve(
    installation: Installation,
    job: _JobArgument,
    tenant: _TenantOption,
    outcome: Annotated[Outcome, typer.Option(help="What the ESP's log says of them.")],
    delivery: Annotated[
        list[str], typer.Option(default_factory=list, show_default=False, help="A delivery; repeat it for more.")
    ],
    everything: Annotated[bool, typer.Option("--all", help="All unknown deliveries of the job.")] = False,
) -> Answer:
    """Record what became of deliveries whose fate is unknown. Nothing is sent."""
    answer = installation.send_engine_jobs.ResolveSendJob(
        pb2.ResolveSendJobRequest(
            id=job,
            tenant_id=tenant,
            outcome=pb2.ResolvedOutcome.Value(f"RESOLVED_OUTCOME_{outcome.name}"),
            delivery_ids=delivery,
            all=everything,
        )
    )
    facts = {"resolved": answer.resolved, "send_job": _facts(answer.send_job)}
    return Answer(facts, Group(f"Resolved: {answer.resolved:,}", _picture(answer.send_job)))


@app.command()
@administers
def deliveries(
    installation: Installation,
    job: _JobArgument,
    tenant: _TenantOption,
    state: Annotated[State | None, typer.Option(help="Only those in this state.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write them into this file instead, a line for each.")] = None,
) -> Answer:
    """List what became of the mail to each recipient. No address is shown: they are in Member Center."""
    request = pb2.ListDeliveriesRequest(id=job, tenant_id=tenant, page_size=job_deliveries.PAGE_SIZE)
    if state is not None:
        request.state = pb2.DeliveryState.Value(f"DELIVERY_STATE_{state.name}")
    found = job_deliveries.read(installation.send_engine_jobs, request)
    if csv is None:
        rows = list(found)
        return Answer({"deliveries": rows}, job_deliveries.as_table(rows))
    count = job_deliveries.write_csv(csv, found)
    return Answer({"written": count, "file": str(csv)}, f"{count:,} deliveries written to {csv}")


def _facts(job: pb2.SendJob) -> dict[str, Any]:
    """The job as the REST face tells it."""
    policy = pb2.UnknownPolicy.Name(job.on_unknown).removeprefix("UNKNOWN_POLICY_").lower()
    return facts_of(job) | {"status": _word(job.status), "on_unknown": policy}


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
