"""How often the authentication of an OAuth client may fail (RFC 6749 section 2.3.1: protect it from brute force).

Failures are counted for each client from each IP address, and for each IP address. Above the first limit the secret is
not even looked at, so that guessing ends, for that client from that address only. Above the second a wrong secret is
answered RATE_LIMITED while a right one works: nobody is refused for what others behind the same address got wrong.
Guesses under way at once may pass the first limit together, as many as there are threads; only ten are told "wrong".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from member_center.counting import Counting, network_of
from member_center.oauth import read_client_id
from member_center.records.installation import Limits
from member_center.storage.windows import Window
from servicekit.access import Caller
from servicekit.audit import AuditLog, Event
from servicekit.errors import MessmailError, Reason

_MINUTE = 60


class LoginLimits:
    """Counts failed authentications, and the calls of those that succeed."""

    def __init__(self, counting: Counting, in_force: Callable[[], Limits], audit: AuditLog) -> None:
        self._counting = counting
        self._in_force = in_force
        self._audit = audit

    @contextmanager
    def attempt(self, caller: Caller, client_id: str) -> Iterator[None]:
        """Holds a call within to its limits, in which a client authenticates; raises RATE_LIMITED.

        The calls of a client are counted apart from those it makes with a token, and for each address that they come
        from: whoever only knows its id cannot use them up.
        """
        network = network_of(caller.ip)
        client = read_client_id(client_id).bytes + network
        failures = self._window("failed_logins_per_client_and_ip_per_minute", client)
        calls = self._window("calls_per_client_per_minute", b"token" + client)
        try:
            self._counting.admit([replace(failures, is_counted=False), calls])
        except MessmailError as error:
            # Whose id a stranger typed is not written down.
            self._audit.record(Event.of_caller("client_authentication_limited", limit=error.metadata["limit"]))
            raise
        try:
            yield
        except MessmailError as error:
            if error.reason == Reason.ERROR_REASON_CLIENT_AUTHENTICATION_FAILED:
                self._counting.add([failures, self._window("failed_logins_per_ip_per_minute", network)])
            raise

    def _window(self, name: str, counted: bytes) -> Window:
        return self._counting.window(name, counted, getattr(self._in_force(), name), _MINUTE)
