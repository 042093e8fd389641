"""Who gives up pages when they run out.

Cached pages go first, least recently used, without anybody noticing (`PagePool.take`). Then, for a request that needs
pages:

1. contexts in an idle scope and contexts with nothing to do: lowest bid first, then least recently served;
2. contexts with work that stands lower. Within an account that is a lower bid, or the same bid and a younger request.
   Of two accounts it is the one that would still hold more pages per weight if the request got what it needs.

A context that has come back is immune for some steps. Nothing that is part of the pass is taken.

Why this ends. One request, the *senior*, may take from everybody who is younger or has nothing to do, whatever bid,
account or immunity, and only an older senior takes from it. The oldest request that has waited for so many steps
becomes senior until it has ended. So the oldest request of all either advances or becomes senior, for whom everybody
makes room; it ends, another one is the oldest, and no order between the others can keep any of them from having their
turn. Only for the senior, and only when no context that gives way can be swapped or computed again, the lowest bids
among those that cannot are ended with `out_of_memory`.
"""

from __future__ import annotations

from collections.abc import Collection

from pie_engine.contexts.context import AccountUse, Context
from pie_engine.memory.eviction import Eviction
from pie_engine.memory.kv_cache import KvCache
from pie_engine.schedule.work import Work

_RESTING = 4
"""Steps without a row after which a context with nothing to do is taken to rest, rather than to be between two passes
of its program."""


class Room:
    """Makes pages available for one pass."""

    def __init__(
        self,
        cache: KvCache,
        eviction: Eviction,
        everyone: Collection[Context],
        planned: set[Context],
        step: int,
        senior: Work | None,
    ) -> None:
        self._cache = cache
        self._eviction = eviction
        self._everyone = everyone
        self._planned = planned
        self._step = step
        self._senior = senior
        self._holders: list[Context] = []
        self._looked = False

    def make(self, need: int, work: Work, own: int | None = None) -> bool:
        """Evict until `need` pages are available and the account may hold `own` (default `need`) more. Nobody is
        evicted where that could not be enough."""
        use = work.context.use
        cap = use.account.page_cap
        if not cap and need <= self._cache.pool.available:
            return True
        charge = need if own is None else own
        return self._clear(need - self._cache.pool.available, work, charge, None) and (
            not cap or self._clear(use.pages + charge - cap, work, charge, use)
        )

    def yields(self, victim: Context, work: Work, need: int) -> bool:
        """The victim gives way to a request for `need` pages."""
        if victim is work.context or victim in self._planned:
            return False
        if self._rests(victim):
            return True
        younger = victim.arrival > work.arrival
        if work is self._senior:
            return younger or victim.work is None
        if victim.immune_until > self._step or (self._senior is not None and victim is self._senior.context):
            return False
        mine, theirs = work.context.use, victim.use
        if mine is theirs:
            bid = work.context.standing
            return victim.standing < bid or (victim.standing == bid and younger)
        return theirs.ratio > mine.ratio_with(need)

    def _clear(self, missing: int, work: Work, need: int, use: AccountUse | None) -> bool:
        """Evict until `missing` more pages are there: in the pool, or (with `use`) under its cap."""
        if missing <= 0:
            return True
        if not self._looked:
            self._looked = True
            self._holders = [context for context in self._everyone if context.pages]
        victims = self._victims(work, need, use)
        if sum(len(victim.pages) for victim in victims) < missing and work is not self._senior:
            return False
        while missing > 0 and victims:
            victim = min(victims, key=self._order)
            self._holders.remove(victim)
            before = self._there(use)
            self._eviction.evict(victim, "pressure" if use is None else "cap")
            missing -= self._there(use) - before
            # What an account has lost changes who is first of those left.
            victims = self._victims(work, need, use)
        if missing > 0 and work is self._senior:
            missing -= self._kill(missing, work, need, use)
        return missing <= 0

    def _kill(self, missing: int, work: Work, need: int, use: AccountUse | None) -> int:
        """Nobody who gives way can be kept anywhere: the lowest bids end. Returns how many pages that gave."""
        before = self._there(use)
        lost = [c for c in self._holders if (use is None or c.use is use) and self.yields(c, work, need)]
        for victim in sorted(lost, key=lambda c: (c.standing, -c.arrival)):
            if self._there(use) - before >= missing:
                break
            self._holders.remove(victim)
            self._eviction.kill(victim)
        return self._there(use) - before

    def _victims(self, work: Work, need: int, use: AccountUse | None) -> list[Context]:
        return [
            c
            for c in self._holders
            if (use is None or c.use is use) and self.yields(c, work, need) and self._eviction.can_keep(c)
        ]

    def _there(self, use: AccountUse | None) -> int:
        return self._cache.pool.available if use is None else -use.pages

    def _order(self, victim: Context) -> tuple[bool, float, float, int]:
        if self._rests(victim):
            return (False, victim.standing, -victim.use.ratio, victim.last_step)
        return (True, -victim.use.ratio, victim.standing, -victim.arrival)

    def _rests(self, context: Context) -> bool:
        if context.work is not None:
            return False
        return context.idle or context.suspended or self._step - context.last_step > _RESTING
