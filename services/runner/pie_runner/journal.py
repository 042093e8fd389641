"""What the engine may still refuse of a context's operations, and how to take it back."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from pie_runner.layout import PLAIN, Layout


@dataclass(slots=True)
class Undo:
    """How to take back operation `number`: keep `keep` tokens, then put `tail` back; the layout is as it was."""

    number: int
    generation: int
    keep: int
    tail: list[int]
    layout: Layout


@dataclass(slots=True)
class Birth(Undo):
    """A create or fork: when it fails, the context is dead."""

    generation: int = 0
    keep: int = 0
    tail: list[int] = field(default_factory=list[int])
    layout: Layout = PLAIN


class Journal:
    """Of one context; oldest first."""

    def __init__(self) -> None:
        self._entries: deque[Undo] = deque()

    def __bool__(self) -> bool:
        return bool(self._entries)

    @property
    def last(self) -> int:
        """Number of the newest operation that the engine may still refuse; 0 when there is none."""
        return self._entries[-1].number if self._entries else 0

    def add(self, entry: Undo) -> None:
        """An operation was sent."""
        self._entries.append(entry)

    def acknowledge(self, acked: int) -> None:
        """Operations up to `acked` were applied: they need no undoing any more."""
        while self._entries and self._entries[0].number <= acked:
            self._entries.popleft()

    def take_back(self, first: int, generation: int) -> Iterator[Undo]:
        """What is to be undone, newest first, when the engine has not applied `first` nor anything after it that is
        older than a generation: what was sent in that one knew of the failure. 0: nothing after it was applied."""
        while self._entries and self._entries[-1].number >= first:
            if generation and self._entries[-1].generation >= generation:
                return
            yield self._entries.pop()

    def clear(self) -> None:
        """Nothing of it matters any more."""
        self._entries.clear()
