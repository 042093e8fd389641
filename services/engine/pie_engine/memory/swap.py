"""Host memory for pages of contexts that had to leave the pool. Numbers only, no tensor.

Slots of the tier are counted like pages of the pool: owned by contexts that are away, or cached by content when those
have returned, so that a prefix that many contexts share is copied and kept once. The copies themselves are made by the
device, ahead of the pass they are planned for: all that leave first, then all that come back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pie_engine.memory.pages import PagePool

Move = tuple[int, int]


@dataclass(slots=True)
class Swapped:
    """Where the KV of a context is while it is away: slots of the tier in the order of its pages, with the tier's
    size standing for a page that it had given up, and what it had."""

    slots: list[int]
    length: int
    published: int


class SwapTier:
    """Slots and the moves that wait for the next pass."""

    def __init__(self, slots: int, page_size: int) -> None:
        self.pool = PagePool(slots, page_size)
        self.hole = slots
        self._out: list[Move] = []
        self._back: list[Move] = []
        self._leaving: list[int] = []

    @property
    def moves(self) -> int:
        """Pages that the next pass will copy."""
        return len(self._out) + len(self._back)

    @property
    def pending(self) -> bool:
        """Moves wait for a pass."""
        return bool(self._out or self._back)

    def must_take(self, content: bytes | None) -> bool:
        """A page of this content would need one of the slots that are available."""
        found = self.pool.find(content) if content is not None else None
        return found is None or not self.pool.is_owned(found)

    def keep(self, pages: Sequence[tuple[int, bytes | None]]) -> list[int]:
        """Slots for pages of the pool, each with its content if it has been published. Callers look at
        `pool.available` and `must_take`."""
        found = [self.pool.find(content) if content is not None else None for _, content in pages]
        for slot in found:
            if slot is not None:
                self.pool.share(slot)
        return [self._take(*page) if slot is None else slot for page, slot in zip(pages, found, strict=True)]

    def _take(self, page: int, content: bytes | None) -> int:
        slot = self.pool.take()
        self._out.append((page, slot))
        if content is not None:
            self.pool.publish(slot, content)
        return slot

    def bring(self, slot: int, page: int) -> None:
        """Copy back into a page of the pool."""
        self._back.append((slot, page))

    def release_after(self, slot: int) -> None:
        """Give up a slot when the next pass is over: it may be read until then."""
        self._leaving.append(slot)

    def take_moves(self) -> tuple[list[Move], list[Move]]:
        """(page, slot) that leave and (slot, page) that come back, for the next pass."""
        moves = self._out, self._back
        self._out, self._back = [], []
        return moves

    def settle(self) -> None:
        """The pass is over."""
        leaving, self._leaving = self._leaving, []
        for slot in leaving:
            self.pool.release(slot)

    def leaving(self) -> list[int]:
        """Slots given up that are still held."""
        return self._leaving
