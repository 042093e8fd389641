"""Waiting in turns. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
P = TypeVar("P")


class Lines(Generic[T]):
    """A line for each owner, first come first served. Owners take turns, so that nobody waits behind another owner that
    has no place to go to, or that came with many. Items are hashable."""

    def __init__(self) -> None:
        self._lines: dict[str, dict[T, None]] = {}
        """By owner in the order of turns."""

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def __contains__(self, owner: str) -> bool:
        return owner in self._lines

    def add(self, owner: str, item: T) -> None:
        """To the end of its owner's line."""
        self._lines.setdefault(owner, {})[item] = None

    def put_back(self, owner: str, item: T) -> None:
        """Before all others of its owner: it has been next already."""
        self._lines[owner] = {item: None, **self._lines.get(owner, {})}

    def discard(self, owner: str, item: T) -> None:
        """It waits no more, if it did."""
        line = self._lines.get(owner, {})
        line.pop(item, None)
        if not line:
            self._lines.pop(owner, None)

    def take(self, find: Callable[[str], P | None]) -> tuple[T, P] | None:
        """The next item with the place that `find` has for its owner; None when there is a place for no owner."""
        for owner, line in self._lines.items():
            place = find(owner)
            if place is not None:
                item = next(iter(line))
                del line[item], self._lines[owner]
                if line:
                    self._lines[owner] = line  # its next turn comes after those of all others
                return item, place
        return None

    def overdue(self, is_due: Callable[[T], bool]) -> list[T]:
        """Those that have waited too long, where each line is in the order of deadlines. They stay until discarded."""
        found: list[T] = []
        for line in self._lines.values():
            for item in line:
                if not is_due(item):
                    break
                found.append(item)
        return found
