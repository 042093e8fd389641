"""What happens to a context that gives up its pages, and to one that comes back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from pie_wire.messages.runner import Receipt

from pie_engine.context import Absence, Context
from pie_engine.kv_cache import KvCache

Reason = Literal["pressure", "cap", "suspend"]


class Eviction:
    """Takes pages from contexts, tells their owners, and counts what it cost."""

    def __init__(self, cache: KvCache, clock: Callable[[], float]) -> None:
        """`clock` gives seconds."""
        self._cache = cache
        self._clock = clock
        self.evictions = 0
        """Contexts that lost their pages to others."""
        self.recomputed = 0
        """Tokens computed a second time."""
        self.price = 0.0
        """The bid of the last context that lost its pages to others."""

    def evict(self, context: Context, reason: Reason) -> None:
        """Give all its pages back; its tokens stay."""
        pages, length = len(context.pages), context.kv_length
        if reason != "suspend":
            self.evictions += 1
            self.price = context.standing
        self._cache.evict(context)
        before = context.absence
        if before is None:
            context.absence = Absence(reason, "recomputed", self._clock(), length)
        elif length > before.length:
            context.absence = Absence(before.reason, before.how, before.since, length)
        context.link.outbox.receipt(Receipt(context.id, "evicted", reason, "recomputed", length, pages))

    def computed(self, context: Context, start: int, stop: int) -> None:
        """Rows of these tokens go into a pass. A context whose KV is whole again has returned."""
        absence = context.absence
        if absence is None:
            return
        again = max(0, min(stop, absence.length) - start)
        context.recomputed += again
        self.recomputed += again
        if stop >= min(absence.length, context.length):
            self._returned(context, absence)

    def _returned(self, context: Context, absence: Absence) -> None:
        seconds = self._clock() - absence.since
        receipt = Receipt(
            context.id, "restored", absence.reason, absence.how, context.recomputed, context.moved, seconds
        )
        context.link.outbox.receipt(receipt)
        context.absence = None
        context.recomputed = context.moved = 0
