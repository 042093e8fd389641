"""Chooses the rows of the next pass.

Order: the senior (see `fairness`), decodes (requests with one row to go), then prompts in chunks, accounts by weight
and the shortest first, all within the step's time. `room` has the order in which contexts give way when pages run out,
and why everybody ends.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from pie_wire.errors import InternalError

from pie_engine.contexts.context import Context
from pie_engine.limits import Limits
from pie_engine.memory.eviction import Eviction
from pie_engine.memory.kv_cache import KvCache
from pie_engine.memory.room import Room
from pie_engine.passes.batch import Intervals, Moves, PageLoad, Segment, build
from pie_engine.passes.outputs import Output, Sampler
from pie_engine.runs.run import Guesses, Run
from pie_engine.runs.verification import Verification
from pie_engine.schedule.cost import CostModel
from pie_engine.schedule.fairness import Seniority, Turns
from pie_engine.schedule.plan import Draft, Entry, Plan
from pie_engine.schedule.work import Import, Pass, Work

_NONE = Guesses()
_DECODE_SHARE = 0.75
"""Of a step's time, while prompts wait: many decodes must not keep a prompt from starting."""
_MIN_BATCH = 64
"""Rows of decodes that go into a pass whatever the estimate. A pass reads all weights for its first row, and a row more
costs little: on a slow or busy machine, turns of fewer would pay that again and make everybody wait longer."""
_MIN_CHUNK = 64
"""Tokens by which the first prompt, and the senior, advance in every pass whatever the estimate; the reason is the
same."""
MOST_PROBES = 4096
"""Outputs other than tokens after which nobody who wants any joins a pass: their time is no part of the estimate."""
_SENIOR_SHARE = 0.5
"""Of a step's time, for the senior's prompt while others wait."""


