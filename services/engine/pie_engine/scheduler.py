"""Chooses the rows of the next pass.

Order: decodes first (requests with one row to go), then prefill chunks by arrival, all within the step's time. When
pages run out: cached pages go first, then contexts with nothing to do, then the youngest request; its tokens stay, and
its KV is computed again when its turn comes. Why this ends: a request only ever displaces younger ones, so the oldest
always advances; and the oldest one that waits is, after a while, served before all decodes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from pie_engine.batch import Segment, build
from pie_engine.context import Context
from pie_engine.cost import CostModel
from pie_engine.kv_cache import KvCache
from pie_engine.limits import Limits
from pie_engine.plan import Draft, Entry, Plan
from pie_engine.room import Room
from pie_engine.run import Run
from pie_engine.work import Work

_DECODE_SHARE = 0.75
"""Of a step's time, while prompts wait: many decodes must not keep a prompt from starting."""
_MIN_BATCH = 64
"""Decodes that go into a pass whatever the estimate. A pass reads all weights for its first row, and a row more costs
little: on a slow or busy machine, turns of fewer would pay that again and make everybody wait longer."""
_MIN_CHUNK = 64
"""Tokens by which the oldest prompt advances in every pass, whatever the estimate; for the same reason."""


class Scheduler:
    """Plans passes. It changes page tables (and nothing else of a context but `found`, `evicted`, `immune_until`)."""

    def __init__(self, cache: KvCache, limits: Limits, cost: CostModel) -> None:
        self._cache = cache
        self._limits = limits
        self._cost = cost
        self.step = 0
        """Passes planned so far."""
        self.evictions = 0
        self._head: tuple[int, int] | None = None
        """Arrival of the oldest waiting prefill, and the step since when it has waited."""

    def plan(self, active: Iterable[Context], everyone: Collection[Context]) -> Plan | None:
        """The next pass over the work of `active` contexts; None when none has any. `everyone` may lose pages."""
        works: list[Work] = [work for work in (context.work for context in active) if work is not None]
        works.sort(key=lambda work: work.arrival)
        if not works:
            return None
        self.step += 1
        draft = self._draft(works, everyone, ignore_immunity=False)
        if not draft.entries:
            # Only immunity can keep the oldest request waiting with nothing else running.
            draft = self._draft(works, everyone, ignore_immunity=True)
        if not draft.entries:
            return None
        pool = self._cache.pool
        batch = build(draft.segments, page_size=pool.page_size, scratch_page=pool.total, copies=draft.copies)
        return Plan(batch, draft.entries)

    def _draft(self, works: list[Work], everyone: Collection[Context], *, ignore_immunity: bool) -> Draft:
        draft = Draft()
        room = Room(self._cache, works, everyone, draft.planned, 1 << 62 if ignore_immunity else self.step)
        starved = self._starved(works)
        if starved is not None:
            self._prefill(draft, room, starved)
        decodes = [w for w in works if w is not starved and _rows_to_go(w) <= 1]
        prefills = [w for w in works if w is not starved and _rows_to_go(w) > 1]
        budget = self._limits.step_ms * (_DECODE_SHARE if prefills else 1.0)
        for work in sorted(decodes, key=lambda w: (w.context.last_step, w.arrival)):
            if draft.load.rows >= self._limits.max_rows:
                break
            if len(draft.entries) >= _MIN_BATCH and not self._fits(draft, work, budget):
                break
            self._decode(draft, room, work, budget, len(works))
        waiting: Work | None = None
        for work in prefills:
            if not self._prefill(draft, room, work):
                waiting = work
                break
        self._remember(waiting)
        self.evictions += room.evictions
        return draft

    def _starved(self, works: list[Work]) -> Work | None:
        if self._head is None or self.step - self._head[1] < self._limits.immunity_steps:
            return None
        return next((w for w in works if w.arrival == self._head[0]), None)

    def _remember(self, waiting: Work | None) -> None:
        if waiting is None:
            self._head = None
        elif self._head is None or self._head[0] != waiting.arrival:
            self._head = (waiting.arrival, self.step)

    def _fits(self, draft: Draft, work: Work, budget: float) -> bool:
        return self._cost.estimate(draft.load.plus(1, work.context.length)) <= budget

    def _decode(self, draft: Draft, room: Room, work: Work, budget: float, works: int) -> None:
        context = work.context
        need = self._cache.missing_pages(context, work.end)
        if room.make(need, work, context.use):
            self._add(draft, work, work.end, self._guess(draft, work, budget, works))

    def _guess(self, draft: Draft, work: Work, budget: float, works: int) -> Sequence[int]:
        """Guesses of what follows a run's pending token, within the rows, time and pages that nobody else needs."""
        context, end = work.context, work.end
        if not isinstance(work, Run) or context.kv_length >= end:
            # A pending token whose KV is there may lie in a shared page: its step writes nothing.
            return ()
        rows = min(self._limits.max_rows - draft.load.rows, self._cost.rows_within(budget, draft.load, end - 1))
        guesses = work.guess(rows - 1) if rows > 1 else ()
        # A page for every request keeps guesses from costing anybody else theirs.
        spare = max(self._cache.pool.available - draft.claimed - works, self._cache.missing_pages(context, end))
        cap = context.use.account.page_cap
        if cap:
            spare = min(spare, cap - context.use.pages)
        while guesses and self._cache.missing_pages(context, end + len(guesses)) > spare:
            guesses = guesses[:-1]
        return guesses

    def _prefill(self, draft: Draft, room: Room, work: Work) -> bool:
        """Add the next chunk. False when time or pages do not allow it, and so nobody younger may overtake."""
        context = work.context
        if context in draft.planned:
            return True
        self._cache.find_prefix(context, _findable(work))
        if work.end - context.kv_length <= 0 and not _asks(work):
            # A flush that the cache has satisfied: it still takes part, with its last row asking nothing.
            self._add(draft, work, context.kv_length)
            return True
        if self._is_produced_elsewhere(draft, context, work):
            return True
        chunk = self._cost.rows_within(self._limits.step_ms, draft.load, context.kv_length)
        if not draft.prefills:
            chunk = max(chunk, _MIN_CHUNK)
        elif chunk < min(_MIN_CHUNK, work.end - context.kv_length):
            return False
        chunk = min(chunk, self._limits.max_rows - draft.load.rows)
        if chunk <= 0:
            return False
        total = self._cache.missing_pages(context, work.end)
        stop = min(work.end, context.kv_length + chunk)
        border = context.adapters.border(context.kv_length)
        if border is not None:
            stop = min(stop, border)
        # Whoever begins must be able to finish beside those who have begun; a page each keeps decodes going.
        headroom = len(draft.entries) if not context.pages else 0
        wanted = min(total + draft.claimed + headroom, self._cache.pool.total)
        fits = room.make(wanted, work, context.use, own=total)
        if not fits and (draft.entries or not room.make(total, work, context.use)):
            return False
        draft.prefills += 1
        draft.claimed += total - self._cache.missing_pages(context, stop)
        self._announce(draft, context, work)
        self._add(draft, work, stop)
        return True

    def _add(self, draft: Draft, work: Work, stop: int, drafts: Sequence[int] = ()) -> None:
        context = work.context
        asks_only = context.kv_length >= stop
        start = stop - 1 if asks_only else context.kv_length
        copy: tuple[int, int] | None = None
        end = stop + len(drafts)
        if not asks_only:
            copy = self._cache.prepare_write(context, end)
            if copy is not None:
                draft.copies.append(copy)
        if context.evicted:
            context.evicted = False
            context.immune_until = self.step + self._limits.immunity_steps
        outputs = work.outputs(start, stop, drafts) if isinstance(work, Run) else work.outputs(start, stop)
        draft.segments.append(
            Segment(
                tokens=[*context.tokens[start:stop], *drafts],
                positions=context.lineage.positions(start, end),
                first_slot=start,
                pages=self._cache.table(context, end),
                outputs=outputs,
                write_kv=not asks_only,
                adapters=context.adapters.at(start).slots,
                masks=context.lineage.rows(start, end),
            )
        )
        draft.entries.append(Entry(work, start, stop, len(outputs), copy, drafts))
        draft.planned.add(context)
        draft.load = draft.load.plus(end - start, end)

    def _is_produced_elsewhere(self, draft: Draft, context: Context, work: Work) -> bool:
        """The next page is being computed by another request of this pass: waiting for it is cheaper."""
        size = self._limits.page_size
        index = context.kv_length // size
        if not draft.producing or (index + 1) * size > _findable(work):
            return False
        return self._cache.page_hash(context, index) in draft.producing

    def _announce(self, draft: Draft, context: Context, work: Work) -> None:
        size = self._limits.page_size
        for index in range(context.kv_length // size, min(work.end, context.guest_length) // size):
            draft.producing.add(self._cache.page_hash(context, index))


def _rows_to_go(work: Work) -> int:
    return max(1, work.end - work.context.kv_length)


def _asks(work: Work) -> bool:
    return work.first_output is not None


def _findable(work: Work) -> int:
    """Tokens whose KV may come from the cache: rows that are asked must run, except that a last row may just ask."""
    first = work.first_output
    if first is None or first == work.end - 1:
        return work.context.length
    return first
