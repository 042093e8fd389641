"""What a pass that is over means for the requests that were in it."""

from __future__ import annotations

from collections.abc import Sequence

from pie_wire.errors import DeviceError, PieError

from pie_engine.contexts.operations import Operations
from pie_engine.memory.kv_cache import KvCache
from pie_engine.passes.device import Result
from pie_engine.runs.run import Run
from pie_engine.runs.verification import Verification
from pie_engine.schedule.plan import Entry, Plan
from pie_engine.schedule.work import Export, Pass


class Outcomes:
    """Gives results to requests, and their contexts the KV that was computed."""

    def __init__(self, cache: KvCache, operations: Operations) -> None:
        self._cache = cache
        self._operations = operations

    def deliver(self, plan: Plan, results: Sequence[Result], step: int) -> int:
        """One result per output of the plan's batch, which was step number `step`. Returns how many tokens runs got."""
        tokens = at = 0
        for entry in plan.entries:
            mine = results[at : at + entry.outputs]
            at += entry.outputs
            if entry.copy is not None:
                self._cache.keep_copy(entry.copy)
            entry.work.context.last_step = step
            tokens += self._settle(plan, entry, mine)
        return tokens

    def fail(self, plan: Plan, error: PieError) -> None:
        """Nothing was computed, or nobody knows what: every request gets the error, and its context is as before."""
        for entry in plan.entries:
            context = entry.work.context
            if entry.copy is not None:
                self._cache.undo_copy(context, entry.copy)
            self._cache.trim(context, context.kv_length)
            self._operations.works.fail(entry.work, error)

    def _settle(self, plan: Plan, entry: Entry, results: Sequence[Result]) -> int:
        """One request. Returns how many tokens it drew, if it is a run."""
        work, context = entry.work, entry.work.context
        tokens = right = 0
        error = next((result for result in results if isinstance(result, PieError)), None)
        unsound = any(isinstance(result, DeviceError) for result in results)
        match work:
            case Run():
                drawn = self._operations.runs.drawn(work, plan.guesses(entry), results)
                tokens, right, error = drawn.tokens, drawn.right, drawn.error
            case Pass() if error is None:
                work.deliver(entry.start, entry.stop, results)
            case Verification() if results and not unsound:
                error = work.accept(results)
                right = max(0, len(work.drawn) - 1)
            case Export() if error is None:
                work.deliver(results)
            case _:
                pass
        if unsound:
            # Its earlier KV may be why, and would be found again by whoever has the same beginning.
            self._cache.distrust(context)
        if unsound and context.impure:
            self._cache.trim(context, min(context.kv_length, entry.start))
        elif unsound:
            # Computed again from the tokens when next needed.
            self._cache.evict(context)
        else:
            self._cache.trim(context, max(context.kv_length, min(entry.stop + right, context.length)))
        if error is not None:
            self._operations.works.fail(work, error)
            return tokens
        self._cache.publish(context)
        if not isinstance(work, Run) and work.done:
            self._operations.works.finish(work)
        return tokens
