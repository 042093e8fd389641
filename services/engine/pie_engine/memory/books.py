"""What is held by whom, counted anew from the holders."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

from pie_engine.adapters.table import AdapterTable
from pie_engine.contexts.context_table import ContextTable
from pie_engine.contexts.pins import Pins
from pie_engine.memory.kv_cache import KvCache


class Books:
    """Compares what contexts and pins hold with what pool and tier believe."""

    def __init__(
        self,
        cache: KvCache,
        table: ContextTable,
        pins: Pins,
        adapters: AdapterTable,
        copied: Callable[[], Iterable[int]],
    ) -> None:
        """`copied` gives the pages that copies of the pass being executed hold."""
        self._cache = cache
        self._table = table
        self._pins = pins
        self._adapters = adapters
        self._copied = copied

    def check(self) -> None:
        """Raises InternalError if page accounting is broken."""
        self._cache.pool.check_integrity(self._pages())
        self._cache.swap.pool.check_integrity(self._slots())

    def recount(self) -> None:
        """Set all counts to what is held, after a failure that may have left them otherwise."""
        self._cache.pool.recount(self._pages())
        self._cache.swap.pool.recount(self._slots())
        self._table.recount(self._pins.held_by_account())
        for version in self._adapters.versions:
            version.users = 0
        for context in self._table.contexts:
            context.adapters.count()

    def _pages(self) -> dict[int, int]:
        held: dict[int, int] = {}
        for context in self._table.contexts:
            for page in self._cache.held(context):
                held[page] = held.get(page, 0) + 1
        for page in itertools.chain(self._pins.held(), self._copied()):
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
