"""Which replies ask us to slow down, for how long, and what that means for a domain.

A throttle is about how fast we are, never about the recipient: it slows its domain and fails nobody. Greylisting, full
mailboxes and those that get too much are none, so they are deferred as ever. What a relay says before it knows the
recipient is its own affair, and no domain's.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from send_engine.esp.port import Outcome, Verdict

LONGEST_REST_SECONDS = 600.0

_CODES = frozenset({421, 429})
# RFC 3463: the network or the system is congested; 4.7.28 is what Gmail says of a rate that is unusual.
_ENHANCED = frozenset({"4.3.2", "4.4.5", "4.7.28"})
_WORDS = re.compile(
    r"throttl|rate.?limit|(?:sending|message|mail|recipient) rate|too (?:many|fast|quick)|slow down", re.I
)
# RFC 3463 3: what is said of an address (X.1.x) or of a mailbox (X.2.x) is not said of its domain.
_OF_ONE_MAILBOX = ("4.1.", "4.2.", "5.1.", "5.2.")
# "in 60", "60 seconds" and "in 60 s", but no number that stands there for something else, such as an address.
_REST = re.compile(
    r"(?:retry|try|wait)\D{0,30}?(\bin\s+)?(?<![\w.])(\d{1,5})(?!\.?\d)"
    r"\s*(s|secs?|seconds?|m|mins?|minutes?|h|hours?)?\b",
    re.I,
)
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def is_throttle(outcome: Outcome) -> bool:
    """Tells whether a mail was put off because we are too fast for its domain."""
    return outcome.about_recipient and _asks_to_slow_down(outcome)


def is_relays(outcome: Outcome) -> bool:
    """Tells whether a mail was put off because we are too fast for the relay, whoever the mail is for."""
    return not outcome.about_recipient and _asks_to_slow_down(outcome)


def rest_asked_for(reply: str) -> float:
    """Returns the seconds that a reply asks us to wait ("try again in 5 minutes"), at most ten minutes; else 0."""
    found = _REST.search(reply)
    if found is None or not (found[1] or found[3]):
        return 0.0
    return min(float(found[2]) * _UNITS[(found[3] or "s")[0].lower()], LONGEST_REST_SECONDS)


def slowdowns(outcomes: Iterable[tuple[str, Outcome]], seconds: float) -> dict[str, tuple[float, float]]:
    """Returns which domains throttled among mails sent within some seconds.

    For each: the mails a second that it was sent meanwhile, and the seconds that it asks us to rest.
    """
    rests: dict[str, float] = {}
    sent = Counter[str]()
    for domain, outcome in outcomes:
        sent[domain] += outcome.begun
        if is_throttle(outcome):
            rests[domain] = max(rests.get(domain, 0.0), rest_asked_for(outcome.reply))
    return {domain: (sent[domain] / max(seconds, 0.1), rest) for domain, rest in rests.items()}


def _asks_to_slow_down(outcome: Outcome) -> bool:
    if outcome.verdict is not Verdict.deferred or outcome.code is None:
        return False
    if outcome.enhanced is not None and outcome.enhanced.startswith(_OF_ONE_MAILBOX):
        return False
    if outcome.code in _CODES or outcome.enhanced in _ENHANCED:
        return True
    return _WORDS.search(outcome.reply) is not None