class Scheduler:
    """Plans passes. It changes page tables, and of a context what concerns its pages."""

    def __init__(self, cache: KvCache, limits: Limits, cost: CostModel, eviction: Eviction) -> None:
        self._cache = cache
        self._limits = limits
        self._cost = cost
        self._eviction = eviction
        self._seniority = Seniority(limits.immunity_steps)
        self._turns = Turns()
        self._found: dict[Work, int] = {}
        """Tokens of waiting prompts that were in the cache when first looked for."""
        self.step = 0
        """Passes planned so far."""
        self.waited = 0
        """Pages that requests of the last plan were still to get."""

    def plan(self, active: Iterable[Context], everyone: Collection[Context]) -> Plan | None:
        """The next pass over the work of `active` contexts; None when none has any, or nothing can be done for those
        who have. `everyone` may lose pages."""
        works: list[Work] = [work for work in (context.work for context in active) if work is not None]
        works.sort(key=lambda work: work.arrival)
        self.waited = 0
        if not works:
            return self._pass_of(Draft())
        self.step += 1
        draft = self._draft(works, everyone, self._seniority.choose(works, self.step))
        if not draft.entries:
            # The oldest must not wait for the immunity or the bid of contexts that cannot go on either.
            draft = self._draft(works, everyone, self._seniority.promote(works[0]))
        self.waited = sum(
            self._cache.missing_pages(work.context, _reach(work))
            for work in works
            if work.context not in draft.planned or not _decodes(work)
        )
        return self._pass_of(draft)

    def _pass_of(self, draft: Draft) -> Plan | None:
        """The draft with the moves that wait; they alone make a pass too."""
        swap, pool = self._cache.swap, self._cache.pool
        moves = Moves(*swap.take_moves()) if swap.pending else None
        if not draft.entries and moves is None:
            return None
        batch = build(
            draft.segments,
            page_size=pool.page_size,
            scratch_page=pool.total,
            copies=draft.copies,
            moves=moves,
            loads=draft.loads,
        )
        return Plan(batch, draft.entries)

    def _draft(self, works: list[Work], everyone: Collection[Context], senior: Work | None) -> Draft:
        draft = Draft()
        room = Room(self._cache, self._eviction, everyone, draft.planned, self.step, senior)
        decodes: list[Work] = []
        prompts: list[Work] = []
        for work in works:
            if work is not senior:
                (decodes if _decodes(work) else prompts).append(work)
        draft.claimed = sum(self._cache.missing_pages(w.context, _reach(w)) for w in prompts if w.context.pages)
        if senior is not None and not _decodes(senior):
            self._prefill(draft, room, senior, self._limits.step_ms * (_SENIOR_SHARE if prompts else 1.0))
            draft.prefills, draft.full = 0, False
        self._found = {w: self._found[w] if w in self._found else self._expected(w) for w in prompts}
        bidder = self._bidder(room, decodes, prompts)
        if bidder is not None:
            self._prefill(draft, room, bidder, self._limits.step_ms * _SENIOR_SHARE)
            draft.prefills, draft.full = 0, False
            prompts = [w for w in prompts if w is not bidder]
        budget = self._limits.step_ms * (_DECODE_SHARE if prompts else 1.0)
        if senior is not None and senior.context not in draft.planned and _decodes(senior):
            self._decode(draft, room, senior, budget, len(works))
        # Among those served in the same step the order is that of arrival.
        decodes.sort(key=lambda work: work.context.last_step)
        asked = len(draft.entries)
        for work in decodes:
            planned, rows = len(draft.entries), _rows(work)
            if planned and draft.load.rows + rows > self._limits.max_rows:
                break
            if planned and asked + rows > _MIN_BATCH and not self._fits(draft, work, budget):
                break
            self._decode(draft, room, work, budget, len(works))
            asked += rows * (len(draft.entries) - planned)
        for work in self._turns.order(prompts, self._to_go):
            if not self._prefill(draft, room, work, self._limits.step_ms):
                break
        return draft

    def _bidder(self, room: Room, decodes: list[Work], prompts: list[Work]) -> Work | None:
        """A prompt that waits for pages which decodes of a lower bid, or of a heavier account, hold: it must be planned
        before them, since nobody of a pass gives way."""
        if self._cache.pool.available >= len(decodes) + max(
            (self._cache.missing_pages(w.context, _reach(w)) for w in prompts if not w.context.pages), default=0
        ):
            return None
        waiting = [w for w in prompts if not w.context.pages and not w.context.dead]
        for work in sorted(waiting, key=lambda w: (-w.context.standing, w.arrival)):
            need, mine = self._cache.missing_pages(work.context, _reach(work)), work.context
            for other in (decode.context for decode in decodes):
                lower = other.use is not mine.use or other.standing < mine.standing
                if lower and room.yields(other, work, need):
                    return work
        return None

    def _expected(self, work: Work) -> int:
        return 0 if work.context.computed else self._cache.match(work.context, _findable(work))

    def _to_go(self, work: Work) -> int:
        return work.end - max(work.context.computed, self._found[work])

    def _fits(self, draft: Draft, work: Work, budget: float) -> bool:
        return self._cost.estimate(draft.load.plus(_rows(work), _reach(work))) <= budget

    def _bring_in(self, draft: Draft, room: Room, work: Import) -> None:
        """Give an imported context its pages, to be written before anything else. A row of it takes part and asks
        nothing."""
        if room.make(work.pages, work):
            pages = self._cache.install(work.context, work.end, work.holes)
            draft.loads.append(PageLoad(pages, work.data))
            self._add(draft, work, work.end)

    def _decode(self, draft: Draft, room: Room, work: Work, budget: float, works: int) -> None:
        context = work.context
        if isinstance(work, Import):
            self._bring_in(draft, room, work)
        elif (
            not context.dead
            and not _waits_to_probe(draft, work)
            and room.make(self._cache.missing_pages(context, _reach(work)), work)
        ):
            self._add(draft, work, work.end, self._guess(draft, work, budget, works))

    def _guess(self, draft: Draft, work: Work, budget: float, works: int) -> Guesses:
        """Guesses of what follows a run's pending token, within the rows, time and pages that nobody else needs."""
        if not isinstance(work, Run) or work.pace is None:
            return _NONE
        context, end = work.context, work.end
        if context.kv_length >= end:
            # A pending token whose KV is there may lie in a shared page: its step writes nothing.
            return _NONE
        rows = min(self._limits.max_rows - draft.load.rows, self._cost.rows_within(budget, draft.load, end - 1))
        guesses = work.guess(rows - 1)
        count = len(guesses.tokens)
        # A page for every request keeps guesses from costing anybody else theirs.
        spare = max(self._cache.pool.available - draft.claimed - works, self._cache.missing_pages(context, end))
        cap = context.use.account.page_cap
        if cap:
            spare = min(spare, cap - context.use.pages)
        while count and self._cache.missing_pages(context, end + count) > spare:
            count -= 1
        return Guesses(guesses.tokens[:count], guesses.open)

    def _prefill(self, draft: Draft, room: Room, work: Work, budget: float) -> bool:
        """Add the next chunk if there are pages for it. False when the step's time is over."""
        context = work.context
        if isinstance(work, Import):
            self._bring_in(draft, room, work)
            return True
        begun, found = bool(context.pages), context.found
        if context.dead or (draft.full and not begun) or _waits_to_probe(draft, work):
            return True
        if context.swapped is not None:
            if not self._has_room(draft, room, work, begun):
                draft.full = True
                return True
            self._eviction.bring_back(context)
            context.immune_until = self.step + self._limits.immunity_steps
            begun = True
        self._cache.find_prefix(context, _findable(work))
        if work.end - context.kv_length <= 0 and not _asks(work):
            # A flush that the cache has satisfied: it still takes part, with its last row asking nothing.
            self._add(draft, work, context.kv_length)
            return True
        if self._is_produced_elsewhere(draft, context, work):
            self._seniority.served(work, self.step)
            return True
        chunk = self._chunk(draft, work, budget)
        stop = min(work.end, context.kv_length + chunk)
        border = context.adapters.border(context.kv_length)
        if border is not None:
            stop = min(stop, border)
        if chunk <= 0 or not self._has_room(draft, room, work, begun):
            if not begun:
                # Whoever waits pins nothing.
                self._cache.evict(context)
                context.found = found
                draft.full = True
            return chunk > 0
        draft.prefills += 1
        self._announce(draft, context, work)
        self._turns.charge(context.use, stop - context.kv_length)
        self._add(draft, work, stop)
        return True

    def _chunk(self, draft: Draft, work: Work, budget: float) -> int:
        """Rows that may be added within so many milliseconds; 0 when a chunk worth its while does not fit."""
        first = work.context.kv_length
        copying = self._eviction.copy_ms(self._cache.swap.moves)
        rows = self._cost.rows_within(budget - copying, draft.load, first)
        if not draft.prefills:
            rows = max(rows, _MIN_CHUNK)
        elif rows < min(_MIN_CHUNK, work.end - first):
            return 0
        return min(rows, self._limits.max_rows - draft.load.rows)

    def _has_room(self, draft: Draft, room: Room, work: Work, begun: bool) -> bool:
        """Make room for the whole prompt: whoever begins must be able to finish, beside those who have begun and do not
        give way to it."""
        context = work.context
        total = self._cache.missing_pages(context, _reach(work))
        # Pages found in the pool need not be taken, but count as held.
        own = total if context.swapped is None else self._cache.pages_for(_reach(work))
        if begun:
            return room.make(total, work)
        claimed = sum(
            self._cache.missing_pages(other.context, _reach(other))
            for other in self._found
            if other is not work and other.context.pages and not room.yields(other.context, work, total)
        )
        # A page each keeps decodes going.
        wanted = min(total + claimed + len(draft.entries), self._cache.pool.total)
        return room.make(wanted, work, own) or (not draft.entries and room.make(total, work, own))

    def _add(self, draft: Draft, work: Work, stop: int, guesses: Guesses = _NONE) -> None:
        context = work.context
        if stop > context.length:
            raise InternalError(f"a request needs {stop} tokens of context {context.id}, which has {context.length}")
        asks_only = context.kv_length >= stop
        start = stop - 1 if asks_only else context.kv_length
        copy: tuple[int, int] | None = None
        tree = work if isinstance(work, Verification) and stop == work.end else None
        drafts = tree.tokens if tree is not None else guesses.tokens
        end = stop + len(drafts)
        if not asks_only:
            copy = self._cache.prepare_write(context, end)
            if copy is not None:
                draft.copies.append(copy)
        if context.absence is not None:
            context.immune_until = self.step + self._limits.immunity_steps
            self._eviction.computed(context, start, stop)
        outputs = work.outputs(start, stop, drafts) if isinstance(work, Run) else work.outputs(start, stop)
        positions, masks = context.lineage.positions(start, end), context.lineage.rows(start, end)
        if tree is not None:
            positions, masks = _with_tree(tree, start)
        draft.segments.append(
            Segment(
                tokens=[*context.tokens[start:stop], *drafts],
                positions=positions,
                first_slot=start,
                pages=self._cache.table(context, end),
                outputs=outputs,
                write_kv=not asks_only,
                adapters=context.adapters.at(start).slots,
                masks=masks,
                open_rows=len(drafts) if guesses.open else 0,
                parents=tree.parents if tree is not None else (),
            )
        )
        row = draft.load.rows + stop - start
        draft.entries.append(Entry(work, start, stop, len(outputs), copy, drafts, row))
        draft.planned.add(context)
        self._seniority.served(work, self.step)
        draft.load = draft.load.plus(end - start, end)
        if len(outputs) > 1 or isinstance(work, Pass):
            draft.probes += _probes(outputs)

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


