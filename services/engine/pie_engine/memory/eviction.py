"""What happens to a context that gives up its pages, and to one that comes back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

from pie_wire.messages.runner import Receipt

from pie_engine.contexts.context import Absence, Context
from pie_engine.memory.kv_cache import KvCache
from pie_engine.memory.swapping import Swapping
from pie_engine.passes.batch import Load
from pie_engine.schedule.cost import CostModel

Reason = Literal["pressure", "cap", "suspend"]

_START_COPY_MS = 0.1
"""Milliseconds to copy a page one way, before any was measured."""
_LEARN = 0.2


class Eviction:
    """Takes pages from contexts by the cheaper way, tells their owners, and counts what it cost.

    A context is swapped when copying its pages out and back takes less than computing its tokens again, and when the
    tier has room for it: slots of contexts that stand lower and can be computed again are taken. An impure context is
    swapped or, in the end, killed.
    """

    def __init__(self, cache: KvCache, cost: CostModel, clock: Callable[[], float]) -> None:
        """`clock` gives seconds."""
        self._cache = cache
        self._swapping = Swapping(cache)
        self._cost = cost
        self._clock = clock
        self._away: dict[Context, None] = {}
        self._copy_ms = _START_COPY_MS
        self._killed: list[Context] = []
        self.evictions = 0
        """Contexts that lost their pages to others."""
        self.recomputed = 0
        """Tokens computed a second time."""
        self.moved = 0
        """Pages copied, out and back."""
        self.kills = 0
        """Contexts that could not be kept anywhere."""
        self.price = 0.0
        """The bid of the last context that lost its pages to others."""

    def can_keep(self, context: Context) -> bool:
        """Its KV could come back, whatever way, if it gave up its pages now."""
        return not context.impure or self._tier_room(context) >= self._swapping.slots_needed(context)

    def evict(self, context: Context, reason: Reason) -> None:
        """Give all its pages back. Callers ask `can_keep` first."""
        pages, length = len(self._cache.held(context)), context.kv_length
        if reason != "suspend":
            self.evictions += 1
            self.price = context.standing
        how: Literal["swapped", "recomputed"] = "swapped" if self._swaps(context) else "recomputed"
        if how == "swapped":
            self._make_tier_room(context, self._swapping.slots_needed(context))
            self.moved += self._swapping.out(context)
            self._away[context] = None
        else:
            self._cache.evict(context)
        before = context.absence
        if before is None or length > before.length:
            since = self._clock() if before is None else before.since
            context.absence = Absence(reason if before is None else before.reason, how, since, length)
        context.link.outbox.receipt(Receipt(context.id, "evicted", reason, how, length, pages))

    def kill(self, context: Context) -> None:
        """Its pages are needed and its KV can be kept nowhere: the context is lost, which `take_killed` tells."""
        self._cache.clear(context)
        self._killed.append(context)
        self.kills += 1
        context.dead = True

    def take_killed(self) -> list[Context]:
        """Contexts killed since the last call."""
        killed, self._killed = self._killed, []
        return killed

    def lose_all(self, contexts: Iterable[Context]) -> None:
        """Copies were not made as planned, so that no page can be trusted: everything is computed again."""
        for context in list(contexts):
            if context.impure and (context.pages or context.swapped):
                self.kill(context)
            elif context.pages or context.swapped:
                length = context.computed
                self._cache.clear(context)
                if context.absence is None:
                    context.absence = Absence("pressure", "recomputed", self._clock(), length)
        self._away.clear()
        self._cache.pool.drop_cached()
        self._cache.swap.settle()
        self._cache.swap.pool.drop_cached()

    def bring_back(self, context: Context) -> None:
        """Copy what is in the tier into pages, which are available."""
        if context.swapped is None:
            return
        copied = self._swapping.back(context)
        self._away.pop(context, None)
        context.moved += copied
        self.moved += copied

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

    def copied(self, pages: int, seconds: float) -> None:
        """So many pages were copied in so many seconds."""
        if pages:
            self._copy_ms += _LEARN * (seconds * 1000.0 / pages - self._copy_ms)

    def copy_ms(self, pages: int) -> float:
        """Estimated milliseconds to copy so many pages one way."""
        return pages * self._copy_ms

    def _swaps(self, context: Context) -> bool:
        needed = self._swapping.slots_needed(context)
        if self._tier_room(context) < needed:
            return False
        if context.impure:
            return True
        length = context.kv_length
        again = self._cost.estimate(Load(length, 0, length * length)) - self._cost.estimate(Load())
        return self.copy_ms(needed + len(context.pages)) < again

    def _tier_room(self, context: Context) -> int:
        """Slots that could be had for this context."""
        return self._cache.swap.pool.available + sum(len(c.swapped.slots) for c in self._below(context) if c.swapped)

    def _below(self, context: Context) -> list[Context]:
        """Contexts in the tier that give up their slots to this one, first those that stand lowest."""
        for gone in [c for c in self._away if c.swapped is None]:
            del self._away[gone]
        lower = [c for c in self._away if not c.impure and (context.impure or _rank(c) < _rank(context))]
        return sorted(lower, key=_rank)

    def _make_tier_room(self, context: Context, needed: int) -> None:
        for victim in self._below(context):
            if self._cache.swap.pool.available >= needed:
                return
            self._cache.forget_swapped(victim)
            del self._away[victim]

    def _returned(self, context: Context, absence: Absence) -> None:
        how = "swapped" if context.moved else absence.how
        seconds = self._clock() - absence.since
        receipt = Receipt(context.id, "restored", absence.reason, how, context.recomputed, context.moved, seconds)
        context.link.outbox.receipt(receipt)
        context.absence = None
        context.recomputed = context.moved = 0


def _rank(context: Context) -> tuple[bool, float, int]:
    return (context.work is not None, context.standing, -context.arrival)
