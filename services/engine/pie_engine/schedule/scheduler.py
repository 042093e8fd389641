"""Chooses the rows of the next pass.

Order: the senior (see `fairness`), decodes (requests with one row to go), then prompts in chunks, accounts by weight
and the shortest first, all within the step's time. `room` has the order in which contexts give way when pages run out,
and why everybody ends.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from pie_engine.contexts.context import Context
from pie_engine.limits import Limits
from pie_engine.memory.eviction import Eviction
from pie_engine.memory.kv_cache import KvCache
from pie_engine.memory.room import Room
from pie_engine.passes.batch import Load
from pie_engine.runs.run import Guesses, Run
from pie_engine.schedule.cost import CostModel
from pie_engine.schedule.draft import NO_GUESSES, Draft
from pie_engine.schedule.fairness import Seniority, Turns
from pie_engine.schedule.needs import asked, decodes, reach, rows_of
from pie_engine.schedule.plan import Plan
from pie_engine.schedule.prompts import Prompts
from pie_engine.schedule.work import Import, Work

_DECODE_SHARE = 0.75
"""Of a step's time, while prompts wait: many decodes must not keep a prompt from starting."""
_MIN_BATCH = 64
"""Rows of decodes that go into a pass whatever the estimate. A pass reads all weights for its first row, and a row more
costs little: on a slow or busy machine, turns of fewer would pay that again and make everybody wait longer."""
_SENIOR_SHARE = 0.5
"""Of a step's time, for the senior's prompt while others wait."""


@dataclass(frozen=True, slots=True)
class _Spare:
    """What guesses of a pass may take: its decodes' time in milliseconds, and pages beyond those that `others` need,
    one for every request among them. `least_right`: how likely one must be right."""

    ms: float
    others: int
    least_right: float


class Scheduler:
    """Plans passes. It changes page tables, and of a context what concerns its pages."""

    def __init__(self, cache: KvCache, limits: Limits, cost: CostModel, eviction: Eviction) -> None:
        self._cache = cache
        self._limits = limits
        self._cost = cost
        self._eviction = eviction
        self._seniority = Seniority(limits.immunity_steps)
        self._prompts = Prompts(cache, limits, cost, eviction, self._seniority, Turns())
        self.step = 0
        """Passes planned so far."""
        self.waited = 0
        """Pages that requests of the last plan were still to get."""

    def plan(self, works: list[Work], everyone: Collection[Context]) -> Plan | None:
        """The next pass over `works`, one of a context at most; None when there is none, or nothing can be done for
        them. `everyone` may lose pages."""
        self.waited = 0
        if not works:
            return self._empty().plan()
        works.sort(key=lambda work: work.arrival)
        self.step += 1
        draft = self._draft(works, everyone, self._seniority.choose(works, self.step))
        if not draft.entries:
            # The oldest must not wait for the immunity or the bid of contexts that cannot go on either.
            draft = self._draft(works, everyone, self._seniority.promote(works[0]))
        self._seniority.served([entry.work for entry in draft.entries], self.step)
        ends = {entry.work: entry.stop for entry in draft.entries}
        self.waited = sum(
            self._cache.missing_pages(work.context, reach(work)) for work in works if ends.get(work, -1) < work.end
        )
        return draft.plan()

    def _empty(self) -> Draft:
        return Draft(self._cache, self._eviction, self._limits, self.step)

    def _draft(self, works: list[Work], everyone: Collection[Context], senior: Work | None) -> Draft:
        draft = self._empty()
        room = Room(self._cache, self._eviction, everyone, draft.planned, self.step, senior)
        decoding: list[Work] = []
        prompts: list[Work] = []
        for work in works:
            if work is not senior:
                (decoding if decodes(work) else prompts).append(work)
        self._prompts.begin(prompts)
        if senior is not None and not decodes(senior):
            share = _SENIOR_SHARE if prompts else 1.0
            self._prompts.first(draft, room, senior, self._limits.step_ms * share)
        self._prompts.look_up(prompts)
        bidder = self._prompts.bidder(room, decoding, prompts)
        if bidder is not None:
            self._prompts.first(draft, room, bidder, self._limits.step_ms * _SENIOR_SHARE)
            prompts = [w for w in prompts if w is not bidder]
        first = senior if senior is not None and senior.context not in draft.planned and decodes(senior) else None
        spare = _Spare(
            self._limits.step_ms * (_DECODE_SHARE if prompts else 1.0),
            self._prompts.claimed + len(works),
            self._least_right([*decoding, first] if first is not None else decoding),
        )
        if first is not None:
            self._decode(draft, room, first, spare)
        self._decode_all(draft, room, decoding, spare)
        for work in self._prompts.order(prompts):
            if not self._prompts.add(draft, room, work, self._limits.step_ms):
                break
        return draft

    def _least_right(self, decoding: list[Work]) -> float:
        """How likely a guess must be right to be worth its row in a pass with these."""
        if not any(isinstance(work, Run) and work.pace is not None for work in decoding):
            return 0.0
        return self._cost.row_share(
            Load(sum(map(rows_of, decoding)), sum(map(reach, decoding)), 0, sum(map(asked, decoding)))
        )

    def _decode_all(self, draft: Draft, room: Room, decoding: list[Work], spare: _Spare) -> None:
        # Among those served in the same step the order is that of arrival.
        decoding.sort(key=lambda work: work.context.last_step)
        asked = len(draft.entries)
        for work in decoding:
            planned, rows = len(draft.entries), rows_of(work)
            if planned and draft.load.rows + rows > self._limits.max_rows:
                break
            if planned and asked + rows > _MIN_BATCH and not self._fits(draft, work, spare.ms):
                break
            self._decode(draft, room, work, spare)
            asked += rows * (len(draft.entries) - planned)

    def _fits(self, draft: Draft, work: Work, budget: float) -> bool:
        return self._cost.estimate(draft.load.plus(rows_of(work), reach(work), asked(work))) <= budget

    def _decode(self, draft: Draft, room: Room, work: Work, spare: _Spare) -> None:
        context, end = work.context, work.end
        if context.dead or draft.probes_enough(work):
            return
        if isinstance(work, Run):
            ready = self._cache.is_ready(context, end)
            if ready or room.make(self._cache.missing_pages(context, end), work):
                guesses = NO_GUESSES if work.pace is None else self._guess(draft, work, spare)
                draft.add(work, end, guesses, ready)
        elif isinstance(work, Import):
            draft.bring_in(room, work)
        elif room.make(self._cache.missing_pages(context, reach(work)), work):
            draft.add(work, end)

    def _guess(self, draft: Draft, work: Run, spare: _Spare) -> Guesses:
        """Guesses of what follows a run's pending token, within the rows, time and pages that nobody else needs."""
        context, end = work.context, work.end
        if context.kv_length >= end:
            # A pending token whose KV is there may lie in a shared page: its step writes nothing.
            return NO_GUESSES
        fitting = self._cost.rows_within(spare.ms, draft.load, end - 1, asked(work))
        rows = min(self._limits.max_rows - draft.load.rows, fitting)
        guesses = work.guess(rows - 1, spare.least_right)
        count = len(guesses.tokens)
        pages = max(self._cache.pool.available - spare.others, self._cache.missing_pages(context, end))
        cap = context.use.account.page_cap
        if cap:
            pages = min(pages, cap - context.use.pages)
        while count and self._cache.missing_pages(context, end + count) > pages:
            count -= 1
        return Guesses(guesses.tokens[:count], guesses.open)
