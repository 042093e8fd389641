"""Work of contexts that passes carry out: how it begins, and what its end means for the context."""

from __future__ import annotations

from pie_wire.errors import PieError
from pie_wire.messages import engine as wire

from pie_engine.contexts.asking import make_outputs
from pie_engine.contexts.checks import check_pass, check_verification
from pie_engine.contexts.context import Context
from pie_engine.contexts.context_table import ContextTable
from pie_engine.contexts.ends import Ends
from pie_engine.contexts.layout import lay_out
from pie_engine.contexts.lines import Lines
from pie_engine.contexts.page_operations import PageOperations
from pie_engine.contexts.pins import Pins
from pie_engine.contexts.transfers import Transfers
from pie_engine.limits import Limits
from pie_engine.links.answers import done, fail
from pie_engine.memory.kv_cache import KvCache
from pie_engine.passes.device import Result
from pie_engine.runs.run import Run
from pie_engine.runs.run_operations import RunOperations
from pie_engine.runs.verification import Verification
from pie_engine.schedule.work import Export, Flush, Import, Pass, Waiting, Work


class Works:
    """One call per work that begins, and per work that a pass has finished or failed."""

    def __init__(
        self,
        cache: KvCache,
        limits: Limits,
        table: ContextTable,
        lines: Lines,
        ends: Ends,
        runs: RunOperations,
        pins: Pins,
        pages: PageOperations,
        transfers: Transfers,
    ) -> None:
        self._cache = cache
        self._limits = limits
        self._table = table
        self._lines = lines
        self._ends = ends
        self._runs = runs
        self._pins = pins
        self._pages = pages
        self._transfers = transfers

    def begin(self, work: Waiting) -> None:
        """From now on the context's operations wait behind this."""
        work.found = work.context.found
        work.context.current = work
        work.context.arrival = work.arrival
        if work.done:
            self.finish(work)
        else:
            self._table.active[work.context] = None

    def forward(self, context: Context, number: int, op: wire.Forward) -> None:
        """A lockstep pass. Raises what makes it impossible, having changed nothing."""
        check_pass(context, op, self._limits)
        base = context.length
        first = base if op.tokens else base - 1
        before = lay_out(context, op, self._limits)
        if before is not None and not op.tokens:
            self._cache.forget(context, first)
        context.tokens.extend(op.tokens)
        wanted = make_outputs(op.outputs, first, context, self._limits.vocab)
        self.begin(Pass(number, context, self._table.arrival(), base, wanted, [None] * len(wanted), before))

    def verify(self, context: Context, number: int, op: wire.Verify) -> None:
        """A pass over the program's own guesses. Raises what makes it impossible, having changed nothing."""
        check_verification(context, op, self._limits)
        # The last token's row is fed with the guesses, so its own KV is not taken from a page that others may share.
        self._cache.forget_swapped(context, context.length - 1)
        self._cache.trim(context, min(context.kv_length, context.length - 1))
        arrival, vocab = self._table.arrival(), self._limits.vocab
        self.begin(Verification(number, context, arrival, op.tokens, op.parents, op.sampler, vocab))

    def finish(self, work: Waiting) -> None:
        """It has all it asked for: answer, and go on with what waited behind it."""
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
                            self._pins.put(context, work.then, work.end)
                        except PieError as exc:
                            self.fail(work, exc)
                            return
                    case wire.Prefetch():
                        context.current = None
                        self._ends.free(context)
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
        self._lines.advance(context)

    def fail(self, work: Work, error: PieError) -> None:
        """The device failed under this request: the context is as before it, with what a run had already given."""
        context = work.context
        if isinstance(work, Run):
            self._runs.end(work, "error", error)
            return
        if isinstance(work, Flush) and isinstance(work.then, wire.Prefetch):
            context.current = None
            self._ends.free(context)
            return
        if isinstance(work, Import):
            self._cache.evict(context)
            context.tokens = []
            self._ends.bury(context, work.op, error)
            return
        if isinstance(work, Pass):
            self._cache.truncate(context, work.base)
            if work.lineage is not None:
                context.lineage = work.lineage
                self._cache.forget(context, work.base - 1)
        fail(context, work.op, error)
        self._lines.advance(context)
