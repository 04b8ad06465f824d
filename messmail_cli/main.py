"""The table of commands, each loaded only when it is called, so that `messmail --help` answers at once.

What a command does is in its own module; how a failure is told is in failures.
"""

import os
from importlib import import_module
from typing import Any, Final

import typer
from typer.core import TyperCommand, TyperGroup

# Each command: its module here, and the line that --help shows.
_COMMANDS: Final = {
    "demo": ("demo.command", "Walk the guide's seven steps for real, with 1,000 members."),
    "up": ("processes", "Start everything on this machine, and stay up."),
    "tenants": ("tenants", "Make and list tenants."),
    "lists": ("lists", "Make and list a tenant's lists."),
    "clients": ("clients", "Make, rotate and disable OAuth clients."),
    "members": ("members", "Import members from a CSV file."),
    "people": ("people", "Show or erase all that is known of a person; record and lift complaints."),
    "suppressions": ("suppressions", "Suppress addresses, list suppressions and lift them."),
    "jobs": ("jobs", "Show, watch and steer send jobs, and list their deliveries."),
    "keys": ("keys", "Rotate, list and remove signing and link keys, and encrypt them under another master key."),
    "audit": ("audit", "Show the audit log, and verify that it is whole."),
    "limits": ("limits", "Set limits of the installation or of one list."),
    "serve": ("processes", "Run one service: member-center, send-engine or gateway."),
    "worker": ("processes", "Run one worker of Send Engine."),
    "migrate": ("processes", "Bring the databases to this version's schema."),
    "bootstrap": ("processes", "Make the first admin credential, and show it once."),
    "maintain": ("processes", "Do the daily upkeep of the databases."),
}


class _OnDemand(TyperGroup):
    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = {name: TyperCommand(name, help=line) for name, (_, line) in _COMMANDS.items()}

    def list_commands(self, ctx: Any) -> list[str]:
        """Names the commands in the order of the table."""
        return list(self.commands)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Loads the command that was asked for."""
        name, command, rest = super().resolve_command(ctx, args)
        if name is None or command is None:
            return name, command, rest
        module = import_module(f"messmail_cli.{_COMMANDS[name][0]}")
        loaded: Any = typer.main.get_command(module.app)
        return name, getattr(loaded, "commands", {}).get(name, loaded), rest


_app = typer.Typer(cls=_OnDemand, no_args_is_help=True, add_completion=False, rich_markup_mode=None)


@_app.callback()
def _root() -> None:
    """Newsletters for many tenants: consent kept exactly, and mail that is neither lost nor silently doubled."""


def main() -> None:
    """Runs the command line; failures become one readable line and exit status 1, wrong usage exit status 2."""
    try:
        typer.main.get_command(_app)()
    except Exception as error:
        if os.environ.get("MESSMAIL_TRACE"):
            raise
        from messmail_cli.failures import describe

        typer.echo(describe(error), err=True)
        raise SystemExit(1) from None
