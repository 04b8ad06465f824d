"""SMTP account URLs: `smtp://`, `smtps://`, credentials and the wish for STARTTLS.

An error message never repeats the URL, since that holds the password.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import parse_qs, unquote, urlsplit


class StartTls(StrEnum):
    """When to ask for STARTTLS. On loopback `if_offered` does not ask."""

    require = "require"
    if_offered = "if-offered"


@dataclass(frozen=True, slots=True)
class SmtpAccount:
    """Where and how to hand over mail. TLS is from the first byte on with `implicit_tls`."""

    host: str
    port: int
    implicit_tls: bool = False
    starttls: StartTls = StartTls.if_offered
    user: str | None = None
    password: str | None = field(default=None, repr=False)


def parse_smtp_url(url: str) -> SmtpAccount:
    """Returns the account a URL describes: `smtp[s]://[user:password@]host[:port][?starttls=require|if-offered]`.

    Ports are 25, or 465 for smtps. Raises ValueError for anything else.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
        query = parse_qs(parts.query, strict_parsing=True) if parts.query else {}
    except ValueError:
        raise ValueError("the SMTP URL cannot be parsed") from None
    if parts.scheme not in {"smtp", "smtps"} or not parts.hostname:
        raise ValueError("the SMTP URL must be smtp://host or smtps://host")
    if parts.path not in {"", "/"} or parts.fragment:
        raise ValueError("the SMTP URL has no path")
    wishes = query.pop("starttls", [StartTls.if_offered])
    if query or len(wishes) != 1 or wishes[0] not in set(StartTls):
        raise ValueError("the SMTP URL knows the parameter starttls=require or starttls=if-offered")
    user = unquote(parts.username) if parts.username else None
    if (user is None) != (not parts.password):
        raise ValueError("the SMTP URL needs both user and password, or neither")
    implicit_tls = parts.scheme == "smtps"
    return SmtpAccount(
        host=parts.hostname,
        port=port or (465 if implicit_tls else 25),
        implicit_tls=implicit_tls,
        starttls=StartTls(wishes[0]),
        user=user,
        password=unquote(parts.password) if parts.password else None,
    )