def _decodes(work: Work) -> bool:
    """It has one row to go, and its pages are in the pool."""
    return work.end - work.context.kv_length <= 1 and work.context.swapped is None


def _rows(work: Work) -> int:
    """Rows of a decode: one, and those of guesses that it must have included."""
    return 1 + (len(work.tokens) if isinstance(work, Verification) else 0)


def _reach(work: Work) -> int:
    """Slots that the request needs in the end, those of guesses that it must have included."""
    return work.end + (len(work.tokens) if isinstance(work, Verification) else 0)


def _with_tree(work: Verification, start: int) -> tuple[Sequence[int], list[Intervals] | None]:
    """Positions and masks of the rows from slot `start` to the last guess."""
    lineage, end = work.context.lineage, work.end
    positions = [*lineage.positions(start, end), *work.positions()]
    tree = work.masks()
    if tree is None:
        return positions, lineage.rows(start, end + len(work.tokens))
    return positions, [*(lineage.rows(start, end) or [((0, slot + 1),) for slot in range(start, end)]), *tree]


def _waits_to_probe(draft: Draft, work: Work) -> bool:
    """It asks for more than tokens, of which the pass has enough."""
    if draft.probes < MOST_PROBES:
        return False
    return bool(work.probes) if isinstance(work, Run) else isinstance(work, Pass) and _probes(work.wanted) > 0


def _probes(outputs: Sequence[Output]) -> int:
    return sum(not isinstance(output.spec, Sampler) for output in outputs)


def _asks(work: Work) -> bool:
    return work.first_output is not None


def _findable(work: Work) -> int:
    """Tokens whose KV may come from the cache: rows that are asked must run, except that a last row may just ask."""
    first = work.first_output
    if first is None or (first == work.end - 1 and not isinstance(work, Verification)):
        return work.context.length
    return first
