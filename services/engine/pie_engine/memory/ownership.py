"""Who holds which pages, as rows for the store: net changes since what the store last acknowledged."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

import msgspec
from pie_wire.messages.common import PageRow

from pie_engine.contexts.context import Context
from pie_engine.memory.kv_cache import KvCache

MAX_ROWS = 16_384
"""Of one report: its message has a limit, and the number of contexts has none."""

Key = tuple[str, int, int]
"""(runner, epoch of the runner, context)"""


@dataclass(frozen=True, slots=True)
class Changes:
    """Rows to put and keys to drop; with `full`, `rows` replace all."""

    rows: list[PageRow]
    dropped: list[Key]
    full: bool


class Ownership:
    """Compares the table now with the table sent. A report that fails is followed by a full one."""

    def __init__(self, cache: KvCache) -> None:
        self._cache = cache
        self._sent: dict[Key, PageRow] = {}
        self._full = True

    def resync(self) -> None:
        """The store may have lost or missed something: the next report is full."""
        self._full = True

    def changes(self, contexts: Iterable[Context]) -> Changes | None:
        """What to report now, MAX_ROWS of a kind at most, the rest later; None if the store knows it all. Counts as
        sent."""
        now = {key(context): self.row(context) for context in contexts if not context.dead and not context.unborn}
        full, self._full = self._full, False
        if full:
            self._sent.clear()
        new = list(islice(((k, row) for k, row in now.items() if self._sent.get(k) != row), MAX_ROWS))
        dropped = list(islice((k for k in self._sent if k not in now), MAX_ROWS))
        if not (full or new or dropped):
            return None
        self._sent.update(new)
        for k in dropped:
            del self._sent[k]
        return Changes([row for _, row in new], dropped, full)

    def row(self, context: Context) -> PageRow:
        """The row of one context."""
        size = self._cache.pool.page_size
        shared = 0
        for page in self._cache.held(context):
            if not self._cache.pool.is_shared(page):
                break
            shared += 1
        full = min(context.kv_length, context.guest_length) // size
        tip = self._cache.page_hash(context, full - 1).hex() if full else ""
        runner, epoch, number = key(context)
        return PageRow(
            context=number,
            runner=runner,
            epoch=epoch,
            process=context.process,
            tenant=context.tenant,
            parent=context.parent,
            shared=min(shared * size, context.kv_length),
            tip=tip,
            tokens=context.guest_length,
            pages=len(context.pages) - context.holes,
            since=context.since,
        )


def key(context: Context) -> Key:
    """The row's key."""
    who = context.link.peer.identity
    return who.name, who.epoch, context.id


def same(rows: Iterable[PageRow], others: Iterable[PageRow]) -> bool:
    """Two tables hold the same rows, in any order."""
    return sorted(map(msgspec.json.encode, rows)) == sorted(map(msgspec.json.encode, others))
