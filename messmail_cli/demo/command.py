"""`messmail demo`: finds or starts a stack, walks the guide, and stays up."""

import contextlib
import signal
from typing import Annotated

import typer

from messmail_cli.connection import DEFAULT_DATA_DIR, DataDir, Installation
from messmail_cli.demo.mailbox import Mailbox
from messmail_cli.demo.running_stack import RunningStack
from messmail_cli.demo.scene import set_scene
from messmail_cli.demo.site import TenantSite
from messmail_cli.demo.stage import Stage
from messmail_cli.demo.walk import Walk
from messmail_cli.failures import CommandFailed

app = typer.Typer(add_completion=False)


@app.command()
def demo(
    data_dir: DataDir = DEFAULT_DATA_DIR,
    once: Annotated[bool, typer.Option("--once", help="End after the walk, with status 0 when all went well.")] = False,
) -> None:
    """Walk the published guide's seven steps for real, with 1,000 members.

    Uses the stack that runs in the data directory, or starts one; then stays up until Ctrl-C. Ends with status 1 when
    not exactly the audience was mailed.
    """
    # Whoever ends the demonstration, and however politely, ends the stack that it started.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    stage = Stage()
    running = RunningStack(data_dir)
    try:
        stack = running.stack
        if not stack.mailbox:
            raise CommandFailed(
                "This stack sends through a relay, so nothing can be counted", "Use another --data-dir."
            )
        installation = Installation(
            stack.member_center, stack.send_engine, stack.admin_client_id, stack.admin_client_secret
        )
        stage.step("0", "The operator makes a tenant, a list, a client, and imports 1,000 members")
        scene = set_scene(installation)
        stage.say(f"tenant_id {scene.tenant_id}\nlist_id   {scene.list_id}\nclient_id {scene.client_id}")
        mailed = Walk(stage, TenantSite(stack.http), Mailbox(stack.mailbox), scene).run()
        stage.say(f"\n{mailed:,} mails arrived: each person of the audience has exactly one, and nobody else has any.")
        if not once:
            stage.say(f"\nOpen  {stack.http}/docs   the calls that a tenant site can make")
            stage.say(f"      {stack.mailbox}   every mail that was sent")
            stage.say("Ctrl-C ends." if running.started_here else "The stack goes on.")
            with contextlib.suppress(KeyboardInterrupt):
                running.stay()
    finally:
        running.stop()
