"""Carries out context operations in the order of their context. No batch, no device: state changes only.

What concerns runs is in `run_operations`; the contexts themselves are in `context_table`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from math import isfinite
from typing import TypeAlias

from pie_wire.errors import BadField, BadRequest, Cancelled, Conflict, NotFound, OutOfMemory, Overloaded, PieError
from pie_wire.messages import engine as wire
from pie_wire.messages.common import Account

from pie_engine.adapters.table import AdapterTable
from pie_engine.contexts.asking import make_outputs
from pie_engine.contexts.checks import check_cut, check_head, check_length, check_pass, check_tokens, check_verification
from pie_engine.contexts.context import Context
from pie_engine.contexts.context_table import ContextTable
from pie_engine.contexts.layout import lay_out
from pie_engine.contexts.page_operations import PageOperations
from pie_engine.contexts.pins import Pins
from pie_engine.contexts.transfers import Transfers
from pie_engine.limits import Limits
from pie_engine.links.answers import done, fail, refusal_of, refuse
from pie_engine.links.runner_link import RunnerLink
from pie_engine.memory.eviction import Eviction
from pie_engine.memory.kv_cache import KvCache
from pie_engine.passes.batch import Buffer
from pie_engine.passes.device import Result
from pie_engine.runs.grammar_compiler import GrammarCompiler
from pie_engine.runs.run import Run
from pie_engine.runs.run_operations import RunOperations
from pie_engine.runs.verification import Verification
from pie_engine.schedule.work import Export, Flush, Import, Pass, Queued, Waiting, Work

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
Answered: TypeAlias = wire.Flush | wire.Forward | wire.Commit | wire.DropTokens | wire.Pin | wire.Verify | wire.Export
MAX_PREFETCHES = 64
"""Of one runner, under way at once."""
MAX_ID = (1 << 63) - 1
"""Of a context. Negative ids are the engine's own."""


