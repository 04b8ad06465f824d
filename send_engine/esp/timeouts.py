"""How long each phase of an SMTP session may take."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds per phase, RFC 5321 4.5.3.2 by default. `connect` and `quit` are ours.

    `mail` also bounds EHLO, STARTTLS, AUTH and RSET; `block` bounds the time in which no byte of a body leaves.
    """

    connect: float = 30
    greeting: float = 300
    mail: float = 300
    rcpt: float = 300
    data: float = 120
    block: float = 180
    final_dot: float = 600
    quit: float = 2
