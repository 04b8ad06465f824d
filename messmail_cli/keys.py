"""`messmail keys`: makes new current keys."""

from enum import StrEnum
from typing import Annotated

import typer

from messmail.member_center.v1 import member_center_admin_pb2 as admin_pb2
from messmail_cli.connection import Installation, administers
from messmail_cli.printing import Answer

app = typer.Typer(no_args_is_help=True, add_completion=False)


class Ring(StrEnum):
    """A ring of keys, as the contract names it."""

    SIGNING = "signing"
    LINKS = "links"


@app.callback()
def _keys() -> None:
    """Rotate signing and link keys."""


@app.command()
@administers
def rotate(
    installation: Installation,
    ring: Annotated[
        Ring | None, typer.Argument(help="Keys that sign access tokens, or that seal links. Left out: both.")
    ] = None,
) -> Answer:
    """Make a new current key. What older keys signed or sealed stays good for its own life."""
    made = {}
    for one in [ring] if ring else list(Ring):
        request = admin_pb2.RotateKeysRequest(ring=admin_pb2.KeyRing.Value(f"KEY_RING_{one.name}"))
        made[one.value] = list(installation.member_center_admin.RotateKeys(request).key_ids)
    return Answer(made, "\n".join(f"{name}: {', '.join(ids)}" for name, ids in made.items()))
