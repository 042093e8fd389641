"""Broadcasts for one subscriber: as many as its buffer holds, and a count of the others."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from pie_runner.waitables import Waitable, Waitables
from pie_runner.wasm.hostcall import Ok

MAX_MESSAGES = 256
MAX_BYTES = 1 << 20


class Subscription(Waitable):
    """The WIT's `subscription`."""

    def __init__(self, table: Waitables, leave: Callable[[Subscription], None]) -> None:
        super().__init__(table)
        self.lost = 0
        """Messages that came while the buffer was full."""
        self._leave = leave
        self._messages: deque[str] = deque()
        self._size = 0

    @property
    def ready(self) -> bool:
        return bool(self._messages)

    def give(self, text: str) -> None:
        """A broadcast; lost if there is no room."""
        if len(self._messages) >= MAX_MESSAGES or self._size + len(text) > MAX_BYTES:
            self.lost += 1
            return
        self._messages.append(text)
        self._size += len(text)
        self.notify()

    def next(self) -> Ok | None:
        """The oldest message; None while there is none."""
        if not self._messages:
            return None
        text = self._messages.popleft()
        self._size -= len(text)
        return Ok(text)

    def close(self) -> None:
        super().close()
        self._leave(self)
