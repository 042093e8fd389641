"""The text of a run: whole characters as tokens come, up to a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from pie_runner.detokenizer import Detokenizer
from pie_runner.stop_strings import StopStrings


class TextStream:
    """Follows the tokens that a program consumes."""

    def __init__(self, detokenizer: Detokenizer, stops: Sequence[str] = (), *, shown: bool = True) -> None:
        """`detokenizer` is fresh. Not `shown`: only the stop strings are looked for."""
        self._detokenizer = detokenizer
        self._stops = StopStrings(stops) if stops else None
        self.shown = shown
        """Whether there is text beside stop strings."""

    @property
    def stopped(self) -> bool:
        """A stop string is complete."""
        return self._stops is not None and self._stops.found

    def feed(self, token: int) -> str:
        """Text that the token completes, as far as it is known not to begin a stop string."""
        return self._pass(self._detokenizer.feed([token]))

    def finish(self) -> str:
        """What was held back: no token follows."""
        text = self._pass(self._detokenizer.finish())
        if self._stops is not None and self.shown:
            text += self._stops.finish()
        return text

    def _pass(self, piece: str) -> str:
        text = piece if self._stops is None else self._stops.feed(piece)
        return text if self.shown else ""
