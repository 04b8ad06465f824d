"""`messmail keys`: makes new current keys, shows them all, takes one away, and encrypts them under a new master key."""

from enum import StrEnum
from typing import Annotated

import typer

from messmail.member_center.v1 import member_center_admin_pb2 as admin_pb2
from messmail.send_engine.v1 import send_engine_admin_pb2
from messmail_cli.connection import Installation, administers
from messmail_cli.printing import Answer, facts_of, table

app = typer.Typer(no_args_is_help=True, add_completion=False)


class Ring(StrEnum):
    """A ring of keys, as the contract names it."""

    SIGNING = "signing"
    LINKS = "links"


@app.callback()
def _keys() -> None:
    """Rotate, list and remove signing and link keys, and encrypt them under another master key."""


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


@app.command("list")
@administers
def list_keys(installation: Installation) -> Answer:
    """List the keys of both rings, newest first, and the master key that each is encrypted under."""
    keys = []
    for key in installation.member_center_admin.ListKeys(admin_pb2.ListKeysRequest()).keys:
        ring = Ring[admin_pb2.KeyRing.Name(key.ring).removeprefix("KEY_RING_")].value
        state = admin_pb2.KeyState.Name(key.state).removeprefix("KEY_STATE_").lower()
        keys.append(facts_of(key) | {"ring": ring, "state": state})
    columns = ("ring", "key_id", "purpose", "state", "created_at", "master_key_id")
    rows = [[one[column] for column in columns] for one in keys]
    return Answer({"keys": keys}, table(("ring", "key", "purpose", "state", "made", "master key"), rows))


@app.command()
@administers
def remove(
    installation: Installation,
    ring: Annotated[Ring, typer.Argument(help="The ring.")],
    key: Annotated[str, typer.Argument(help="The id of the key, as `messmail keys list` shows it.")],
) -> Answer:
    """Take a key away that is in the wrong hands. What it signed or sealed is refused everywhere within 30 seconds.

    Access tokens are simply asked for again. Links of a key of links stay dead, in mails that were sent, too.
    """
    request = admin_pb2.RemoveKeyRequest(ring=admin_pb2.KeyRing.Value(f"KEY_RING_{ring.name}"), key_id=key)
    removed = installation.member_center_admin.RemoveKey(request)
    instead = f"; in its place there is {removed.made_key_id}" if removed.made_key_id else ""
    return Answer(facts_of(removed), f"Key {key} is gone{instead}")


@app.command()
@administers
def reencrypt(installation: Installation) -> Answer:
    """Encrypt everything that is stored encrypted under the first master key of each service.

    Afterwards the other master keys can be dropped: see docs/operations.md.
    """
    center = installation.member_center_admin.ReencryptKeys(admin_pb2.ReencryptKeysRequest())
    engine = installation.send_engine_admin.ReencryptCredentials(send_engine_admin_pb2.ReencryptCredentialsRequest())
    facts = {"member_center": facts_of(center), "send_engine": facts_of(engine)}
    lines = [
        f"{name}: {one['reencrypted']} secrets are encrypted under master key {one['master_key_id']}"
        for name, one in facts.items()
    ]
    return Answer(facts, "\n".join(lines))
