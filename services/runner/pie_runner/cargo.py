"""Bytes on their way to an engine, which takes only so many between two of its steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

MAX_BYTES = 52 << 20
"""Under way at once. An engine ends the link of a runner that sends it 64 MiB in one step."""


class CargoHold:
    """Who has much to send enters, and leaves when the engine has taken it. The others wait their turn; who waits is
    parked in a host call, so there are no more of them than processes."""

    def __init__(self) -> None:
        self._used = 0
        self._waiting: deque[tuple[int, Callable[[], None]]] = deque()

    def enter(self, size: int, then: Callable[[], None]) -> Callable[[], None]:
        """Call `then`, now or when there is room; `leave` must follow it. Returns how to give up waiting."""
        item = (size, then)
        self._waiting.append(item)
        self._admit()

        def give_up() -> None:
            if item in self._waiting:
                self._waiting.remove(item)
                self._admit()

        return give_up

    def leave(self, size: int) -> None:
        """So many bytes are there."""
        self._used -= size
        self._admit()

    def end(self) -> None:
        """The engine is gone: everybody may see that for himself."""
        waiting, self._waiting = self._waiting, deque()
        for _, then in waiting:
            then()

    def _admit(self) -> None:
        while self._waiting and (not self._used or self._used + self._waiting[0][0] <= MAX_BYTES):
            size, then = self._waiting.popleft()
            self._used += size
            then()
