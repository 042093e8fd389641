"""Carries out context operations in the order of their context. No batch, no device: state changes only."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from pie_wire.errors import BadField, BadRequest, Cancelled, Conflict, NotFound, Overloaded, PieError, Skipped
from pie_wire.messages import engine as wire
from pie_wire.messages.common import Account
from pie_wire.messages.runner import RunEnd

from pie_engine.batch import Sampler
from pie_engine.checks import check_length, check_pass, check_run, check_tokens
from pie_engine.context import AccountUse, Context
from pie_engine.device import Result
from pie_engine.kv_cache import KvCache
from pie_engine.limits import Limits
from pie_engine.runner_link import RunnerLink
from pie_engine.work import Flush, Pass, Queued, Run

Ordered: TypeAlias = wire.Append | wire.Truncate | wire.Flush | wire.OpenRun | wire.Forward


class Operations:
    """All contexts of all runners.

    `active` has every context that may have work for a pass; the planner removes those that have none.
    """

    def __init__(self, cache: KvCache, limits: Limits, clock: Callable[[], float]) -> None:
        self._cache = cache
        self._limits = limits
        self._clock = clock
        self._arrivals = 0
        self._accounts: dict[Account, AccountUse] = {}
        self.contexts: dict[Context, None] = {}
        self.active: dict[Context, None] = {}

    def apply(self, link: RunnerLink, number: int, op: wire.Op) -> None:
        """Carry out an operation, or queue it behind unfinished ones of its context."""
        link.last = number
        link.open[number] = None
        match op:
            case wire.Create():
                self._create(link, number, op)
            case wire.Fork():
                self._receive_fork(link, number, op)
            case wire.Drop():
                self._receive_drop(link, number, op)
            case wire.Consume():
                self._consume(link, op)
                self._done(link, number)
            case wire.CloseRun():
                self._close_run(link, number, op)
            case _:
                context = link.contexts.get(op.context)
                if context is None:
                    unknown = NotFound(f"context {op.context} does not exist: it was dropped or never created")
                    link.outbox.fail(number, op.context, 0, unknown.info())
                    self._done(link, number)
                else:
                    self._submit(context, Queued(number, op))

    def release(self, link: RunnerLink) -> None:
        """The runner is gone: free everything it has."""
        for context in list(link.contexts.values()):
            self._free(context)
        link.runs.clear()
        link.open.clear()

    # -- results of passes

    def token_drawn(self, run: Run, token: int) -> None:
        """The run's next token."""
        context = run.context
        if token in run.stop:
            self._end_run(run, "stop")
            return
        context.tokens.append(token)
        run.generated += 1
        context.link.outbox.token(run.id, token)
        if run.generated >= run.max_tokens or context.length >= run.limit:
            self._end_run(run, "length")

    def finish(self, work: Pass | Flush) -> None:
        """A flush or lockstep pass has all it asked for: answer, and go on with what waited behind it."""
        context = work.context
        if isinstance(work, Flush):
            context.link.outbox.flushed(work.op)
        else:
            results: list[Result] = [result for result in work.results if result is not None]
            context.link.outbox.forwarded(work.op, results)
        self._done(context.link, work.op)
        self._advance(context)

    def fail(self, work: Run | Pass | Flush, error: PieError) -> None:
        """The device failed under this request: the context is as before it, with what a run had already given."""
        context = work.context
        if isinstance(work, Run):
            self._end_run(work, "error", error)
            return
        if isinstance(work, Pass):
            self._cache.truncate(context, work.base)
        self._fail(context, work.op, error)
        self._advance(context)

    # -- creation and end

    def _create(self, link: RunnerLink, number: int, op: wire.Create) -> None:
        if op.context in link.contexts:
            link.outbox.fail(number, op.context, 0, Conflict(f"context id {op.context} is in use").info())
        else:
            use = self._accounts.setdefault(op.account, AccountUse(op.account))
            context = Context(op.context, link, op.process, op.tenant, use, since=self._clock())
            self._enter(context)
        self._done(link, number)

    def _receive_fork(self, link: RunnerLink, number: int, op: wire.Fork) -> None:
        if op.context in link.contexts:
            link.outbox.fail(number, op.context, 0, Conflict(f"context id {op.context} is in use").info())
            self._done(link, number)
            return
        parent = link.contexts.get(op.parent)
        use = parent.use if parent is not None else self._accounts.setdefault(Account(), AccountUse(Account()))
        tenant = parent.tenant if parent is not None else "local"
        child = Context(op.context, link, op.process, tenant, use, parent=op.parent, since=self._clock(), unborn=True)
        self._enter(child)
        if parent is None:
            self._bury(child, number, NotFound(f"context {op.parent} does not exist: it was dropped or never created"))
        else:
            self._submit(parent, Queued(number, op))

    def _fork(self, parent: Context, number: int, op: wire.Fork) -> None:
        child = parent.link.contexts.get(op.context)
        if child is None or not child.unborn:
            self._done(parent.link, number)
            return
        refusal = self._refusal(parent, op.generation)
        if refusal is None and not 0 <= op.length <= parent.length:
            refusal = BadField(f"a fork at {op.length} of a context of {parent.length} tokens")
        if refusal is not None:
            self._bury(child, number, refusal)
            return
        run = parent.run
        if run is not None and op.length > parent.guest_length:
            # The program has what it forks at, so it has consumed up to there.
            self._consume(parent.link, wire.Consume(parent.id, run.id, op.length - run.start))
        self._cache.fork(parent, child, op.length)
        child.unborn = False
        self._done(parent.link, number)
        self._advance(child)

    def _bury(self, context: Context, number: int, cause: PieError) -> None:
        """The id stays, dead: whatever is asked of it gets the cause."""
        context.unborn = False
        context.dead = True
        self._fail(context, number, cause)
        self._advance(context)

    def _receive_drop(self, link: RunnerLink, number: int, op: wire.Drop) -> None:
        context = link.contexts.get(op.context)
        if context is None:
            self._done(link, number)
        elif any(isinstance(item.op, wire.Fork) for item in context.queue):
            # Its children are still to be made from what it will be.
            context.queue.append(Queued(number, op))
        else:
            self._free(context)
            self._done(link, number)

    def _free(self, context: Context) -> None:
        link = context.link
        if link.contexts.pop(context.id, None) is None:
            return
        gone = Cancelled(f"context {context.id} was dropped")
        if context.run is not None:
            self._end_run(context.run, "cancelled")
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
            elif isinstance(item.op, wire.Flush | wire.Forward):
                link.outbox.fail(item.number, context.id, context.generation, gone.info())
            self._done(link, item.number)
        self._cache.trim(context, 0)
        context.use.contexts -= 1
        if context.use.contexts == 0:
            self._accounts.pop(context.use.account, None)
        self.contexts.pop(context, None)
        self.active.pop(context, None)

    def _enter(self, context: Context) -> None:
        context.link.contexts[context.id] = context
        context.use.contexts += 1
        self.contexts[context] = None

    # -- order within a context

    def _submit(self, context: Context, item: Queued) -> None:
        if context.current is None and not context.unborn and not context.queue:
            self._execute(context, item)
        elif len(context.queue) < self._limits.queue:
            context.queue.append(item)
        else:
            self._fail(
                context, item.number, Overloaded(f"{len(context.queue)} operations wait on context {context.id}")
            )

    def _advance(self, context: Context) -> None:
        if isinstance(context.current, Pass | Flush):
            context.current = None
        while context.queue and context.current is None and not context.unborn:
            self._execute(context, context.queue.popleft())

    def _execute(self, context: Context, item: Queued) -> None:
        op = item.op
        match op:
            case wire.Fork():
                self._fork(context, item.number, op)
            case wire.Drop():
                self._free(context)
                self._done(context.link, item.number)
            case wire.Append() | wire.Truncate() | wire.Flush() | wire.OpenRun() | wire.Forward():
                refusal = self._refusal(context, op.generation)
                if refusal is not None:
                    context.link.outbox.fail(item.number, context.id, context.generation, refusal.info())
                    self._done(context.link, item.number)
                    return
                try:
                    self._carry_out(context, item.number, op)
                except PieError as exc:
                    self._fail(context, item.number, exc)
            case wire.Create() | wire.Consume() | wire.CloseRun():
                raise BadRequest(f"{type(op).__name__} does not wait in a context's queue")

    def _carry_out(self, context: Context, number: int, op: Ordered) -> None:
        if context.run is not None and not isinstance(op, wire.Flush):
            raise Conflict(f"context {context.id} has an open run {context.run.id}: close it first")
        match op:
            case wire.Append():
                check_tokens(op.tokens, self._limits)
                check_length(context, context.length + len(op.tokens), self._limits)
                context.tokens.extend(op.tokens)
                self._done(context.link, number)
            case wire.Truncate():
                if not 0 <= op.length <= context.length:
                    raise BadField(f"a context of {context.length} tokens cannot be truncated to {op.length}")
                self._cache.truncate(context, op.length)
                self._done(context.link, number)
            case wire.OpenRun():
                self._open_run(context, number, op)
            case wire.Flush():
                self._begin(Flush(number, context, self._arrival()))
            case wire.Forward():
                check_pass(context, op, self._limits)
                base = context.length
                first = base if op.tokens else base - 1
                context.tokens.extend(op.tokens)
                wanted = [(first + output.row, output) for output in op.outputs]
                self._begin(Pass(number, context, self._arrival(), base, wanted, [None] * len(wanted)))

    def _begin(self, work: Pass | Flush) -> None:
        work.context.current = work
        if work.done:
            self.finish(work)
        else:
            self.active[work.context] = None

    # -- runs

    def _open_run(self, context: Context, number: int, op: wire.OpenRun) -> None:
        if op.run in context.link.runs:
            raise Conflict(f"run id {op.run} is in use")
        check_run(context, op, self._limits)
        spec = op.sampler
        run = Run(
            id=op.run,
            context=context,
            arrival=self._arrival(),
            sampler=Sampler(spec.temperature, spec.top_p, spec.top_k, op.seed),
            stop=frozenset(op.stop),
            max_tokens=op.max_tokens,
            window=op.window,
            limit=self._limits.context_limit(context.use.account.page_cap),
            start=context.length,
        )
        context.run = context.link.runs[op.run] = run
        self.active[context] = None
        self._done(context.link, number)

    def _consume(self, link: RunnerLink, op: wire.Consume) -> None:
        """Counts are cumulative, so an old or repeated one changes nothing; a run that is gone needs no count."""
        run = link.runs.get(op.run)
        if run is not None and run.context.id == op.context:
            run.consumed = max(run.consumed, min(op.count, run.generated))
            self._cache.publish(run.context)
            self.active[run.context] = None

    def _close_run(self, link: RunnerLink, number: int, op: wire.CloseRun) -> None:
        run = link.runs.pop(op.run, None)
        if run is None:
            self._withdraw_run(link, op)
            self._done(link, number)
            return
        context = run.context
        kept = max(0, min(op.count, run.generated))
        if not run.ended:
            self._end_run(run, "cancelled", wasted=run.generated - kept)
        run.consumed = kept
        context.run = None
        self._cache.truncate(context, run.start + kept)
        self._cache.publish(context)
        if op.count != kept:
            wrong = BadField(
                f"run {run.id} was closed at {op.count} of {run.generated} tokens; it was closed at {kept}"
            )
            self._fail(context, number, wrong)
        else:
            self._done(link, number)

    def _withdraw_run(self, link: RunnerLink, op: wire.CloseRun) -> None:
        """Close a run whose opening still waits."""
        context = link.contexts.get(op.context)
        for item in context.queue if context is not None else ():
            if isinstance(item.op, wire.OpenRun) and item.op.run == op.run and context is not None:
                context.queue.remove(item)
                link.outbox.end(RunEnd(op.run, "cancelled"))
                self._done(link, item.number)
                return

    def _end_run(self, run: Run, reason: str, error: PieError | None = None, wasted: int = 0) -> None:
        if run.ended:
            return
        run.ended = True
        context = run.context
        info = error.info() if error is not None else None
        match reason:
            case "stop" | "length" | "cancelled" | "error":
                context.link.outbox.end(RunEnd(run.id, reason, info, context.found, wasted))
            case _:
                raise BadRequest(f"a run does not end by {reason!r}")
        context.found = 0

    # -- answers

    def _refusal(self, context: Context, generation: int) -> PieError | None:
        """Why an operation of this generation is not carried out, if so."""
        if context.dead and context.cause is not None:
            return context.cause
        if generation < context.generation and context.cause is not None:
            return Skipped(
                f"skipped, because an earlier operation on context {context.id} failed: {context.cause.message}",
                cause=context.cause.cause or context.cause.code,
            )
        if generation != context.generation:
            return BadField(f"context {context.id} has generation {context.generation}, not {generation}")
        return None

    def _fail(self, context: Context, number: int, error: PieError) -> None:
        context.generation += 1
        context.cause = error
        context.link.outbox.fail(number, context.id, context.generation, error.info())
        self._done(context.link, number)

    def _done(self, link: RunnerLink, number: int) -> None:
        link.open.pop(number, None)

    def _arrival(self) -> int:
        self._arrivals += 1
        return self._arrivals
