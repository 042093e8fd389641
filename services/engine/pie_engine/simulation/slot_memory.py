"""The tokens themselves in place of their KV: what devices without a model keep in the pages.

Because such a device sees a context only through page table and intervals, a mistake in page accounting changes what it
answers, exactly as it would with real KV.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pie_wire.errors import InternalError

from pie_engine.passes.batch import Batch
from pie_engine.passes.outputs import Int32Array


class SlotMemory:
    """One token and its position per slot of the pool."""

    def __init__(self, pages: int, page_size: int) -> None:
        self._page_size = page_size
        self._tokens = np.full((pages + 1, page_size), -1, dtype=np.int32)
        self._positions = np.zeros((pages + 1, page_size), dtype=np.int32)

    def store(self, batch: Batch, values: Int32Array | None = None) -> None:
        """Copy pages, then keep the tokens of all rows, or `values` in their place."""
        if len(batch.copies):
            for memory in (self._tokens, self._positions):
                memory[batch.copies[:, 1]] = memory[batch.copies[:, 0]]
        self._tokens.reshape(-1)[batch.write_slots] = batch.tokens if values is None else values
        self._positions.reshape(-1)[batch.write_slots] = batch.positions

    @property
    def slot_bytes(self) -> int:
        """Bytes of one slot among the tokens, and among the positions, of a page."""
        return self._tokens.itemsize

    def read_pages(self, pages: Sequence[int]) -> NDArray[np.uint8]:
        """Whole pages as bytes `[n, page_bytes]`; a copy."""
        where = list(pages)
        return np.concatenate([self._tokens[where], self._positions[where]], axis=1).view(np.uint8)

    def write_pages(self, pages: Sequence[int], blocks: NDArray[np.uint8]) -> None:
        """The reverse of `read_pages`."""
        both = np.ascontiguousarray(blocks).view(np.int32)
        self._tokens[list(pages)] = both[:, : self._page_size]
        self._positions[list(pages)] = both[:, self._page_size :]

    def move(self, slots: Int32Array) -> None:
        """Copy slots, `[n, 2]` of (source, destination)."""
        for memory in (self._tokens, self._positions):
            flat = memory.reshape(-1)
            flat[slots[:, 1]] = flat[slots[:, 0]]

    def seen_by(self, batch: Batch, row: int) -> list[int]:
        """The tokens that row `row` attends to, in slot order.

        Raises InternalError when a slot it sees was never written.
        """
        seen = self._seen(self._tokens, batch, row)
        if len(seen) and seen.min() < 0:
            raise InternalError("a row attends to a slot that was never written")
        return seen.tolist()

    def positions_seen_by(self, batch: Batch, row: int) -> list[int]:
        """Their positions."""
        return self._seen(self._positions, batch, row).tolist()

    def _seen(self, memory: Int32Array, batch: Batch, row: int) -> Int32Array:
        segment = int(np.searchsorted(batch.segment_rows, row, side="right")) - 1
        table = batch.pages[batch.page_ptr[segment] : batch.page_ptr[segment + 1]]
        slots = memory[table].reshape(-1)
        ends = batch.interval_ptr[row : row + 2]
        return np.concatenate([slots[start:end] for start, end in batch.intervals[ends[0] : ends[1]]])
