"""Whose turn it is: which request has waited too long, and which prompt is next."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from pie_engine.contexts.context import AccountUse, Context
from pie_engine.schedule.work import Work

_LEAST_WEIGHT = 1e-6
_PATIENCE = 10e-3
"""Seconds that a step waits for others at most."""
_PATIENCE_SHARE = 0.25
"""Of the last step's time, likewise: what two passes instead of one cost more, at least where weights are read once for
all rows of a pass."""


class Seniority:
    """Finds the senior: the oldest request that got no row for `patience` steps. It stays senior until it has ended,
    or an older one has waited as long."""

    def __init__(self, patience: int) -> None:
        self._patience = patience
        self._since: dict[Work, int] = {}
        self._senior: Work | None = None

    def choose(self, works: Sequence[Work], step: int) -> Work | None:
        """The senior among all requests with work, given in order of arrival."""
        self._since = {work: self._since.get(work, step) for work in works}
        if self._senior not in self._since:
            self._senior = None
        for work in works:
            if work is self._senior:
                break
            if step - self._since[work] >= self._patience:
                self._senior = work
                break
        return self._senior

    def promote(self, work: Work) -> Work:
        """Make this one senior now."""
        self._senior = work
        return work

    def served(self, works: Iterable[Work], step: int) -> None:
        """They got rows, or wait for another request that computes what they need."""
        self._since.update(dict.fromkeys(works, step))


class Turns:
    """The order of prompts within a step: accounts share rows by weight (start-time fair queueing, Goyal, Vin and
    Cheng 1996), and within an account the prompt with least left to compute is next, so that a short one does not wait
    for long ones. Long ones do not wait for ever: they become senior."""

    def __init__(self) -> None:
        self._waiting: set[AccountUse] = set()
        self._now = 0.0

    def order(self, works: Sequence[Work], to_go: Callable[[Work], int]) -> Iterator[Work]:
        """All of `works`; `charge` what each gets before asking for the next."""
        queues: dict[AccountUse, list[Work]] = {}
        for work in sorted(works, key=lambda w: (to_go(w), w.arrival), reverse=True):
            queues.setdefault(work.context.use, []).append(work)
        for use in queues:
            if use not in self._waiting:
                # Nobody saves up turns by having nothing to compute.
                use.served = max(use.served, self._now)
        self._waiting = set(queues)
        while queues:
            use = min(queues, key=lambda u: u.served)
            self._now = max(self._now, use.served)
            queue = queues[use]
            work = queue.pop()
            if not queue:
                del queues[use]
            yield work

    def charge(self, use: AccountUse, rows: int) -> None:
        """The account got so many rows of prompts."""
        use.served += rows / max(use.account.weight, _LEAST_WEIGHT)


class Patience:
    """How long to wait for programs that were served in the last step and go step by step: they come back a moment
    after their answers, and a pass without them would put them into the pass after it, so that two half-batches took
    turns from then on.

    Nobody is waited for twice: who was not back in time is waited for again only after it has been.
    """

    def __init__(self) -> None:
        self._expected: list[Context] = []
        self._watched: list[Context] = []
        self._since = 0.0
        self._bound = 0.0

    def served(self, contexts: Sequence[Context], now: float, seconds: float) -> None:
        """A step of so many seconds has just answered the passes of these contexts."""
        self._expected = [context for context in contexts if not context.tardy]
        self._watched = list(contexts)
        self._since = now
        self._bound = min(_PATIENCE, _PATIENCE_SHARE * seconds)

    def left(self, now: float) -> float:
        """Seconds worth waiting before the next pass; 0 when all who are expected are there."""
        if all(_is_back(context) for context in self._expected):
            return 0.0
        return max(0.0, self._since + self._bound - now)

    def planned(self) -> None:
        """The next pass begins: who is not there was late."""
        for context in self._watched:
            context.tardy = not _is_back(context)
        self._expected, self._watched = [], []


def _is_back(context: Context) -> bool:
    return context.work is not None or context.gone or context.idle or context.suspended
