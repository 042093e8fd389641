"""The way of a context's pages to host memory and back."""

from __future__ import annotations

from pie_engine.contexts.context import Context
from pie_engine.memory.kv_cache import KvCache
from pie_engine.memory.swap import Swapped


class Swapping:
    """Plans the copies for the next pass; page table and tier change at once."""

    def __init__(self, cache: KvCache) -> None:
        self._cache = cache
        self._pool = cache.pool
        self._tier = cache.swap

    def slots_needed(self, context: Context) -> int:
        """Slots that `out` would take of those that are available."""
        return sum(self._tier.must_take(self._pool.content(page)) for page in self._cache.held(context))

    def out(self, context: Context) -> int:
        """Give all pages back and keep a copy of each in the tier, which has room for `slots_needed`. Returns how many
        are copied: those that the tier has are shared."""
        before = self._tier.moves
        kept = iter(self._tier.keep([(page, self._pool.content(page)) for page in self._cache.held(context)]))
        table = [self._cache.page_at(context, index) for index in range(len(context.pages))]
        slots = [self._tier.hole if page is None else next(kept) for page in table]
        context.swapped = Swapped(slots, context.kv_length, context.published)
        self._cache.evict(context)
        return self._tier.moves - before

    def back(self, context: Context) -> int:
        """Bring all pages back; `missing_pages` are available. Returns how many are copied: those that the pool has
        from others are shared."""
        away = context.swapped
        if away is None:
            return 0
        context.swapped = None
        contents = [None if slot == self._tier.hole else self._tier.pool.content(slot) for slot in away.slots]
        found = [self._pool.find(content) if content is not None else None for content in contents]
        for page in found:
            if page is not None:
                self._pool.share(page)
        copied = 0
        for slot, content, shared in zip(away.slots, contents, found, strict=True):
            if slot == self._tier.hole:
                self._cache.append(context, None)
                continue
            page = shared if shared is not None else self._pool.take()
            if shared is None:
                self._tier.bring(slot, page)
                copied += 1
                if content is not None:
                    self._pool.publish(page, content)
            self._cache.append(context, page)
            self._tier.release_after(slot)
        context.kv_length, context.published = away.length, away.published
        return copied
