"""The operations that wait behind an unfinished one of a context."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pie_wire.messages import engine as wire

if TYPE_CHECKING:
    from pie_engine.links.runner_link import RunnerLink
    from pie_engine.schedule.work import Queued

TOKENS = 16
"""Tokens of an operation that take as much room as an operation."""


class Line:
    """First in, first out; what it holds counts for its runner."""

    __slots__ = ("_items", "_link")

    def __init__(self, link: RunnerLink) -> None:
        self._link = link
        self._items: deque[Queued] = deque()

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Queued]:
        return iter(self._items)

    def append(self, item: Queued) -> None:
        """It is the last."""
        self._items.append(item)
        self._link.waiting += weight(item.op)

    def popleft(self) -> Queued:
        """The first, which waits no more."""
        item = self._items.popleft()
        self._link.waiting -= weight(item.op)
        return item

    def remove(self, item: Queued) -> None:
        """It waits no more."""
        self._items.remove(item)
        self._link.waiting -= weight(item.op)

    def take_all(self) -> list[Queued]:
        """All of them, which wait no more."""
        items = list(self._items)
        self._items.clear()
        self._link.waiting -= sum(weight(item.op) for item in items)
        return items


def weight(op: wire.Op) -> int:
    """What it takes to keep an operation, in operations without tokens."""
    return 1 + len(op.tokens) // TOKENS if isinstance(op, wire.Append | wire.Forward | wire.Verify) else 1
