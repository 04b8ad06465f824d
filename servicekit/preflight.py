"""What a process looks at before it serves: it does not start with settings that are not safe, and says what to do.

Each check raises RuntimeError, whose text is for whoever starts the process; none repeats a secret.
"""

from __future__ import annotations

import resource
import time
from ipaddress import ip_address
from typing import TYPE_CHECKING

import structlog

from servicekit.errors import MessmailError, Reason

if TYPE_CHECKING:
    # Whoever has no database looks at its other settings without the libraries of one.
    from servicekit.database import Database

# Those that Member Center makes have 43 characters.
_LEAST_SECRET_CHARACTERS = 32
_PATIENCE_SECONDS = 30.0
_RETRY_SECONDS = 0.5
_ROLE = """
    SELECT current_user, rolsuper, rolbypassrls,
        EXISTS (
            SELECT FROM pg_class
            WHERE relnamespace = 'public'::regnamespace AND pg_has_role(current_user, relowner, 'MEMBER')
        ),
        EXISTS (
            SELECT FROM pg_roles other
            WHERE (other.rolsuper OR other.rolbypassrls) AND pg_has_role(current_user, other.oid, 'MEMBER')
        ),
        current_setting('fsync'), current_setting('synchronous_commit'), current_setting('full_page_writes')
    FROM pg_roles WHERE rolname = current_user
"""

_log = structlog.get_logger()


def forbid_core_dumps() -> None:
    """Has the kernel write no image of this process when it crashes: it would hold keys, tokens and addresses."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def check_listen(setting: str, listen: str, way_out: str, *, allowed: bool) -> None:
    """Refuses an address beyond loopback, unless that is allowed: because it speaks TLS, or is said to be safe."""
    host = listen.rpartition(":")[0].strip("[]")
    if not (is_loopback(host) or allowed):
        raise RuntimeError(
            f"{setting} {host or '*'} is reachable from elsewhere, and this process speaks no TLS: {way_out}"
        )


def is_loopback(host: str) -> bool:
    """Tells whether a host is this machine's own; a name other than localhost may lead anywhere."""
    if host == "localhost" or host.startswith("unix:"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def check_client_secret(setting: str, secret: str) -> None:
    """Refuses a secret that Member Center never made."""
    if len(secret) < _LEAST_SECRET_CHARACTERS:
        raise RuntimeError(
            f"{setting} is too short to be a client's secret: take the one that `messmail bootstrap --with-services` "
            "or `messmail clients rotate` shows"
        )


def check_database(setting: str, database: Database) -> None:
    """Refuses a role that row level security does not hold, and a server that forgets what it has confirmed.

    Waits half a minute for a database that does not answer yet.
    """
    name, is_super, bypasses, owns, may_become, *durability = _read(database)
    if is_super or bypasses or owns or may_become:
        raise RuntimeError(
            f"{setting} names the role {name}, which row level security does not hold (superuser, BYPASSRLS or owner "
            "of the tables): name the role <database>_app, which `messmail migrate` makes"
        )
    for parameter, value in zip(("fsync", "synchronous_commit", "full_page_writes"), durability, strict=True):
        if value == "off":
            raise RuntimeError(
                f"{setting} names a PostgreSQL with {parameter} = off, which loses what it has confirmed: switch it on"
            )


def _read(database: Database) -> tuple[str, bool, bool, bool, bool, str, str, str]:
    give_up_at = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            with database.directory() as connection:
                name, *flags, fsync, commit, pages = connection.exec_driver_sql(_ROLE).one()
                return (name, *map(bool, flags), fsync, commit, pages)
        except MessmailError as error:
            if error.reason != Reason.ERROR_REASON_UNAVAILABLE or time.monotonic() > give_up_at:
                raise
            _log.warning("database.awaited", error=error.message)
            time.sleep(_RETRY_SECONDS)
