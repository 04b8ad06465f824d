"""SMTP account URLs: `smtp://`, `smtps://`, credentials or the name of an access token, and the wish for STARTTLS.

An error message never repeats the URL, since that holds the password.
"""

import re
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import parse_qs, unquote, urlsplit

_SCHEMES = {"smtp", "smtps", "smtp+xoauth2", "smtps+xoauth2"}
# A file's name, and no way out of the folder it lies in.
_TOKEN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class StartTls(StrEnum):
    """When to ask for STARTTLS. On loopback `if_offered` does not ask."""

    require = "require"
    if_offered = "if-offered"


@dataclass(frozen=True, slots=True)
class SmtpAccount:
    """Where and how to hand over mail. TLS is from the first byte on with `implicit_tls`.

    A user comes with a password, or with the name of an access token for AUTH XOAUTH2 (see `access_tokens`).
    """

    host: str
    port: int
    implicit_tls: bool = False
    starttls: StartTls = StartTls.if_offered
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    token_name: str | None = None


def parse_smtp_url(url: str) -> SmtpAccount:
    """Returns the account that a URL describes.

    `smtp[s]://[user:password@]host[:port][?starttls=require|if-offered]`, or
    `smtp[s]+xoauth2://user@host[:port]?token=NAME[&starttls=…]`. Ports are 25, or 465 for smtps. Raises ValueError for
    anything else.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
        query = parse_qs(parts.query, strict_parsing=True) if parts.query else {}
    except ValueError:
        raise ValueError("the SMTP URL cannot be parsed") from None
    if parts.scheme not in _SCHEMES or not parts.hostname:
        raise ValueError("the SMTP URL must be smtp://host or smtps://host")
    if parts.path not in {"", "/"} or parts.fragment:
        raise ValueError("the SMTP URL has no path")
    wishes = query.pop("starttls", [StartTls.if_offered])
    tokens = query.pop("token", [])
    if query or len(wishes) != 1 or wishes[0] not in set(StartTls):
        raise ValueError("the SMTP URL knows the parameter starttls=require or starttls=if-offered")
    scheme, _, mechanism = parts.scheme.partition("+")
    if mechanism:
        if not parts.username or parts.password or len(tokens) != 1 or not _TOKEN_NAME.fullmatch(tokens[0]):
            raise ValueError("the SMTP URL for XOAUTH2 needs a user, no password, and token=NAME")
    elif tokens:
        raise ValueError("the SMTP URL names an access token, which needs smtp+xoauth2:// or smtps+xoauth2://")
    elif bool(parts.username) != bool(parts.password):
        raise ValueError("the SMTP URL needs both user and password, or neither")
    implicit_tls = scheme == "smtps"
    return SmtpAccount(
        host=parts.hostname,
        port=port or (465 if implicit_tls else 25),
        implicit_tls=implicit_tls,
        starttls=StartTls(wishes[0]),
        user=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        token_name=tokens[0] if tokens else None,
    )
