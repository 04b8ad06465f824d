"""Access tokens for AUTH XOAUTH2: files in one folder, which whoever refreshes them rewrites.

A file is read for each session, so a new token is used from the next session on and nobody need be told. An account
names a file in the folder and never a path, since accounts are set from outside and the worker can read more than that.
Obtaining and refreshing tokens is not ours: each provider has its own way.
"""

import re
from pathlib import Path

# RFC 6750 2.1. Whatever else stands in a file must not get into a command.
_TOKEN = re.compile(rb"[A-Za-z0-9._~+/-]+=*")
_LONGEST = 8_192


def read_access_token(folder: Path | None, name: str) -> bytes | None:
    """Returns the token in a file, without surrounding white space; None when there is none that could be sent."""
    if folder is None:
        return None
    try:
        with (folder / name).open("rb") as file:
            token = file.read(_LONGEST + 1).strip()
    except OSError:
        return None
    return token if len(token) <= _LONGEST and _TOKEN.fullmatch(token) else None
