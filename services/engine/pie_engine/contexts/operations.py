"""Carries out context operations in the order of their context. No batch, no device: state changes only.

    births   contexts begin             lines   who waits behind whom
    ends     contexts end               works   what passes carry out, begun and finished
    runs     decoding ahead             wishes  what programs say about their memory
    pages, pins, transfers   as their names say

The contexts themselves are in `context_table`. What a bug in any of this may cost is in `containment`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from pie_wire.errors import BadRequest, Conflict, NotFound, Overloaded, PieError
from pie_wire.messages import engine as wire

from pie_engine.adapters.table import AdapterTable
from pie_engine.contexts.births import Births
from pie_engine.contexts.checks import check_cut, check_length, check_tokens
from pie_engine.contexts.containment import Containment
from pie_engine.contexts.context import Context
from pie_engine.contexts.context_table import ContextTable
from pie_engine.contexts.ends import Ends
from pie_engine.contexts.lines import Lines
from pie_engine.contexts.page_operations import PageOperations
from pie_engine.contexts.pins import Pins
from pie_engine.contexts.transfers import Transfers
from pie_engine.contexts.wishes import Wishes
from pie_engine.contexts.works import Works
from pie_engine.limits import Limits
from pie_engine.links.answers import done, fail, refusal_of, refuse
from pie_engine.links.runner_link import RunnerLink
from pie_engine.memory.books import Books
from pie_engine.memory.eviction import Eviction
from pie_engine.memory.kv_cache import KvCache
from pie_engine.passes.page_moves import Buffer
from pie_engine.runs.grammar_compiler import GrammarCompiler
from pie_engine.runs.run_operations import RunOperations
from pie_engine.schedule.work import Flush, Queued

Ordered: TypeAlias = (
    wire.Append
    | wire.Truncate
    | wire.DropTokens
    | wire.Reserve
    | wire.Commit
    | wire.Release
    | wire.Pin
    | wire.Export
    | wire.Flush
    | wire.OpenRun
    | wire.Forward
    | wire.SetAdapters
    | wire.Suspend
    | wire.Verify
)
"""Operations that wait for the context's earlier ones and are skipped when one of those fails."""


