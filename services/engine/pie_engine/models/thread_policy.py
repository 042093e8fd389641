"""How many threads a pass runs on, by its size and by what else the machine does.

A pass is some hundred parallel loops of microseconds, and each ends when its slowest thread does. With cores of its own
every thread helps. When others want the cores too, a thread that lost its core for a moment holds up all the others:
then a pass of few rows is faster on one thread, while the loops of a large one are long enough to be worth it.

Whether others want the cores shows in the pass itself: its thread computed for less time than has passed.
"""

from __future__ import annotations

from typing import Final

_LARGE_ROWS: Final = 32
_MEMORY: Final = 0.8
"""Of the earlier estimate, per pass: about ten passes until a change is believed."""
_CONTENDED: Final = 0.75
_CALM: Final = 0.9


class ThreadPolicy:
    """Tell it how passes went; it says how many threads the next one should have."""

    def __init__(self, cores: int, *, fixed: int = 0) -> None:
        """`fixed` threads always, unless 0."""
        self._cores = cores
        self._fixed = fixed
        self._share = 1.0
        self._contended = False

    def threads(self, rows: int) -> int:
        """For a pass of so many rows."""
        if self._fixed:
            return self._fixed
        return 1 if self._contended and rows < _LARGE_ROWS else self._cores

    def ran(self, seconds: float, computed: float) -> None:
        """A pass took `seconds`, of which its own thread computed `computed`."""
        if seconds <= 0.0:
            return
        self._share = _MEMORY * self._share + (1.0 - _MEMORY) * min(1.0, computed / seconds)
        if self._share < _CONTENDED:
            self._contended = True
        elif self._share > _CALM:
            self._contended = False
