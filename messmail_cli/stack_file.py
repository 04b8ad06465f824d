"""What a running local stack leaves in its data directory for the commands: addresses and the admin credential.

`messmail up` writes the file; nothing here does.
"""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

from messmail_cli.failures import CommandFailed

FILE_NAME: Final = "stack.json"


@dataclass(frozen=True, slots=True)
class StackFile:
    """The addresses of a local stack, as HOST:PORT or URL, and its admin client."""

    http: str
    member_center: str
    send_engine: str
    mailbox: str
    smtp: str
    admin_client_id: str
    admin_client_secret: str


def read_stack_file(data_dir: Path) -> StackFile | None:
    """Reads the file; None when no stack was ever started there. Raises CommandFailed when it cannot be read."""
    file = data_dir / FILE_NAME
    try:
        content = json.loads(file.read_text("utf-8"))
        return StackFile(**{field.name: content.get(field.name) or "" for field in fields(StackFile)})
    except FileNotFoundError:
        return None
    except PermissionError:
        raise CommandFailed(
            f"You may not read {file}",
            "Only the user who started the stack may use it this way; others set MESSMAIL_CLIENT_ID and "
            "MESSMAIL_CLIENT_SECRET.",
        ) from None
    except (ValueError, AttributeError):
        raise CommandFailed(f"{file} is damaged", "`messmail up` writes it again.") from None
