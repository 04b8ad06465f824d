"""The unprivileged account PostgreSQL runs as when root starts the stack: PostgreSQL refuses to run as root.

Accounts are only looked up. None is made, and no permission is changed to let one in somewhere.
"""

import os
import pwd
import subprocess
from dataclasses import dataclass
from pathlib import Path

from local_stack.errors import StackError

_CANDIDATES = ("nobody", "postgres", "daemon")


@dataclass(frozen=True)
class Account:
    """A user of this machine that a process can run as."""

    name: str
    uid: int
    gid: int

    def can_run(self, *command: str) -> bool:
        """Tells whether this account can run the command and it succeeds."""
        try:
            ended = subprocess.run(
                command,
                user=self.uid,
                group=self.gid,
                extra_groups=[],
                cwd="/",
                env={"PATH": os.defpath},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
            )
        except PermissionError:
            return False
        return ended.returncode == 0


def unprivileged_account(owner_of: Path) -> Account | None:
    """Chooses the account for a server: None for an ordinary user, who runs it himself.

    Files of an earlier run decide: their owner keeps them. Raises StackError when root has no account to give it.
    """
    if os.geteuid() != 0:
        return None
    if owner_of.exists() and (uid := owner_of.stat().st_uid) != 0:
        known = pwd.getpwuid(uid)
        return Account(known.pw_name, known.pw_uid, known.pw_gid)
    for name in _CANDIDATES:
        try:
            known = pwd.getpwnam(name)
        except KeyError:
            continue
        if known.pw_uid != 0:
            return Account(known.pw_name, known.pw_uid, known.pw_gid)
    raise StackError(
        f"PostgreSQL refuses to run as root, and this machine has none of the accounts {', '.join(_CANDIDATES)}. "
        "Run as an ordinary user, or give MEMBER_CENTER_DATABASE_URL and SEND_ENGINE_DATABASE_URL."
    )
