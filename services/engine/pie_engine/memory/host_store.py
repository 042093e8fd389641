"""Pages in host memory: the device's side of the swap tier."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pie_engine.passes.page_moves import Moves

Bytes = NDArray[np.uint8]

_TOGETHER = 16
"""Pages read or written in one go: what is in memory twice meanwhile."""


class Paged(Protocol):
    """Whatever has pages: a model, or what stands in for one."""

    def read_pages(self, pages: Sequence[int]) -> Bytes:
        """Whole pages as `[n, page_bytes]`; a copy."""
        ...

    def write_pages(self, pages: Sequence[int], blocks: Bytes) -> None:
        """The reverse."""
        ...


class HostStore:
    """One block of bytes per slot. The core bounds the number of slots; memory is taken at a slot's first use."""

    def __init__(self, pool: Paged, clock: Callable[[], float] = time.perf_counter) -> None:
        """`clock` gives seconds."""
        self._pool = pool
        self._clock = clock
        self._blocks: dict[int, Bytes] = {}

    def carry_out(self, moves: Moves) -> None:
        """All that leave in order, then all that come back; notes the time and that it is done."""
        started = self._clock()
        for at in range(0, len(moves.out), _TOGETHER):
            some = moves.out[at : at + _TOGETHER]
            for (_, slot), block in zip(some, self._pool.read_pages([page for page, _ in some]), strict=True):
                self._keep(slot, block)
        for at in range(0, len(moves.back), _TOGETHER):
            some = moves.back[at : at + _TOGETHER]
            self._pool.write_pages([page for _, page in some], np.stack([self._blocks[slot] for slot, _ in some]))
        moves.seconds = self._clock() - started
        moves.done = True

    def _keep(self, slot: int, block: Bytes) -> None:
        mine = self._blocks.get(slot)
        if mine is None:
            self._blocks[slot] = block.copy()
        else:
            mine[:] = block
