"""How contexts end: dropped, killed under pressure, dead from the start, or with their runner."""

from __future__ import annotations

from typing import TypeAlias

from pie_wire.errors import Cancelled, OutOfMemory, PieError
from pie_wire.messages import engine as wire

from pie_engine.contexts.context import Context
from pie_engine.contexts.context_table import ContextTable
from pie_engine.contexts.lines import Lines
from pie_engine.links.answers import done, fail
from pie_engine.links.runner_link import RunnerLink
from pie_engine.memory.kv_cache import KvCache
from pie_engine.runs.run_operations import RunOperations
from pie_engine.schedule.work import Queued

Answered: TypeAlias = wire.Flush | wire.Forward | wire.Commit | wire.DropTokens | wire.Pin | wire.Verify | wire.Export
"""Operations whose program waits for an answer."""


class Ends:
    """Every end answers what the context still owes its runner and gives its pages back."""

    def __init__(self, cache: KvCache, table: ContextTable, lines: Lines, runs: RunOperations) -> None:
        self._cache = cache
        self._table = table
        self._lines = lines
        self._runs = runs

    def drop(self, link: RunnerLink, number: int, op: wire.Drop) -> None:
        """The runner needs the context no more. It goes at once, unless forks of it are still to be made."""
        context = link.contexts.get(op.context)
        if context is None or any(isinstance(item.op, wire.Drop) for item in context.queue):
            done(link, number)
        elif any(isinstance(item.op, wire.Fork) for item in context.queue):
            # Its children are still to be made from what it will be.
            context.queue.append(Queued(number, op))
        else:
            self.free(context)
            done(link, number)

    def free(self, context: Context) -> None:
        """The context is no more; who waits for it gets `cancelled`."""
        link = context.link
        if context.gone:
            return
        gone = Cancelled(f"context {context.id} was dropped")
        if context.run is not None:
            self._runs.end(context.run, "cancelled")
            link.runs.pop(context.run.id, None)
            context.run = None
        waiting = context.queue.take_all()
        if context.current is not None:
            waiting.insert(0, Queued(context.current.op, wire.Flush(context.id, context.generation)))
            context.current = None
        for item in waiting:
            if isinstance(item.op, wire.Fork):
                child = link.contexts.get(item.op.context)
                if child is not None and child.unborn:
                    self.bury(child, item.number, gone)
                    continue
            elif isinstance(item.op, Answered):
                link.outbox.fail(item.number, context.id, context.generation, gone.info())
            done(link, item.number)
        self._cache.clear(context)
        self._table.leave(context)

    def bury(self, context: Context, number: int, cause: PieError) -> None:
        """The operation that was to make the context has failed. The id stays, dead: whatever is asked of it gets the
        cause."""
        context.unborn = False
        context.dead = True
        fail(context, number, cause)
        self._lines.advance(context)

    def kill(self, context: Context) -> None:
        """Pressure ended it: its run or operation and all that follow fail with the cause."""
        cause = OutOfMemory(
            f"pages, host memory and all that others could spare are full, and context {context.id} cannot be computed"
            " again: it had the lowest bid"
        )
        if context in context.link.prefetches:
            self.free(context)
            return
        context.dead = True
        context.cause = cause
        if context.run is not None:
            self._runs.end(context.run, "error", cause)
        if context.current is not None:
            fail(context, context.current.op, cause)
        self._lines.advance(context)
