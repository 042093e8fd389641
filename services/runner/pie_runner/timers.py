"""Deadlines of sleeping programs."""

from __future__ import annotations

import heapq
from collections.abc import Callable


class Timers:
    """A heap of calls to make at given times; cancelled ones are skipped, and swept when they are the majority."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int]] = []
        self._calls: dict[int, Callable[[], None]] = {}
        self._next = 1

    def __len__(self) -> int:
        return len(self._calls)

    def at(self, when: float, call: Callable[[], None]) -> Callable[[], None]:
        """Call at clock time `when`. Returns how to cancel."""
        number = self._next
        self._next += 1
        self._calls[number] = call
        heapq.heappush(self._heap, (when, number))
        return lambda: self._cancel(number)

    def run(self, now: float) -> None:
        """Make the calls that are due."""
        while self._heap and self._heap[0][0] <= now:
            _, number = heapq.heappop(self._heap)
            call = self._calls.pop(number, None)
            if call is not None:
                call()

    def next_at(self) -> float | None:
        """When the next call is due."""
        while self._heap and self._heap[0][1] not in self._calls:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def _cancel(self, number: int) -> None:
        if self._calls.pop(number, None) is not None and len(self._heap) > 64 + 2 * len(self._calls):
            self._heap = [item for item in self._heap if item[1] in self._calls]
            heapq.heapify(self._heap)
