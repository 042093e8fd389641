"""How short pages are at one engine, as it last told, and who waits for that to change."""

from __future__ import annotations

from pie_wire.errors import PieError
from pie_wire.messages.runner import Pressure

from pie_runner.waitables import Completion, Waitables

LEVELS = ("low", "medium", "high")


class PressureWatch:
    """One for each session. Who waits is bounded by the waitables that its process may have."""

    def __init__(self) -> None:
        self.now = Pressure("low", 0.0)
        self._waiting: dict[Completion, tuple[int, bool]] = {}

    def wait(self, table: Waitables, level: str, *, rising: bool) -> Completion:
        """Completes when the level is at most this or, with `rising`, at least this."""
        done = Completion(table, lambda: self._forget(done))
        border = LEVELS.index(level)
        if self._reached(border, rising):
            done.complete()
        else:
            self._waiting[done] = (border, rising)
        return done

    def told(self, pressure: Pressure) -> None:
        """The engine says so."""
        self.now = pressure
        for done in [done for done, (border, rising) in self._waiting.items() if self._reached(border, rising)]:
            del self._waiting[done]
            done.complete()

    def end(self, error: PieError) -> None:
        """Nothing more will be told."""
        waiting, self._waiting = self._waiting, {}
        for done in waiting:
            done.complete(error)

    def _reached(self, border: int, rising: bool) -> bool:
        level = LEVELS.index(self.now.level)
        return level >= border if rising else level <= border

    def _forget(self, done: Completion) -> None:
        self._waiting.pop(done, None)
