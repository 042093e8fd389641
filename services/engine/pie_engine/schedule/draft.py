"""A pass in the making."""

from __future__ import annotations

from collections.abc import Sequence

from pie_wire.errors import InternalError

from pie_engine.contexts.context import Context
from pie_engine.limits import Limits
from pie_engine.memory.eviction import Eviction
from pie_engine.memory.kv_cache import KvCache
from pie_engine.memory.room import Room
from pie_engine.passes.batch import Batch, Load
from pie_engine.passes.build import build
from pie_engine.passes.page_moves import Moves, PageLoad
from pie_engine.passes.segment import Intervals, Segment
from pie_engine.runs.run import Guesses, Run
from pie_engine.runs.verification import Verification
from pie_engine.schedule.needs import probes, wants_probes
from pie_engine.schedule.plan import Entry, Plan
from pie_engine.schedule.work import Import, Work

MOST_PROBES = 4096
"""Outputs other than tokens after which nobody who wants any joins a pass: kinds of them differ in what they take, and
the estimate knows one kind."""
NO_GUESSES = Guesses()


class Draft:
    """Rows of requests, put together one request after another. Page tables change with it."""

    def __init__(self, cache: KvCache, eviction: Eviction, limits: Limits, step: int) -> None:
        self._cache = cache
        self._eviction = eviction
        self._limits = limits
        self._segments: list[Segment] = []
        self._copies: list[tuple[int, int]] = []
        self._loads: list[PageLoad] = []
        self._probes = 0
        self.step = step
        self.entries: list[Entry] = []
        self.planned: set[Context] = set()
        self.load = Load()

    def probes_enough(self, work: Work) -> bool:
        """The request asks for more than tokens, of which the pass has enough."""
        return self._probes >= MOST_PROBES and wants_probes(work)

    def bring_in(self, room: Room, work: Import) -> None:
        """Give an imported context its pages, to be written before anything else. A row of it takes part and asks
        nothing."""
        if room.make(work.pages, work):
            pages = self._cache.install(work.context, work.end, work.holes)
            self._loads.append(PageLoad(pages, work.data))
            self.add(work, work.end)

    def add(self, work: Work, stop: int, guesses: Guesses = NO_GUESSES, ready: bool = False) -> None:
        """Rows of the request up to slot `stop`, the last one alone if all have KV, and those of guesses behind it.
        `ready`: the context's pages are, as far as `stop`."""
        context = work.context
        is_run = isinstance(work, Run)
        known = context.tokens
        if stop > len(known):
            raise InternalError(f"a request needs {stop} tokens of context {context.id}, which has {len(known)}")
        start = context.kv_length
        asks_only = start >= stop
        if asks_only:
            start = stop - 1
        tree: Verification | None = None
        drafts = guesses.tokens
        if not is_run and isinstance(work, Verification) and stop == work.end:
            tree, drafts = work, work.tokens
        end = stop + len(drafts)
        copy: tuple[int, int] | None = None
        if not asks_only and (drafts or not ready):
            copy = self._cache.prepare_write(context, end)
            if copy is not None:
                self._copies.append(copy)
        if context.absence is not None:
            context.immune_until = self.step + self._limits.immunity_steps
            self._eviction.computed(context, start, stop)
        outputs = work.outputs(start, stop, drafts) if is_run else work.outputs(start, stop)
        tokens, lineage = known[start:stop], context.lineage
        segment = Segment(
            [*tokens, *drafts] if drafts else tokens,
            lineage.positions(start, end),
            start,
            self._cache.table(context, end),
            outputs,
            not asks_only,
            lineage.rows(start, end),
            context.adapters.at(start).slots,
        )
        if drafts:
            if guesses.open:
                segment.open_rows = len(drafts)
            if tree is not None:
                segment.parents = tree.parents
                segment.positions, segment.masks = _with_tree(tree, start)
        self._segments.append(segment)
        self.entries.append(Entry(work, start, stop, len(outputs), copy, drafts, self.load.rows + stop - start))
        self.planned.add(context)
        self.load.add(end - start, end, len(outputs))
        if len(outputs) > 1 or not is_run:
            self._probes += probes(outputs)

    def plan(self) -> Plan | None:
        """The pass, with the moves that wait: they alone make one too. None without either."""
        swap, pool = self._cache.swap, self._cache.pool
        moves = Moves(*swap.take_moves()) if swap.pending else None
        if not self.entries and moves is None:
            return None
        batch: Batch = build(
            self._segments,
            page_size=pool.page_size,
            scratch_page=pool.total,
            copies=self._copies,
            moves=moves,
            loads=self._loads,
        )
        return Plan(batch, self.entries)


def _with_tree(work: Verification, start: int) -> tuple[Sequence[int], list[Intervals] | None]:
    """Positions and masks of the rows from slot `start` to the last guess."""
    lineage, end = work.context.lineage, work.end
    positions = [*lineage.positions(start, end), *work.positions()]
    tree = work.masks()
    if tree is None:
        return positions, lineage.rows(start, end + len(work.tokens))
    return positions, [*(lineage.rows(start, end) or [((0, slot + 1),) for slot in range(start, end)]), *tree]
