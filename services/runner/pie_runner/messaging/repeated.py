"""A request to kvstore that is made again while it, or its Redis, is away."""

from __future__ import annotations

from collections.abc import Callable

from pie_wire.errors import PieError, StoreUnavailable, Unavailable
from pie_wire.hub import Answer, Hub, Scope
from pie_wire.membership import KVSTORE
from pie_wire.messages.base import Done, Request

from pie_runner.timers import Timers

ATTEMPT = 5.0
PAUSE = 0.25


class Repeated:
    """`then` is called once, with the error if there is one, unless it is cancelled first. Only for requests that may
    be carried out twice without harm."""

    def __init__(
        self,
        hub: Hub,
        timers: Timers,
        request: Request[Done],
        scope: Scope,
        then: Callable[[PieError | None], None],
        *,
        within: float | None,
    ) -> None:
        """`within` seconds it is given up with StoreUnavailable; None: never."""
        self._hub = hub
        self._timers = timers
        self._request = request
        self._scope = scope
        self._then = then
        self._deadline = None if within is None else hub.clock() + within
        self._number: int | None = None
        self._unpause: Callable[[], None] = lambda: None
        self._over = False
        self._ask()

    def cancel(self) -> None:
        """`then` will not be called. What was sent may still be carried out."""
        self._over = True
        self._unpause()
        if self._number is not None:
            self._hub.cancel(self._number)

    def _ask(self) -> None:
        left = ATTEMPT if self._deadline is None else min(ATTEMPT, self._deadline - self._hub.clock())
        try:
            self._number = self._hub.request(
                KVSTORE, self._request, self._answered, timeout=max(0.01, left), scope=self._scope
            )
        except PieError as exc:
            self._failed(exc)

    def _answered(self, answer: Answer[Done]) -> None:
        self._number = None
        if self._over:
            return
        if answer.error is None:
            self._end(None)
        else:
            self._failed(answer.error)

    def _failed(self, error: PieError) -> None:
        now = self._hub.clock()
        if not isinstance(error, Unavailable):
            self._end(error)
        elif self._deadline is not None and now + PAUSE >= self._deadline:
            late = f"messages cannot be stored or fetched now: {error.message}"
            self._unpause = self._timers.at(now, lambda: self._end(StoreUnavailable(late, cause=error.code)))
        else:
            self._unpause = self._timers.at(now + PAUSE, self._ask)

    def _end(self, error: PieError | None) -> None:
        if not self._over:
            self._over = True
            self._then(error)
