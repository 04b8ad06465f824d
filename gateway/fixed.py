"""Handlers of the paths that are the gateway's own: health, readiness, its documents and its stylesheet."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from gateway.exchange import Answer, Headers, HttpRequest
from gateway.problems import problem_answer
from servicekit.errors import MessmailError


@dataclass(frozen=True, slots=True)
class Fixed:
    """A handler that runs a function without parameters."""

    template: str
    respond: Callable[[], Awaitable[Answer]]
    documentation: str

    async def answer(self, request: HttpRequest, path_fields: Mapping[str, str]) -> Answer:
        """Answers every request alike."""
        return await self.respond()

    def refuse(self, error: MessmailError, request: HttpRequest) -> Answer:
        """Puts an error into problem+json."""
        return problem_answer(error, request.request_id, self.documentation)

    async def preflight(self, request: HttpRequest, methods: str) -> Headers:
        """Lets no page of another origin call."""
        return ()


def unchanging(answer: Answer) -> Callable[[], Awaitable[Answer]]:
    """Returns what always gives this answer."""

    async def respond() -> Answer:
        return answer

    return respond
