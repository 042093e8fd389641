"""What is held by whom, counted anew from the holders."""

from __future__ import annotations

from pie_engine.contexts.context_table import ContextTable
from pie_engine.contexts.pins import Pins
from pie_engine.memory.kv_cache import KvCache


class Books:
    """Compares what contexts and pins hold with what pool and tier believe. Between passes only: during one, pages
    are held by copies too."""

    def __init__(self, cache: KvCache, table: ContextTable, pins: Pins) -> None:
        self._cache = cache
        self._table = table
        self._pins = pins

    def check(self) -> None:
        """Raises InternalError if page accounting is broken."""
        self._cache.pool.check_integrity(self._pages())
        self._cache.swap.pool.check_integrity(self._slots())

    def _pages(self) -> dict[int, int]:
        held: dict[int, int] = {}
        for context in self._table.contexts:
            for page in self._cache.held(context):
                held[page] = held.get(page, 0) + 1
        for page in self._pins.held():
            held[page] = held.get(page, 0) + 1
        return held

    def _slots(self) -> dict[int, int]:
        kept: dict[int, int] = {}
        for slot in (slot for c in self._table.contexts if c.swapped is not None for slot in c.swapped.slots):
            if slot != self._cache.swap.hole:
                kept[slot] = kept.get(slot, 0) + 1
        for slot in self._cache.swap.leaving():
            kept[slot] = kept.get(slot, 0) + 1
        return kept
