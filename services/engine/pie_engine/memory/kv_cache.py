"""Page tables of contexts over the pool: prefix lookup, growth, copy-on-write, fork, publication."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from pie_engine.adapters.spans import AdapterSet
from pie_engine.contexts.context import Context
from pie_engine.memory.page_hashes import PageHashes
from pie_engine.memory.pages import PagePool
from pie_engine.memory.swap import Swapped, SwapTier


class KvCache:
    """All changes to page tables go through here, so that references always match tables."""

    def __init__(self, pool: PagePool, fingerprint: str, swap_slots: int = 0) -> None:
        self.pool = pool
        self.swap = SwapTier(swap_slots, pool.page_size)
        self._hole = pool.total
        """Stands in page tables where a page has been given up and those after it have not."""
        self._hashes = PageHashes(fingerprint, pool.page_size)

    def pages_for(self, length: int) -> int:
        """Pages that `length` tokens take."""
        return -(-length // self.pool.page_size)

    def find_prefix(self, context: Context, limit: int) -> None:
        """Take over published pages for tokens beyond what has KV, page by page while they are found, up to `limit`
        and the account's cap.

        A private, partly filled page is given back when the whole page is found.
        """
        size = self.pool.page_size
        index = context.kv_length // size
        while (index + 1) * size <= limit:
            page = self.pool.find(self.page_hash(context, index))
            if page is None:
                return
            use = context.use
            if index >= len(context.pages) and use.account.page_cap and use.pages >= use.account.page_cap:
                return
            self.pool.share(page)
            if index < len(context.pages):
                self.pool.release(context.pages[index])
                context.pages[index] = page
            else:
                self.append(context, page)
            context.found += max(0, (index + 1) * size - max(context.kv_length, context.reach))
            index += 1
            context.kv_length = index * size
            context.published = max(context.published, index)

    def match(self, context: Context, limit: int) -> int:
        """Leading tokens, up to `limit`, whose pages `find_prefix` would find now; takes none."""
        size = self.pool.page_size
        index = 0
        while (index + 1) * size <= limit and self.pool.find(self.page_hash(context, index)) is not None:
            index += 1
        return index * size

    def missing_pages(self, context: Context, stop: int) -> int:
        """Pages to take before slots [kv_length, stop) can be written, the copy of a page that is not ours included."""
        if context.swapped is not None:
            away = context.swapped.slots
            return max(0, self.pages_for(stop) - len(away)) + sum(map(self._must_bring, away))
        pages, size = context.pages, self.pool.page_size
        missing = max(0, -(-stop // size) - len(pages))
        index = context.kv_length // size
        if stop > context.kv_length and index < len(pages) and self.pool.is_shared(pages[index]):
            missing += 1
        return missing

    def is_ready(self, context: Context, stop: int) -> bool:
        """Slots [kv_length, stop) can be written without further ado: `missing_pages` is 0 and `prepare_write` changes
        nothing. So it is for most steps of a run."""
        pages, length, size = context.pages, context.kv_length, self.pool.page_size
        index = length // size
        return length < stop <= len(pages) * size and context.published <= index and self.pool.is_private(pages[index])

    def prepare_write(self, context: Context, stop: int) -> tuple[int, int] | None:
        """Give the context pages of its own for slots [kv_length, stop).

        Returns (source, destination) of the page whose content must be copied first, if any. The source stays held
        until `keep_copy` or `undo_copy`.
        """
        copy: tuple[int, int] | None = None
        pages, size = context.pages, self.pool.page_size
        index = context.kv_length // size
        if index < len(pages) and stop > context.kv_length:
            page = pages[index]
            if not self.pool.is_shared(page):
                self.pool.withdraw(page)
            else:
                pages[index] = self.pool.take()
                if context.kv_length % size:
                    copy = (page, pages[index])
                else:
                    self.pool.release(page)
        context.published = min(context.published, index)
        while len(pages) * size < stop:
            self.append(context, self.pool.take())
        return copy

    def keep_copy(self, copy: tuple[int, int]) -> None:
        """The copy of `prepare_write` was made."""
        self.pool.release(copy[0])

    def undo_copy(self, context: Context, copy: tuple[int, int]) -> None:
        """The copy was perhaps not made: the context has the source again. Its KV ends where it did before."""
        old, new = copy
        context.pages[context.pages.index(new)] = old
        self.pool.release(new)

    def install(self, context: Context, kv_length: int, holes: Collection[int]) -> list[int]:
        """Give a context without pages those for KV of `kv_length` tokens, except at the indices in `holes`. Returns
        them; the caller has them written."""
        taken: list[int] = []
        for index in range(self.pages_for(kv_length)):
            if index in holes:
                self.append(context, None)
            else:
                taken.append(self.pool.take())
                self.append(context, taken[-1])
        context.kv_length = kv_length
        return taken

    def holding(self, context: Context, kv_length: int) -> tuple[list[int], int]:
        """Pages with KV of the first `kv_length` tokens, without those given up, and the slots of the last one that
        belong to these tokens."""
        size = self.pool.page_size
        indices = [i for i, page in enumerate(context.pages[: self.pages_for(kv_length)]) if page != self._hole]
        filled = min(size, kv_length - indices[-1] * size) if indices else 0
        return [context.pages[index] for index in indices], filled

    def pinnable(self, context: Context, index: int) -> int:
        """The page with the KV of full page `index` that lookup finds."""
        page = self.pool.find(self.page_hash(context, index))
        return page if page is not None else context.pages[index]

    def table(self, context: Context, stop: int) -> Sequence[int]:
        """Pages of the slots [0, stop), for a pass. Where all tokens of a page have been dropped stands another page of
        the context: nobody sees it, but it has numbers in it."""
        pages = context.pages[: -(-stop // self.pool.page_size)]
        return [pages[-1] if page == self._hole else page for page in pages] if context.holes else pages

    def publish(self, context: Context) -> None:
        """Offer full pages whose tokens have KV and have been consumed by the program."""
        full = min(context.kv_length, context.guest_length) // self.pool.page_size
        for index in range(context.published, full):
            if context.pages[index] != self._hole:
                self.pool.publish(context.pages[index], self.page_hash(context, index))
        context.published = max(context.published, full)

    def truncate(self, context: Context, length: int) -> None:
        """Keep the first `length` tokens."""
        size = self.pool.page_size
        del context.tokens[length:]
        if context.lineage.truncate(length):
            self.forget(context, length - 1)
        del context.hashes[length // size :]
        context.adapters.cut(length)
        self.forget_swapped(context, length)
        self.trim(context, min(context.kv_length, length))
        context.reach = min(context.reach, length)

    def set_adapters(self, context: Context, adapters: AdapterSet) -> None:
        """The last token and all after it are computed with these; KV the last token has with others is given up."""
        start = max(context.length - 1, 0)
        if adapters.slots == context.adapters.at(start).slots:
            return
        context.adapters.begin(start, adapters)
        self.forget(context, start)

    def forget(self, context: Context, slot: int) -> None:
        """The row at `slot` has changed: no KV from there on, and no hash that it took part in."""
        del context.hashes[slot // self.pool.page_size :]
        self.forget_swapped(context, slot)
        self.trim(context, min(context.kv_length, slot))
        context.reach = min(context.reach, slot)

    def drop(self, context: Context, start: int, stop: int) -> None:
        """No row from the last token on sees the tokens [start, stop) before it; pages of which nothing is seen are
        given back. All tokens but the last have KV."""
        last = context.length - 1
        context.lineage.drop(start, stop, last)
        self.forget(context, last)
        size = self.pool.page_size
        for low, high in context.lineage.dropped:
            for index in range(-(-low // size), high // size):
                page = context.pages[index]
                if page != self._hole:
                    self.pool.release(page)
                    context.pages[index] = self._hole
                    context.holes += 1
                    context.use.pages -= 1

    def held(self, context: Context) -> Sequence[int]:
        """The pages it holds, in order."""
        return [page for page in context.pages if page != self._hole] if context.holes else context.pages

    def trim(self, context: Context, kv_length: int) -> None:
        """Keep KV of the first `kv_length` tokens only, and no page beyond."""
        context.reach = max(context.reach, context.kv_length)
        context.kv_length = kv_length
        context.published = min(context.published, kv_length // self.pool.page_size)
        while len(context.pages) > self.pages_for(kv_length):
            page = context.pages.pop()
            if page == self._hole:
                context.holes -= 1
            else:
                self.pool.release(page)
                context.use.pages -= 1

    def forget_swapped(self, context: Context, length: int = 0) -> None:
        """Keep in the tier what belongs to the first `length` tokens."""
        away = context.swapped
        if away is None:
            return
        away.length = min(away.length, length)
        away.published = min(away.published, away.length // self.pool.page_size)
        while len(away.slots) > self.pages_for(away.length):
            slot = away.slots.pop()
            if slot != self.swap.hole:
                self.swap.pool.release(slot)
        if not away.slots:
            context.swapped = None

    def clear(self, context: Context) -> None:
        """Nothing is left of its KV, in the pool or outside."""
        self.evict(context)
        self.forget_swapped(context)

    def evict(self, context: Context) -> None:
        """Give all pages back; the tokens stay, so that the KV can be computed again."""
        self.trim(context, 0)

    def distrust(self, context: Context) -> None:
        """Its KV may be wrong: nobody finds its pages any more, in the pool or the tier. Whoever shares them keeps
        them."""
        for page in self.held(context):
            content = self.pool.content(page)
            if content is not None:
                self.pool.forget(content)
                self.swap.pool.forget(content)

    def fork(self, parent: Context, child: Context, length: int) -> None:
        """The child becomes the parent's first `length` tokens and shares their pages; whoever writes first copies."""
        child.tokens = parent.tokens[:length]
        child.adapters = parent.adapters.copy(length)
        child.origin = parent.origin
        child.committed = min(parent.committed, length // self.pool.page_size)
        if parent.reserved is not None:
            child.reserved = parent.committed + parent.reserved - child.committed
        child.lineage = parent.lineage.copy()
        child.hashes = parent.hashes[: length // self.pool.page_size]
        child.kv_length = min(parent.kv_length, length)
        child.published = min(parent.published, child.kv_length // self.pool.page_size)
        for page in parent.pages[: self.pages_for(child.kv_length)]:
            if page == self._hole:
                self.append(child, None)
            else:
                self.pool.share(page)
                self.append(child, page)
        if parent.swapped is not None:
            child.swapped = Swapped(list(parent.swapped.slots), parent.swapped.length, parent.swapped.published)
            for slot in child.swapped.slots:
                if slot != self.swap.hole:
                    self.swap.pool.share(slot)
            self.forget_swapped(child, length)
        if child.lineage.truncate(length):
            self.forget(child, length - 1)

    def page_hash(self, context: Context, index: int) -> bytes:
        """Hash over everything that decides the KV up to the end of a full page."""
        return self._hashes.of(context, index)

    def append(self, context: Context, page: int | None) -> None:
        """One page more at the end of its table, held already; None: one that has been given up."""
        if page is None:
            context.pages.append(self._hole)
            context.holes += 1
        else:
            context.pages.append(page)
            context.use.pages += 1

    def page_at(self, context: Context, index: int) -> int | None:
        """The page at an index of its table; None where it has been given up."""
        page = context.pages[index]
        return None if page == self._hole else page

    def _must_bring(self, slot: int) -> bool:
        """The page for this slot would be taken from those that are available."""
        if slot == self.swap.hole:
            return False
        content = self.swap.pool.content(slot)
        page = self.pool.find(content) if content is not None else None
        return page is None or not self.pool.is_owned(page)
