"""Which prompts advance in a pass, and how far."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pie_engine.contexts.context import Context
from pie_engine.limits import Limits
from pie_engine.memory.eviction import Eviction
from pie_engine.memory.kv_cache import KvCache
from pie_engine.memory.room import Room
from pie_engine.runs.verification import Verification
from pie_engine.schedule.cost import CostModel
from pie_engine.schedule.draft import Draft
from pie_engine.schedule.fairness import Seniority, Turns
from pie_engine.schedule.needs import asked, findable, reach
from pie_engine.schedule.work import Import, Work

_MIN_CHUNK = 64
"""Tokens by which the first prompt, and the senior, advance in every pass whatever the estimate. A pass reads all
weights for its first row, and a row more costs little."""


class Prompts:
    """The requests of a draft that have more than one row to go, or whose pages are away."""

    def __init__(
        self, cache: KvCache, limits: Limits, cost: CostModel, eviction: Eviction, seniority: Seniority, turns: Turns
    ) -> None:
        self._cache = cache
        self._limits = limits
        self._cost = cost
        self._eviction = eviction
        self._seniority = seniority
        self._turns = turns
        self._found: dict[Work, int] = {}
        """Tokens of waiting prompts that were in the cache when first looked for."""
        self._producing: set[bytes] = set()
        """Hashes of pages that prefills of this pass, or their later chunks, will publish."""
        self._prefills = 0
        self._full = False
        """No pages for a request that has none yet: those who have begun go on."""
        self.claimed = 0
        """Pages that prompts already begun will still need."""

    def begin(self, prompts: Sequence[Work]) -> None:
        """A new draft, for which these wait, the senior not among them."""
        self._producing.clear()
        self._prefills, self._full = 0, False
        self.claimed = sum(self._cache.missing_pages(w.context, reach(w)) for w in prompts if w.context.pages)

    def look_up(self, prompts: Sequence[Work]) -> None:
        """See what the cache has of those that wait for the first time."""
        self._found = {w: self._found[w] if w in self._found else self._expected(w) for w in prompts}

    def order(self, prompts: Sequence[Work]) -> Iterator[Work]:
        """In turns."""
        return self._turns.order(prompts, self._to_go)

    def first(self, draft: Draft, room: Room, work: Work, budget: float) -> None:
        """Add a chunk ahead of everybody else: the first of those that come in turns is the first all the same."""
        self.add(draft, room, work, budget)
        self._prefills, self._full = 0, False

    def add(self, draft: Draft, room: Room, work: Work, budget: float) -> bool:
        """Add the next chunk if there are pages for it. False when the step's time is over."""
        context = work.context
        if isinstance(work, Import):
            draft.bring_in(room, work)
            return True
        begun, found = bool(context.pages), context.found
        if context.dead or (self._full and not begun) or draft.probes_enough(work):
            return True
        if context.swapped is not None:
            if not self._has_room(draft, room, work, begun):
                self._full = True
                return True
            self._eviction.bring_back(context)
            context.immune_until = draft.step + self._limits.immunity_steps
            begun = True
        self._cache.find_prefix(context, findable(work))
        if work.end - context.kv_length <= 0 and work.first_output is None:
            # A flush that the cache has satisfied: it still takes part, with its last row asking nothing.
            draft.add(work, context.kv_length)
            return True
        if self._is_produced_elsewhere(context, work):
            self._seniority.served((work,), draft.step)
            return True
        chunk = self._chunk(draft, work, budget)
        stop = self._stop(draft, work, chunk)
        if chunk <= 0 or not self._has_room(draft, room, work, begun):
            if not begun:
                # Whoever waits pins nothing.
                self._cache.evict(context)
                context.found = found
                self._full = True
            return chunk > 0
        if stop == context.kv_length < work.end:
            # Its last row decodes in the next pass, with its guesses.
            return True
        self._prefills += 1
        self._announce(context, work)
        self._turns.charge(context.use, stop - context.kv_length)
        draft.add(work, stop)
        return True

    def bidder(self, room: Room, decoding: Sequence[Work], prompts: Sequence[Work]) -> Work | None:
        """A prompt that waits for pages which decodes of a lower bid, or of a heavier account, hold: it must be planned
        before them, since nobody of a pass gives way."""
        waiting = [w for w in prompts if not w.context.pages]
        if not waiting or self._cache.pool.available >= len(decoding) + max(
            self._cache.missing_pages(w.context, reach(w)) for w in waiting
        ):
            return None
        alive = [w for w in waiting if not w.context.dead]
        for work in sorted(alive, key=lambda w: (-w.context.standing, w.arrival)):
            need, mine = self._cache.missing_pages(work.context, reach(work)), work.context
            for other in (decode.context for decode in decoding):
                lower = other.use is not mine.use or other.standing < mine.standing
                if lower and room.yields(other, work, need):
                    return work
        return None

    def _expected(self, work: Work) -> int:
        return 0 if work.context.computed else self._cache.match(work.context, findable(work))

    def _to_go(self, work: Work) -> int:
        return work.end - max(work.context.computed, self._found[work])

    def _chunk(self, draft: Draft, work: Work, budget: float) -> int:
        """Rows that may be added within so many milliseconds; 0 when a chunk worth its while does not fit."""
        first = work.context.kv_length
        copying = self._eviction.copy_ms(self._cache.swap.moves)
        rows = self._cost.rows_within(budget - copying, draft.load, first, asked(work) / max(1, work.end - first))
        if not self._prefills:
            rows = max(rows, _MIN_CHUNK)
        elif rows < min(_MIN_CHUNK, work.end - first):
            return 0
        return min(rows, self._limits.max_rows - draft.load.rows)

    def _stop(self, draft: Draft, work: Work, chunk: int) -> int:
        """Where a chunk of so many rows ends."""
        first = work.context.kv_length
        stop = min(work.end, first + chunk)
        border = work.context.adapters.border(first)
        if border is not None:
            stop = min(stop, border)
        if stop == work.end and isinstance(work, Verification) and stop - first + len(work.tokens) > chunk:
            # The last row brings the guesses along: it goes with another pass, unless all passes are as small.
            return max(stop - 1, first) if stop - 1 > first or draft.entries else stop
        return stop

    def _has_room(self, draft: Draft, room: Room, work: Work, begun: bool) -> bool:
        """Make room for the whole prompt: whoever begins must be able to finish, beside those who have begun and do not
        give way to it."""
        context = work.context
        total = self._cache.missing_pages(context, reach(work))
        # Pages found in the pool need not be taken, but count as held.
        own = total if context.swapped is None else self._cache.pages_for(reach(work))
        if begun:
            return room.make(total, work)
        claimed = sum(
            self._cache.missing_pages(other.context, reach(other))
            for other in self._found
            if other is not work and other.context.pages and not room.yields(other.context, work, total)
        )
        # A page each keeps decodes going.
        wanted = min(total + claimed + len(draft.entries), self._cache.pool.total)
        return room.make(wanted, work, own) or (not draft.entries and room.make(total, work, own))

    def _is_produced_elsewhere(self, context: Context, work: Work) -> bool:
        """The next page is being computed by another request of this pass: waiting for it is cheaper."""
        size = self._limits.page_size
        index = context.kv_length // size
        if not self._producing or (index + 1) * size > findable(work):
            return False
        return self._cache.page_hash(context, index) in self._producing

    def _announce(self, context: Context, work: Work) -> None:
        size = self._limits.page_size
        for index in range(context.kv_length // size, min(work.end, context.guest_length) // size):
            self._producing.add(self._cache.page_hash(context, index))
