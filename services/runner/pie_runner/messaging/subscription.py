"""Broadcasts for one subscriber: as many as its buffer holds, and a count of the others."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from pie_wire.shares import Shares
from pie_wire.texts import byte_size

from pie_runner.waitables import Waitable, Waitables
from pie_runner.wasm.hostcall import Ok

MAX_MESSAGES = 256
MAX_BYTES = 1 << 20


class Subscription(Waitable):
    """The WIT's `subscription`."""

    def __init__(self, table: Waitables, leave: Callable[[Subscription], None], room: Shares, tenant: str) -> None:
        """`room` is for the text in all buffers."""
        super().__init__(table)
        self.lost = 0
        """Messages for which there was no room."""
        self._leave = leave
        self._room = room
        self._tenant = tenant
        self._messages: deque[str] = deque()
        self._size = 0

    @property
    def ready(self) -> bool:
        return bool(self._messages)

    def give(self, text: str) -> None:
        """A broadcast; lost if there is no room."""
        size = byte_size(text)
        full = len(self._messages) >= MAX_MESSAGES or self._size + size > MAX_BYTES
        if full or not self._room.take(self._tenant, size):
            self.lost += 1
            return
        self._messages.append(text)
        self._size += size
        self.notify()

    def next(self) -> Ok | None:
        """The oldest message; None while there is none."""
        if not self._messages:
            return None
        text = self._messages.popleft()
        size = byte_size(text)
        self._size -= size
        self._room.give_back(self._tenant, size)
        return Ok(text)

    def close(self) -> None:
        super().close()
        self._messages.clear()
        self._room.give_back(self._tenant, self._size)
        self._size = 0
        self._leave(self)
