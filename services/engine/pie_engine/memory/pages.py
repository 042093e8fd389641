"""Pages of the KV pool: who holds which, which are kept for reuse, which are free. Numbers only, no tensor.

    page     free ----------> owned (refs >= 1) ----------> free            never published
             free ----------> owned, published  ----------> cached (LRU) -> free or owned again

A published page is full, immutable and found by its hash. `free + cached + owned = total` at all times.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from pie_wire.errors import InternalError


class PagePool:
    """Reference counts, the free list, the content index and the LRU of published pages nobody holds."""

    def __init__(self, total: int, page_size: int) -> None:
        self.total = total
        self.page_size = page_size
        self._free = list(range(total - 1, -1, -1))
        self._refs = [0] * total
        self._hash: list[bytes | None] = [None] * total
        self._index: dict[bytes, int] = {}
        self._cached: OrderedDict[int, None] = OrderedDict()

    @property
    def free(self) -> int:
        return len(self._free)

    @property
    def cached(self) -> int:
        return len(self._cached)

    @property
    def owned(self) -> int:
        return self.total - len(self._free) - len(self._cached)

    @property
    def available(self) -> int:
        """Pages that `take` can give."""
        return len(self._free) + len(self._cached)

    def take(self) -> int:
        """A page with one reference and undefined content: a free one, else the least recently used cached one.

        Raises InternalError when there is none; callers look at `available` first.
        """
        if self._free:
            page = self._free.pop()
        elif self._cached:
            page, _ = self._cached.popitem(last=False)
            self._unpublish(page)
        else:
            raise InternalError("a page was taken from an exhausted pool")
        self._refs[page] = 1
        return page

    def find(self, content: bytes) -> int | None:
        """The published page with this hash, without a reference."""
        return self._index.get(content)

    def content(self, page: int) -> bytes | None:
        """The hash under which a page is published."""
        return self._hash[page]

    def is_owned(self, page: int) -> bool:
        """Somebody holds it."""
        return self._refs[page] > 0

    def share(self, page: int) -> None:
        """One more reference to an owned or cached page."""
        if self._refs[page] == 0:
            del self._cached[page]
        self._refs[page] += 1

    def release(self, page: int) -> None:
        """One reference less; the last one makes a published page cached and any other free."""
        if self._refs[page] < 1:
            raise InternalError(f"page {page} was released more often than held")
        self._refs[page] -= 1
        if self._refs[page] == 0:
            if self._hash[page] is None:
                self._free.append(page)
            else:
                self._cached[page] = None

    def publish(self, page: int, content: bytes) -> None:
        """Let others find an owned, full page. The first page with a content stays the one that is found."""
        if self._hash[page] is None and content not in self._index:
            self._hash[page] = content
            self._index[content] = page

    def forget(self, content: bytes) -> None:
        """Nobody finds a page with this content any more. Whoever holds it keeps it."""
        page = self._index.get(content)
        if page is None:
            return
        self._unpublish(page)
        if page in self._cached:
            del self._cached[page]
            self._free.append(page)

    def withdraw(self, page: int) -> None:
        """Take back what `publish` offered, since the only holder is about to write."""
        if self._refs[page] != 1:
            raise InternalError(f"page {page} cannot be withdrawn: it has {self._refs[page]} holders")
        self._unpublish(page)

    def is_shared(self, page: int) -> bool:
        """Held more than once."""
        return self._refs[page] > 1

    def is_private(self, page: int) -> bool:
        """Held once, and never published."""
        return self._refs[page] == 1 and self._hash[page] is None

    def drop_cached(self) -> None:
        """Forget all pages that nobody holds."""
        while self._cached:
            page, _ = self._cached.popitem()
            self._unpublish(page)
            self._free.append(page)

    def recount(self, held: Mapping[int, int]) -> None:
        """Make references what contexts really hold (`held`: page -> count), after a failure that may have left
        anything. Pages that nobody holds are cached if they can be found, else free."""
        self._refs = [held.get(page, 0) for page in range(self.total)]
        self._index = {h: page for h, page in self._index.items() if self._hash[page] == h}
        self._hash = [h if h is not None and self._index.get(h) == page else None for page, h in enumerate(self._hash)]
        idle = dict.fromkeys([*self._cached, *range(self.total)])
        unheld = [page for page in idle if not self._refs[page]]
        self._cached = OrderedDict.fromkeys(page for page in unheld if self._hash[page] is not None)
        self._free = sorted((page for page in unheld if self._hash[page] is None), reverse=True)

    def check_integrity(self, held: dict[int, int]) -> None:
        """Compare with the references that contexts really hold (`held`: page -> count); InternalError on a
        difference."""
        problems: list[str] = []
        for page in range(self.total):
            states = (self._refs[page] > 0) + (page in self._cached)
            if self._refs[page] != held.get(page, 0):
                problems.append(f"page {page}: {self._refs[page]} references, {held.get(page, 0)} holders")
            if page in self._cached and self._hash[page] is None:
                problems.append(f"page {page}: cached without a hash")
            if states == 2:
                problems.append(f"page {page}: both owned and cached")
        free = set(self._free)
        if len(free) != len(self._free):
            problems.append("a page is free twice")
        problems += [f"page {p}: free and in use" for p in free if self._refs[p] or p in self._cached or self._hash[p]]
        problems += [f"page {p}: indexed under another hash" for h, p in self._index.items() if self._hash[p] != h]
        if self.free + self.cached + sum(1 for refs in self._refs if refs) != self.total:
            problems.append("free + cached + owned is not the total")
        if problems:
            raise InternalError("page accounting is broken: " + "; ".join(problems[:5]))

    def _unpublish(self, page: int) -> None:
        content = self._hash[page]
        if content is not None:
            del self._index[content]
            self._hash[page] = None
