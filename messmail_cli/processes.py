"""The processes of an installation: each command starts one, from the wiring of the service it belongs to.

A process takes its settings from environment variables, and only `up` has options. The wiring is imported when it is
needed, so that no process carries another one's libraries.
"""

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from messmail_cli.failures import CommandFailed

app = typer.Typer(no_args_is_help=True, add_completion=False)


class Served(StrEnum):
    """A service that can be served."""

    MEMBER_CENTER = "member-center"
    SEND_ENGINE = "send-engine"
    GATEWAY = "gateway"


@app.command()
def serve(service: Annotated[Served, typer.Argument(help="The service.")]) -> None:
    """Run one service until SIGTERM."""
    if service is Served.MEMBER_CENTER:
        from member_center import wiring as member_center

        member_center.serve()
    elif service is Served.SEND_ENGINE:
        from send_engine import wiring as send_engine

        send_engine.serve()
    else:
        from gateway import wiring as gateway

        gateway.serve()
