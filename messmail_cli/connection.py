"""Finds an installation (addresses and admin credential) and calls its services over gRPC.

Options and environment variables come before what a local stack left in its data directory.
"""

from __future__ import annotations

import functools
import inspect
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Concatenate, Final, ParamSpec

import structlog
import typer

from messmail.member_center.v1 import member_center_admin_pb2_grpc
from messmail.send_engine.v1 import send_engine_admin_pb2_grpc, send_engine_pb2_grpc
from messmail_cli.failures import CommandFailed
from messmail_cli.printing import Answer, print_answer
from messmail_cli.stack_file import read_stack_file
from servicekit.clients import AccessTokens, open_internal_channel
from servicekit.mutual_tls import MutualTls, MutualTlsSettings

DEFAULT_DATA_DIR: Final = Path(".messmail")

_PANEL: Final = "Which installation"
DataDir = Annotated[
    Path,
    typer.Option(envvar="MESSMAIL_DATA_DIR", help="Where `messmail up` keeps everything.", rich_help_panel=_PANEL),
]
_MemberCenter = Annotated[
    str,
    typer.Option(
        envvar="MESSMAIL_MEMBER_CENTER",
        metavar="HOST:PORT",
        help="Where Member Center's gRPC answers. Left out: that of the data directory.",
        rich_help_panel=_PANEL,
    ),
]
_SendEngine = Annotated[
    str,
    typer.Option(
        envvar="MESSMAIL_SEND_ENGINE",
        metavar="HOST:PORT",
        help="Where Send Engine's gRPC answers. Left out: that of the data directory.",
        rich_help_panel=_PANEL,
    ),
]
_ClientId = Annotated[
    str, typer.Option(envvar="MESSMAIL_CLIENT_ID", help="An internal client.", rich_help_panel=_PANEL)
]
_ClientSecret = Annotated[
    str,
    typer.Option(
        envvar="MESSMAIL_CLIENT_SECRET",
        help="Its secret. Better set in the environment: other users can see a command's options.",
        rich_help_panel=_PANEL,
    ),
]
_AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
_P = ParamSpec("_P")


@dataclass(frozen=True)
class Installation:
    """Where the services answer, and as which internal client to call them. Nothing is dialled until the first call."""

    member_center: str
    send_engine: str
    client_id: str
    client_secret: str

    @cached_property
    def member_center_admin(self) -> member_center_admin_pb2_grpc.MemberCenterAdminStub:
        """The operator's face of Member Center."""
        channel = open_internal_channel(self._member_center_address, self._tokens, self._tls)
        return member_center_admin_pb2_grpc.MemberCenterAdminStub(channel)

    @cached_property
    def send_engine_jobs(self) -> send_engine_pb2_grpc.SendEngineStub:
        """The public face of Send Engine."""
        address = _given(self.send_engine, "MESSMAIL_SEND_ENGINE")
        return send_engine_pb2_grpc.SendEngineStub(open_internal_channel(address, self._tokens, self._tls))

    @cached_property
    def send_engine_admin(self) -> send_engine_admin_pb2_grpc.SendEngineAdminStub:
        """The operator's face of Send Engine."""
        address = _given(self.send_engine, "MESSMAIL_SEND_ENGINE")
        return send_engine_admin_pb2_grpc.SendEngineAdminStub(open_internal_channel(address, self._tokens, self._tls))

    @cached_property
    def _tokens(self) -> AccessTokens:
        return AccessTokens(
            self._member_center_address,
            _given(self.client_id, "MESSMAIL_CLIENT_ID"),
            _given(self.client_secret, "MESSMAIL_CLIENT_SECRET"),
            tls=self._tls,
        )

    @cached_property
    def _tls(self) -> MutualTls | None:
        return MutualTlsSettings().mutual_tls

    @property
    def _member_center_address(self) -> str:
        return _given(self.member_center, "MESSMAIL_MEMBER_CENTER")


def _given(value: str, variable: str) -> str:
    if not value:
        raise CommandFailed(
            "No installation is known here",
            "Start one with `messmail up`, name its data directory with --data-dir, or set the environment variable "
            f"{variable}.",
        )
    return value


def find_installation(
    data_dir: DataDir = DEFAULT_DATA_DIR,
    member_center: _MemberCenter = "",
    send_engine: _SendEngine = "",
    client_id: _ClientId = "",
    client_secret: _ClientSecret = "",
) -> Installation:
    """Finds the installation that a command is for. What is missing is told when it is needed."""
    named = Installation(member_center, send_engine, client_id, client_secret)
    if member_center and send_engine and client_id and client_secret:
        return named
    stack = read_stack_file(data_dir)
    if stack is None:
        return named
    return Installation(
        member_center or stack.member_center,
        send_engine or stack.send_engine,
        client_id or stack.admin_client_id,
        client_secret or stack.admin_client_secret,
    )


def administers(function: Callable[Concatenate[Installation, _P], Answer]) -> Callable[..., None]:
    """Makes a command of a function from an installation to an answer.

    The command has the function's options, those that find the installation, and --json. All its calls carry one
    request id, which a failure shows.
    """
    run: Callable[..., Answer] = function
    own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
    shared = list(inspect.signature(find_installation, eval_str=True).parameters.values())
    as_json = inspect.Parameter("as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=_AsJson)

    @functools.wraps(function)
    def command(**values: Any) -> None:
        structlog.contextvars.bind_contextvars(request_id=str(uuid.uuid4()))
        printed_as_json = values.pop("as_json")
        installation = find_installation(**{one.name: values.pop(one.name) for one in shared})
        print_answer(run(installation, **values), as_json=printed_as_json)

    parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in (*own, *shared)] + [as_json]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    return command
