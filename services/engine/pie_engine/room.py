"""Who gives up pages when they run out."""

from __future__ import annotations

from collections.abc import Collection

from pie_engine.context import AccountUse, Context
from pie_engine.kv_cache import KvCache
from pie_engine.work import Work


class Room:
    """Makes pages available for one pass."""

    def __init__(
        self, cache: KvCache, works: list[Work], everyone: Collection[Context], planned: set[Context], step: int
    ) -> None:
        self._cache = cache
        self._works = works
        self._everyone = everyone
        self._planned = planned
        self._step = step
        self._idle: list[Context] | None = None
        self.evictions = 0

    def make(self, need: int, work: Work, use: AccountUse, own: int | None = None) -> bool:
        """Evict until `need` pages are available and the account may hold `own` (default `need`) more.

        Only contexts with nothing to do and requests younger than `work` lose their KV, and none of this pass.
        """
        charge = need if own is None else own
        cap = use.account.page_cap
        while self._cache.pool.available < need:
            if not self._evict_one(work, None):
                return False
        while cap and use.pages + charge > cap:
            if not self._evict_one(work, use):
                return False
        return True

    def _evict_one(self, work: Work, use: AccountUse | None) -> bool:
        if self._idle is None:
            idle = [c for c in self._everyone if c.work is None and c.pages and not c.impure]
            self._idle = sorted(idle, key=lambda c: c.last_step, reverse=True)
        candidates = [c for c in self._idle if c.pages and (use is None or c.use is use)]
        if candidates:
            victim = candidates[-1]
            self._idle.remove(victim)
        else:
            victim = self._youngest(work, use)
        if victim is None:
            return False
        self._cache.evict(victim)
        self.evictions += 1
        return True

    def _youngest(self, work: Work, use: AccountUse | None) -> Context | None:
        for other in reversed(self._works):
            if other.arrival <= work.arrival:
                return None
            context = other.context
            if not context.pages or context.impure or context in self._planned or context.immune_until > self._step:
                continue
            if use is None or context.use is use:
                return context
        return None
