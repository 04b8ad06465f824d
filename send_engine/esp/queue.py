"""The mails of one send call, shared by the sessions that carry them."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from send_engine.esp.port import ComposedMail, Outcome, Verdict

_UNSENT = Outcome(Verdict.unsent, begun=False)


class MailQueue:
    """Hands out mails by index and collects one outcome each. `settled` resolves when every mail has one."""

    def __init__(
        self,
        mails: Sequence[ComposedMail],
        abort: Callable[[], bool],
        on_settled: Callable[[int, Outcome], None] | None = None,
    ) -> None:
        self.mails = list(mails)
        self.abort = abort
        self._on_settled = on_settled
        self.settled = asyncio.get_running_loop().create_future()
        # The last reason why a session could not be had, for the mails that no session took.
        self.refusal: Outcome | None = None
        # Sessions in a row that ended without carrying one mail.
        self.fruitless = 0
        self._outcomes: list[Outcome | None] = [None] * len(mails)
        self._open = len(mails)
        self._waiting = deque(range(len(mails)))
        self._returned: set[int] = set()
        if not mails:
            self.settled.set_result(None)

    def __bool__(self) -> bool:
        """True while a mail waits that may still be begun."""
        return bool(self._waiting) and not self.abort()

    def take(self) -> int | None:
        """Returns the next mail, None when there is none. Whether it may still be begun is for the caller to ask."""
        return self._waiting.popleft() if self._waiting else None

    def give_back(self, index: int) -> None:
        """Takes back a mail that was handed out and not begun."""
        self._waiting.appendleft(index)

    def give_back_once(self, index: int) -> bool:
        """Takes back a mail whose session was found dead, unless that has happened to it before."""
        if index in self._returned:
            return False
        self._returned.add(index)
        self.give_back(index)
        return True

    def settle(self, index: int, outcome: Outcome) -> None:
        """Records what became of one mail."""
        self._outcomes[index] = outcome
        if self._on_settled is not None:
            self._on_settled(index, outcome)
        self._open -= 1
        if self._open == 0 and not self.settled.done():
            self.settled.set_result(None)

    def outcomes(self, rest: Outcome) -> list[Outcome]:
        """Returns all outcomes; those nobody began are unsent after an abort, else `rest`."""
        if self._waiting and self.abort():
            rest = _UNSENT
        for index, outcome in enumerate(self._outcomes):
            if outcome is None:
                self.settle(index, rest)
        return [outcome or rest for outcome in self._outcomes]
