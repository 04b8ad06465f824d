"""The processes of an installation: each command starts one, from the wiring of the service it belongs to.

A process takes its settings from environment variables; only `up` has options. A wiring is imported when it is needed,
so that no process carries another one's libraries.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import pydantic
import typer

from messmail_cli.failures import CommandFailed
from messmail_cli.printing import Answer, print_answer
from servicekit.telemetry import configure_logging

app = typer.Typer(no_args_is_help=True, add_completion=False)

_DATABASES: Final = ("MEMBER_CENTER_DATABASE_URL", "SEND_ENGINE_DATABASE_URL")


class Served(StrEnum):
    """A service that can be served."""

    MEMBER_CENTER = "member-center"
    SEND_ENGINE = "send-engine"
    GATEWAY = "gateway"


def _address(default: str, of: str) -> Any:
    return typer.Option(metavar="HOST:PORT", help=f"{of} Left out: {default}, or a free port where that is taken.")


@app.command()
def up(
    data_dir: Annotated[
        Path, typer.Option(envvar="MESSMAIL_DATA_DIR", help="Where everything is kept; nothing outside is touched.")
    ] = Path(".messmail"),
    http: Annotated[str | None, _address("127.0.0.1:8080", "Of the gateway.")] = None,
    member_center: Annotated[str | None, _address("127.0.0.1:50051", "Of Member Center's gRPC.")] = None,
    send_engine: Annotated[str | None, _address("127.0.0.1:50052", "Of Send Engine's gRPC.")] = None,
    mailbox: Annotated[str | None, _address("127.0.0.1:8025", "Of the development mailbox.")] = None,
    smtp: Annotated[str | None, _address("127.0.0.1:1025", "Of the development mailbox's SMTP.")] = None,
    smtp_url: Annotated[
        str | None,
        typer.Option(
            envvar="MESSMAIL_SMTP_URL",
            help="A relay that takes the mails instead of the mailbox: smtp:// or smtps://USER:PASSWORD@HOST:PORT, and "
            "where wanted ?starttls=require or ?starttls=if-offered.",
        ),
    ] = None,
    ready_file: Annotated[
        Path | None, typer.Option(help="Written once everything answers: addresses and process ids, as JSON.")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, max=64, help="How many workers send; 0 where others are.")] = 2,
) -> None:
    """Start everything on this machine, and stay up until Ctrl-C.

    PostgreSQL and Valkey are started too, unless MEMBER_CENTER_DATABASE_URL, SEND_ENGINE_DATABASE_URL and BROKER_URL
    name others.
    """
    from rich.console import Console

    from local_stack.up import UpOptions, run_up

    options = UpOptions(
        data_dir=data_dir,
        http=http,
        member_center=member_center,
        send_engine=send_engine,
        mailbox=mailbox,
        smtp=smtp,
        smtp_url=smtp_url,
        ready_file=ready_file,
        workers=workers,
    )
    raise SystemExit(run_up(options, Console()))


@app.command()
def serve(service: Annotated[Served, typer.Argument(help="The service.")]) -> None:
    """Run one service until SIGTERM."""
    with _process():
        if service is Served.MEMBER_CENTER:
            from member_center import wiring as member_center

            member_center.serve()
        elif service is Served.SEND_ENGINE:
            from send_engine import wiring as send_engine

            send_engine.serve()
        else:
            from gateway import wiring as gateway

            gateway.serve()


@app.command()
def worker() -> None:
    """Run one worker of Send Engine until SIGTERM."""
    from send_engine import wiring as send_engine

    with _process():
        send_engine.run_worker()


@app.command()
def migrate() -> None:
    """Bring the databases to this version's schema, as their owners.

    Of the two URLs MEMBER_CENTER_DATABASE_URL and SEND_ENGINE_DATABASE_URL it needs at least one. The roles that the
    services use are made too, with the passwords MEMBER_CENTER_APP_PASSWORD and SEND_ENGINE_APP_PASSWORD.
    """
    for service in _services_with_a_database("migrate"):
        if service is Served.MEMBER_CENTER:
            from member_center import wiring as member_center

            member_center.migrate()
        else:
            from send_engine import wiring as send_engine

            send_engine.migrate()
        typer.echo(f"{service}: at this version")


@app.command()
def maintain() -> None:
    """Do the daily upkeep of the databases, as their owners: make partitions ahead, drop what has expired."""
    for service in _services_with_a_database("maintain"):
        if service is Served.MEMBER_CENTER:
            from member_center import wiring as member_center

            member_center.maintain()
        else:
            from send_engine import wiring as send_engine

            send_engine.maintain()
        typer.echo(f"{service}: done")


@app.command()
def bootstrap(
    with_services: Annotated[
        bool, typer.Option("--with-services", help="Also make the clients of Send Engine and of the gateway.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also where there are credentials already, because all were lost.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Make the first admin credential, and show it once. Needs Member Center's settings, and runs beside it."""
    from member_center import wiring as member_center

    configure_logging("bootstrap")
    with _process():
        made = member_center.bootstrap(with_services=with_services, force=force)
    text = "\n".join(f"{name}: {one['client_id']} {one['client_secret']}" for name, one in made.items())
    print_answer(Answer(made, f"{text}\nThe secrets are not shown again: keep them safe now."), as_json=as_json)


def _services_with_a_database(process: str) -> list[Served]:
    configure_logging(process)
    found = [
        service
        for service, variable in zip((Served.MEMBER_CENTER, Served.SEND_ENGINE), _DATABASES, strict=True)
        if os.environ.get(variable)
    ]
    if not found:
        raise CommandFailed("No database is named", f"Set {' and '.join(_DATABASES)} to the owners' URLs.")
    return found


@contextmanager
def _process() -> Iterator[None]:
    """Tells in a line what a wiring refuses to start with; a crash goes to the log with its trace."""
    try:
        yield
    except pydantic.ValidationError:
        raise
    except RuntimeError as error:
        raise CommandFailed(str(error)) from error
    except Exception:
        logging.getLogger("crash").critical("process crashed", exc_info=True)
        raise SystemExit(1) from None
