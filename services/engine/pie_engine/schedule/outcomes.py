"""What a pass that is over means for the requests that were in it."""

from __future__ import annotations

from collections.abc import Sequence

from pie_wire.errors import DeviceError, PieError

from pie_engine.contexts.context import Context
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
        struck = self._end_copies(plan, done=True)
        for entry in plan.entries:
            mine = results[at : at + entry.outputs]
            at += entry.outputs
            context = entry.work.context
            context.last_step = step
            try:
                if context in struck:
                    raise struck[context]
                tokens += self._settle(plan, entry, mine)
            except Exception as exc:  # noqa: BLE001 - whatever it is, it must not reach the others of the pass
                self._operations.containment.work(context, exc)
        return tokens

    def fail(self, plan: Plan, error: PieError) -> None:
        """Nothing was computed, or nobody knows what: every request gets the error, and its context is as before."""
        struck = self._end_copies(plan, done=False)
        for entry in plan.entries:
            context = entry.work.context
            try:
                if context in struck:
                    raise struck[context]
                self._cache.trim(context, context.kv_length)
                self._operations.works.fail(entry.work, error)
            except Exception as exc:  # noqa: BLE001 - as in `deliver`
                self._operations.containment.work(context, exc)

    def _end_copies(self, plan: Plan, *, done: bool) -> dict[Context, Exception]:
        """Let go of pages that were held because they were to be copied. Returns what went wrong with whom: from then
        on all are let go, so that others can be counted."""
        struck: dict[Context, Exception] = {}
        for entry in plan.entries:
            try:
                if entry.copy is not None and done:
                    self._cache.keep_copy(entry.copy)
                elif entry.copy is not None:
                    self._cache.undo_copy(entry.work.context, entry.copy)
            except Exception as exc:  # noqa: BLE001 - as in `deliver`
                struck[entry.work.context] = exc
        return struck

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
