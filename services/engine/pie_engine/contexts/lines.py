"""The order of operations within each context: what waits behind an unfinished one, and when it goes on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from pie_engine.contexts.context import Context
from pie_engine.contexts.line import weight
from pie_engine.schedule.work import Queued

MOST_WAITING = 262_144
"""Operations of one runner in all lines, with their tokens (see `Line`)."""


class Lines:
    """One line of operations per context, which is the context's `queue`."""

    def __init__(self, most: int, execute: Callable[[Context, Queued], None]) -> None:
        """`most` operations may wait in one line; `execute` carries out one whose turn it is."""
        self._most = most
        self._execute = execute
        self._ready: deque[Context] = deque()
        """Contexts whose lines may go on; not empty only inside of `advance`."""
        self._advancing = False

    def submit(self, context: Context, item: Queued) -> bool:
        """Carry out an operation now or when those before it are over; False when the line is full, or those of its
        runner are together, and it does neither."""
        if context.current is None and not context.unborn and not context.queue:
            self._execute(context, item)
        elif len(context.queue) < self._most and context.link.waiting + weight(item.op) <= MOST_WAITING:
            context.queue.append(item)
        else:
            return False
        return True

    def advance(self, context: Context) -> None:
        """What the context waited for is over: carry out what is queued.

        That may end what others wait for, or be done at once itself. All of it is carried out before the outermost
        call returns; inner ones only note the context, so that no line of operations or forks is too long.
        """
        context.current = None
        self._ready.append(context)
        if self._advancing:
            return
        self._advancing = True
        try:
            while self._ready:
                ready = self._ready.popleft()
                while ready.queue and ready.current is None and not ready.unborn:
                    self._execute(ready, ready.queue.popleft())
        finally:
            self._advancing = False