class Operations:
    """One call per operation received."""

    def __init__(
        self,
        cache: KvCache,
        limits: Limits,
        table: ContextTable,
        adapters: AdapterTable,
        eviction: Eviction,
        grammars: GrammarCompiler | None,
        transfers: Transfers,
        copied: Callable[[], Iterable[int]],
    ) -> None:
        """For `copied` see `Books`."""
        self._cache = cache
        self._limits = limits
        self._table = table
        self._adapters = adapters
        self._transfers = transfers
        self._pages = PageOperations(cache, limits, table)
        self._wishes = Wishes(table, eviction)
        self._lines = Lines(limits.queue, self._execute)
        self.pins = Pins(cache, limits, table)
        self.runs = RunOperations(cache, limits, table, grammars)
        self.ends = Ends(cache, table, self._lines, self.runs)
        self.works = Works(cache, limits, table, self._lines, self.ends, self.runs, self.pins, self._pages, transfers)
        self.books = Books(cache, table, self.pins, adapters, copied)
        self.containment = Containment(cache, table, self.books, self._lines, self.runs)
        self._births = Births(cache, limits, table, self._lines, self.ends, self.works, self.runs, adapters, transfers)

    def expire(self) -> None:
        """Go on with what was waiting for something else than operations: pins' ends, grammars."""
        try:
            self.pins.expire()
        except Exception as exc:  # noqa: BLE001 - as in `apply`
            self.containment.elsewhere(exc, "pins")
        for run in self.runs.compiled():
            try:
                self.runs.constrain(run)
            except Exception as exc:  # noqa: BLE001 - as in `apply`
                self.containment.work(run.context, exc)

    def release(self, link: RunnerLink) -> None:
        """The runner is gone: free everything it has."""
        for context in [*link.contexts.values(), *link.prefetches]:
            try:
                self.ends.free(context)
            except Exception as exc:  # noqa: BLE001 - as in `apply`
                self.containment.lose(context, exc)
        link.runs.clear()
        link.open.clear()

    def apply(self, link: RunnerLink, number: int, op: wire.Op, buffers: Sequence[Buffer] = ()) -> None:
        """Carry out an operation, or queue it behind unfinished ones of its context. `buffers`: of its message."""
        link.last = number
        link.open[number] = None
        try:
            self._take(link, number, op, buffers)
        except Exception as exc:  # noqa: BLE001 - whatever it is, it must not reach other contexts
            self.containment.operation(link, number, op, exc)

    def _take(self, link: RunnerLink, number: int, op: wire.Op, buffers: Sequence[Buffer]) -> None:
        match op:
            case wire.Create():
                self._births.create(link, number, op)
            case wire.Import():
                self._births.bring_in(link, number, op, buffers)
            case wire.Fork():
                parent = self._births.expect(link, number, op)
                if parent is not None:
                    self._submit(parent, Queued(number, op))
            case wire.Drop():
                self.ends.drop(link, number, op)
            case wire.Idle():
                self._wishes.idle(link, number, op)
            case wire.Bid():
                self._wishes.bid(link, number, op)
            case wire.Consume():
                self._wishes.wake(link.contexts.get(op.context))
                self.runs.consume(link, op)
                done(link, number)
            case wire.PauseRun() | wire.ResumeRun():
                if isinstance(op, wire.ResumeRun):
                    self._wishes.wake(link.contexts.get(op.context))
                self.runs.pause(link, op.run, paused=isinstance(op, wire.PauseRun))
                done(link, number)
            case wire.CloseRun():
                self._wishes.wake(link.contexts.get(op.context))
                self.runs.close(link, number, op)
            case wire.Prefetch():
                self._births.prefetch(link, number, op)
            case wire.Unpin():
                self.pins.remove(op.account, op.name)
                done(link, number)
            case _:
                context = link.contexts.get(op.context)
                if context is None:
                    unknown = NotFound(f"context {op.context} does not exist: it was dropped or never created")
                    link.outbox.fail(number, op.context, 0, unknown.info())
                    done(link, number)
                else:
                    self._submit(context, Queued(number, op))

    # -- in order

    def _submit(self, context: Context, item: Queued) -> None:
        if self._lines.submit(context, item):
            return
        overloaded = Overloaded(
            f"{len(context.queue)} operations wait on context {context.id}, and {context.link.waiting} (with their "
            "tokens) on all of its runner: wait for some of them"
        )
        child = context.link.contexts.get(item.op.context) if isinstance(item.op, wire.Fork) else None
        if child is not None:
            self.ends.bury(child, item.number, overloaded)
        else:
            fail(context, item.number, overloaded)

    def _execute(self, context: Context, item: Queued) -> None:
        try:
            self._take_turn(context, item)
        except Exception as exc:  # noqa: BLE001 - whatever it is, it must not reach other contexts
            self.containment.turn(context, item.number, item.op, exc)

    def _take_turn(self, context: Context, item: Queued) -> None:
        op = item.op
        if context.suspended:
            context.suspended = False
            self._table.active[context] = None
        match op:
            case wire.Fork():
                self._births.fork(context, item.number, op)
            case wire.Drop():
                self.ends.free(context)
                done(context.link, item.number)
            case (
                wire.Create()
                | wire.Import()
                | wire.Consume()
                | wire.PauseRun()
                | wire.ResumeRun()
                | wire.CloseRun()
                | wire.Prefetch()
                | wire.Unpin()
                | wire.Idle()
                | wire.Bid()
            ):
                raise BadRequest(f"{type(op).__name__} does not wait in a context's queue")
            case _:
                refusal = refusal_of(context, op.generation)
                if refusal is not None:
                    refuse(context, item.number, refusal)
                    return
                try:
                    self._carry_out(context, item.number, op)
                except PieError as exc:
                    fail(context, item.number, exc)

    def _carry_out(self, context: Context, number: int, op: Ordered) -> None:
        if context.run is not None and not isinstance(op, wire.Flush | wire.Pin | wire.Suspend | wire.Export):
            raise Conflict(f"context {context.id} has an open run {context.run.id}: close it first")
        match op:
            case wire.Append():
                check_tokens(op.tokens, self._limits)
                check_length(context, context.length + len(op.tokens), self._limits)
                context.tokens.extend(op.tokens)
                done(context.link, number)
            case wire.Truncate():
                check_cut(context, op.length, self._limits)
                self._cache.truncate(context, op.length)
                done(context.link, number)
            case wire.SetAdapters():
                self._cache.set_adapters(context, self._adapters.set_of(op.adapters))
                done(context.link, number)
            case wire.Reserve():
                self._pages.reserve(context, number, op)
            case wire.Release():
                self._pages.release(context, number, op)
            case wire.Commit():
                self.works.begin(self._pages.commit(context, number, op))
            case wire.Pin():
                tokens = self.pins.check(context, op)
                self.works.begin(Flush(number, context, self._table.arrival(), tokens, op))
            case wire.DropTokens():
                self.works.begin(self._pages.drop(context, number, op))
            case wire.OpenRun():
                self.runs.open(context, number, op)
            case wire.Suspend():
                self._wishes.suspend(context, number)
            case wire.Export():
                self.works.begin(self._transfers.export(context, number, bare=op.bare, length=op.length))
            case wire.Flush():
                self.works.begin(Flush(number, context, self._table.arrival()))
            case wire.Forward():
                self.works.forward(context, number, op)
            case wire.Verify():
                self.works.verify(context, number, op)