class Operations:
    """One call per operation received, and per request that a pass has finished or failed."""

    def __init__(
        self,
        cache: KvCache,
        limits: Limits,
        table: ContextTable,
        adapters: AdapterTable,
        eviction: Eviction,
        grammars: GrammarCompiler | None,
        transfers: Transfers,
    ) -> None:
        self._transfers = transfers
        self._cache = cache
        self._adapters = adapters
        self._eviction = eviction
        self._limits = limits
        self._table = table
        self.runs = RunOperations(cache, limits, table, grammars)
        self.pins = Pins(cache, limits, table)
        self._pages = PageOperations(cache, limits, table)
        self._ready: deque[Context] = deque()
        """Contexts whose queues may go on; not empty only inside of `_advance`."""
        self._advancing = False

    def apply(self, link: RunnerLink, number: int, op: wire.Op, buffers: Sequence[Buffer] = ()) -> None:
        """Carry out an operation, or queue it behind unfinished ones of its context. `buffers`: of its message."""
        link.last = number
        link.open[number] = None
        match op:
            case wire.Create():
                self._create(link, number, op)
            case wire.Import():
                self._import(link, number, op, buffers)
            case wire.Fork():
                self._receive_fork(link, number, op)
            case wire.Drop():
                self._receive_drop(link, number, op)
            case wire.Idle():
                self._idle(link, number, op)
            case wire.Bid():
                self._bid(link, number, op)
            case wire.Consume():
                self._wake(link.contexts.get(op.context))
                self.runs.consume(link, op)
                done(link, number)
            case wire.PauseRun() | wire.ResumeRun():
                if isinstance(op, wire.ResumeRun):
                    self._wake(link.contexts.get(op.context))
                self.runs.pause(link, op.run, paused=isinstance(op, wire.PauseRun))
                done(link, number)
            case wire.CloseRun():
                self._wake(link.contexts.get(op.context))
                self.runs.close(link, number, op)
            case wire.Prefetch():
                self._prefetch(link, number, op)
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

    def release(self, link: RunnerLink) -> None:
        """The runner is gone: free everything it has."""
        for context in [*link.contexts.values(), *link.prefetches]:
            self._free(context)
        link.runs.clear()
        link.open.clear()

    # -- results of passes

    def finish(self, work: Waiting) -> None:
        """A flush or lockstep pass has all it asked for: answer, and go on with what waited behind it."""
        context = work.context
        found = context.found - work.found
        match work:
            case Flush():
                match work.then:
                    case wire.Commit():
                        self._pages.committed(context, work.then)
                    case wire.DropTokens():
                        self._pages.dropped(context, work.then)
                    case wire.Pin():
                        try:
                            self.pins.put(context, work.then, work.end)
                        except PieError as exc:
                            self.fail(work, exc)
                            return
                    case wire.Prefetch():
                        context.current = None
                        self._free(context)
                        return
                    case None:
                        pass
                context.link.outbox.flushed(work.op, found)
            case Pass():
                results: list[Result] = [result for result in work.results if result is not None]
                context.link.outbox.forwarded(work.op, results, found)
            case Verification():
                context.link.outbox.forwarded(work.op, work.drawn, found)
            case Export():
                context.link.outbox.exported(work.op, self._transfers.exported(work))
            case Import():
                pass
        done(context.link, work.op)
        self._advance(context)

    def fail(self, work: Work, error: PieError) -> None:
        """The device failed under this request: the context is as before it, with what a run had already given."""
        context = work.context
        if isinstance(work, Run):
            self.runs.end(work, "error", error)
            return
        if isinstance(work, Flush) and isinstance(work.then, wire.Prefetch):
            context.current = None
            self._free(context)
            return
        if isinstance(work, Import):
            self._cache.evict(context)
            context.tokens = []
            self._bury(context, work.op, error)
            return
        if isinstance(work, Pass):
            self._cache.truncate(context, work.base)
            if work.lineage is not None:
                context.lineage = work.lineage
                self._cache.forget(context, work.base - 1)
        fail(context, work.op, error)
        self._advance(context)

    # -- creation and end

    def _create(self, link: RunnerLink, number: int, op: wire.Create) -> None:
        if self._can_name(link, number, op.context):
            use = self._table.use_of(op.account)
            context = Context(op.context, link, op.process, op.tenant, use, since=self._table.clock())
            self._table.enter(context)
            done(link, number)

    def _can_name(self, link: RunnerLink, number: int, context: int) -> bool:
        """The runner may give a new context this id; if not, the operation has failed."""
        if not 0 <= context <= MAX_ID:
            error: PieError = BadField(f"a context id is a number from 0 to {MAX_ID}, not {context}")
        elif context in link.contexts:
            error = Conflict(f"context id {context} is in use")
        else:
            return True
        link.outbox.fail(number, context, 0, error.info())
        done(link, number)
        return False

    def _import(self, link: RunnerLink, number: int, op: wire.Import, buffers: Sequence[Buffer]) -> None:
        if not self._can_name(link, number, op.context):
            return
        use = self._table.use_of(op.account)
        context = Context(op.context, link, op.process, op.tenant, use, since=self._table.clock())
        self._table.enter(context)
        try:
            if op.buffer < 0 or op.count < 1 or op.buffer + op.count > len(buffers):
                raise BadField(f"an import of buffers {op.buffer} to {op.buffer + op.count}, of {len(buffers)}")
            self._begin(self._transfers.imported(context, number, buffers[op.buffer : op.buffer + op.count]))
        except PieError as exc:
            context.tokens = []
            self._bury(context, number, exc)

    def _receive_fork(self, link: RunnerLink, number: int, op: wire.Fork) -> None:
        if not self._can_name(link, number, op.context):
            return
        parent = link.contexts.get(op.parent)
        use = parent.use if parent is not None else self._table.use_of(Account())
        tenant = parent.tenant if parent is not None else "local"
        child = Context(
            op.context, link, op.process, tenant, use, parent=op.parent, since=self._table.clock(), unborn=True
        )
        self._table.enter(child)
        if parent is None:
            self._bury(child, number, NotFound(f"context {op.parent} does not exist: it was dropped or never created"))
        else:
            self._submit(parent, Queued(number, op))

    def _fork(self, parent: Context, number: int, op: wire.Fork) -> None:
        child = parent.link.contexts.get(op.context)
        if child is None or not child.unborn:
            done(parent.link, number)
            return
        refusal = refusal_of(parent, op.generation)
        try:
            if refusal is not None:
                raise refusal
            check_head(parent, op.length)
        except PieError as exc:
            self._bury(child, number, exc)
            return
        run = parent.run
        if run is not None and op.length > parent.guest_length:
            # The program has what it forks at, so it has consumed up to there.
            self.runs.consume(parent.link, wire.Consume(parent.id, run.id, op.length - run.start))
        self._cache.fork(parent, child, op.length)
        child.unborn = False
        child.bid = parent.bid
        done(parent.link, number)
        self._advance(child)

    def _bury(self, context: Context, number: int, cause: PieError) -> None:
        """The id stays, dead: whatever is asked of it gets the cause."""
        context.unborn = False
        context.dead = True
        fail(context, number, cause)
        self._advance(context)

    def _receive_drop(self, link: RunnerLink, number: int, op: wire.Drop) -> None:
        context = link.contexts.get(op.context)
        if context is None:
            done(link, number)
        elif any(isinstance(item.op, wire.Fork) for item in context.queue):
            # Its children are still to be made from what it will be.
            context.queue.append(Queued(number, op))
        else:
            self._free(context)
            done(link, number)

    def _free(self, context: Context) -> None:
        link = context.link
        if context.gone:
            return
        gone = Cancelled(f"context {context.id} was dropped")
        if context.run is not None:
            self.runs.end(context.run, "cancelled")
            link.runs.pop(context.run.id, None)
            context.run = None
        waiting = list(context.queue)
        context.queue.clear()
        if context.current is not None:
            waiting.insert(0, Queued(context.current.op, wire.Flush(context.id, context.generation)))
            context.current = None
        for item in waiting:
            if isinstance(item.op, wire.Fork):
                child = link.contexts.get(item.op.context)
                if child is not None and child.unborn:
                    self._bury(child, item.number, gone)
                    continue
            elif isinstance(item.op, Answered):
                link.outbox.fail(item.number, context.id, context.generation, gone.info())
            done(link, item.number)
        self._cache.clear(context)
        self._table.leave(context)

    # -- memory

    def _idle(self, link: RunnerLink, number: int, op: wire.Idle) -> None:
        context = link.contexts.get(op.context)
        if context is not None:
            context.idle = op.on
            self._table.active[context] = None
        done(link, number)

    def _bid(self, link: RunnerLink, number: int, op: wire.Bid) -> None:
        context = link.contexts.get(op.context)
        if not (isfinite(op.value) and op.value >= 0):
            wrong = BadField(f"a bid is a finite number from 0, not {op.value}")
            link.outbox.fail(number, op.context, context.generation if context is not None else 0, wrong.info())
        elif context is not None:
            context.bid = op.value
        done(link, number)

    def _suspend(self, context: Context, number: int) -> None:
        context.suspended = True
        if context.pages and self._eviction.can_keep(context):
            self._eviction.evict(context, "suspend")
        done(context.link, number)

    def kill(self, context: Context) -> None:
        """Pressure ended it: its run or operation and all that follow fail with the cause."""
        cause = OutOfMemory(
            f"pages, host memory and all that others could spare are full, and context {context.id} cannot be computed"
            " again: it had the lowest bid"
        )
        if context in context.link.prefetches:
            self._free(context)
            return
        context.dead = True
        context.cause = cause
        if context.run is not None:
            self.runs.end(context.run, "error", cause)
        if context.current is not None:
            fail(context, context.current.op, cause)
        self._advance(context)

    def _wake(self, context: Context | None) -> None:
        """An operation that waits for nobody came after a suspension, though perhaps before it was carried out."""
        if context is None:
            return
        for item in [item for item in context.queue if isinstance(item.op, wire.Suspend)]:
            context.queue.remove(item)
            done(context.link, item.number)
        context.suspended = False
        self._table.active[context] = None

    # -- order within a context

    def _submit(self, context: Context, item: Queued) -> None:
        if context.current is None and not context.unborn and not context.queue:
            self._execute(context, item)
        elif len(context.queue) < self._limits.queue:
            context.queue.append(item)
        else:
            self._turn_away(context, item)

    def _turn_away(self, context: Context, item: Queued) -> None:
        """The queue is full."""
        overloaded = Overloaded(f"{len(context.queue)} operations wait on context {context.id}: wait for some of them")
        child = context.link.contexts.get(item.op.context) if isinstance(item.op, wire.Fork) else None
        if child is not None:
            self._bury(child, item.number, overloaded)
        else:
            fail(context, item.number, overloaded)

    def _advance(self, context: Context) -> None:
        """What the context waited for is over: carry out what is queued.

        That may end what others wait for, or be done at once itself. All of it is carried out before the outermost
        call returns; inner ones only note the context, so that no line of operations or forks is too long.
        """
        context.current = None
        self._ready.append(context)
        if self._advancing:
            return
        self._advancing = True
        try:
            while self._ready:
                ready = self._ready.popleft()
                while ready.queue and ready.current is None and not ready.unborn:
                    self._execute(ready, ready.queue.popleft())
        finally:
            self._advancing = False

    def _execute(self, context: Context, item: Queued) -> None:
        op = item.op
        if context.suspended:
            context.suspended = False
            self._table.active[context] = None
        match op:
            case wire.Fork():
                self._fork(context, item.number, op)
            case wire.Drop():
                self._free(context)
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
                self._begin(self._pages.commit(context, number, op))
            case wire.Pin():
                tokens = self.pins.check(context, op)
                self._begin(Flush(number, context, self._table.arrival(), tokens, op))
            case wire.DropTokens():
                self._begin(self._pages.drop(context, number, op))
            case wire.OpenRun():
                self.runs.open(context, number, op)
            case wire.Suspend():
                self._suspend(context, number)
            case wire.Export():
                self._begin(self._transfers.export(context, number))
            case wire.Flush():
                self._begin(Flush(number, context, self._table.arrival()))
            case wire.Forward():
                self._forward(context, number, op)
            case wire.Verify():
                self._verify(context, number, op)

    def _forward(self, context: Context, number: int, op: wire.Forward) -> None:
        check_pass(context, op, self._limits)
        base = context.length
        first = base if op.tokens else base - 1
        before = lay_out(context, op, self._limits)
        if before is not None and not op.tokens:
            self._cache.forget(context, first)
        context.tokens.extend(op.tokens)
        wanted = make_outputs(op.outputs, first, context, self._limits.vocab)
        self._begin(Pass(number, context, self._table.arrival(), base, wanted, [None] * len(wanted), before))

    def _prefetch(self, link: RunnerLink, number: int, op: wire.Prefetch) -> None:
        """A context of the engine's own, freed when it has KV; its id is none that a runner chooses."""
        use = self._table.use_of(op.account)
        try:
            if len(link.prefetches) >= MAX_PREFETCHES:
                raise Overloaded(f"{MAX_PREFETCHES} prefetches of this runner are under way: wait for some of them")
            check_tokens(op.tokens, self._limits)
            context = Context(-number, link, op.process, op.tenant, use, since=self._table.clock())
            check_length(context, len(op.tokens), self._limits)
            adapters = self._adapters.set_of(op.adapters)
        except PieError as exc:
            self._table.close(use)
            link.outbox.fail(number, 0, 0, exc.info())
            done(link, number)
            return
        self._table.enter(context)
        self._cache.set_adapters(context, adapters)
        context.tokens.extend(op.tokens)
        done(link, number)
        whole = len(op.tokens) // self._limits.page_size * self._limits.page_size
        self._begin(Flush(number, context, self._table.arrival(), whole, op))

    def _verify(self, context: Context, number: int, op: wire.Verify) -> None:
        check_verification(context, op, self._limits)
        # The last token's row is fed with the guesses, so its own KV is not taken from a page that others may share.
        self._cache.trim(context, min(context.kv_length, context.length - 1))
        arrival, vocab = self._table.arrival(), self._limits.vocab
        self._begin(Verification(number, context, arrival, op.tokens, op.parents, op.sampler, vocab))

    def _begin(self, work: Waiting) -> None:
        work.found = work.context.found
        work.context.current = work
        work.context.arrival = work.arrival
        if work.done:
            self.finish(work)
        else:
            self._table.active[work.context] = None
