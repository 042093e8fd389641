"""How contexts begin: empty, as forks, from bytes, or as the engine's own for a prefetch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pie_wire.errors import BadField, Conflict, LimitExceeded, NotFound, Overloaded, PieError, Skipped
from pie_wire.messages import engine as wire
from pie_wire.messages.common import Account

from pie_engine.adapters.table import AdapterTable
from pie_engine.contexts.checks import check_head, check_length, check_tokens
from pie_engine.contexts.context import Context
from pie_engine.contexts.context_table import ContextTable
from pie_engine.contexts.ends import Ends
from pie_engine.contexts.lines import Lines
from pie_engine.contexts.transfers import Transfers
from pie_engine.contexts.works import Works
from pie_engine.limits import Limits
from pie_engine.links.answers import done, refusal_of
from pie_engine.links.runner_link import RunnerLink
from pie_engine.memory.kv_cache import KvCache
from pie_engine.passes.page_moves import Buffer
from pie_engine.runs.run_operations import RunOperations
from pie_engine.schedule.work import Flush, Import

MAX_PREFETCHES = 64
"""Of one runner, under way at once."""
MOST_REFUSED = 1024
"""Contexts beyond a runner's limit whose ids are kept, dead, so that what follows them learns why."""
MOST_IMPORTED = 256 << 20
"""Bytes of one runner's imports that wait for pages."""
MAX_ID = (1 << 63) - 1
"""Of a context. Negative ids are the engine's own."""


class Births:
    """One call per operation that makes a context. What cannot be made leaves a dead id, except where the id itself is
    at fault."""

    def __init__(
        self,
        cache: KvCache,
        limits: Limits,
        table: ContextTable,
        lines: Lines,
        ends: Ends,
        works: Works,
        runs: RunOperations,
        adapters: AdapterTable,
        transfers: Transfers,
    ) -> None:
        self._cache = cache
        self._limits = limits
        self._table = table
        self._lines = lines
        self._ends = ends
        self._works = works
        self._runs = runs
        self._adapters = adapters
        self._transfers = transfers

    def create(self, link: RunnerLink, number: int, op: wire.Create) -> None:
        """An empty context."""
        if self._can_name(link, number, op.context):
            use = self._table.use_of(op.account)
            context = Context(op.context, link, op.process, op.tenant, use, since=self._table.clock())
            if self._enter(context, number):
                done(link, number)

    def bring_in(self, link: RunnerLink, number: int, op: wire.Import, buffers: Sequence[Buffer]) -> None:
        """A context from an export's bytes."""
        if not self._can_name(link, number, op.context):
            return
        use = self._table.use_of(op.account)
        context = Context(op.context, link, op.process, op.tenant, use, since=self._table.clock())
        if not self._enter(context, number):
            return
        try:
            if op.buffer < 0 or op.count < 1 or op.buffer + op.count > len(buffers):
                raise BadField(f"an import of buffers {op.buffer} to {op.buffer + op.count}, of {len(buffers)}")
            data = buffers[op.buffer : op.buffer + op.count]
            waiting = sum(len(part) for work in _imports(link) for part in work.data)
            if waiting and waiting + sum(map(len, data)) > MOST_IMPORTED:
                raise Overloaded(f"imports of {waiting} bytes of this runner wait for pages: wait for some of them")
            self._works.begin(self._transfers.imported(context, number, data))
        except PieError as exc:
            context.tokens = []
            self._ends.bury(context, number, exc)

    def expect(self, link: RunnerLink, number: int, op: wire.Fork) -> Context | None:
        """A fork has its id from now on and waits for the parent's earlier operations. Returns the parent; None when
        there is nothing to wait for."""
        if not self._can_name(link, number, op.context):
            return None
        parent = link.contexts.get(op.parent)
        use = parent.use if parent is not None else self._table.use_of(Account())
        tenant = parent.tenant if parent is not None else "local"
        child = Context(
            op.context, link, op.process, tenant, use, parent=op.parent, since=self._table.clock(), unborn=True
        )
        if not self._enter(child, number):
            return None
        if parent is None:
            unknown = NotFound(f"context {op.parent} does not exist: it was dropped or never created")
            self._ends.bury(child, number, unknown)
        return parent

    def fork(self, parent: Context, number: int, op: wire.Fork) -> None:
        """The parent is what its child is to be made of."""
        child = parent.link.contexts.get(op.context)
        if child is None or not child.unborn:
            done(parent.link, number)
            return
        refusal = refusal_of(parent, op.generation)
        try:
            if refusal is not None:
                # A dead id tells the root cause for good: that it was skipped says nothing.
                raise parent.cause if isinstance(refusal, Skipped) and parent.cause is not None else refusal
            check_head(parent, op.length)
        except PieError as exc:
            self._ends.bury(child, number, exc)
            return
        run = parent.run
        if run is not None and op.length > parent.guest_length:
            # The program has what it forks at, so it has consumed up to there.
            self._runs.consume(parent.link, wire.Consume(parent.id, run.id, op.length - run.start))
        self._cache.fork(parent, child, op.length)
        child.unborn = False
        child.bid = parent.bid
        done(parent.link, number)
        self._lines.advance(child)

    def prefetch(self, link: RunnerLink, number: int, op: wire.Prefetch) -> None:
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
        self._works.begin(Flush(number, context, self._table.arrival(), whole, op))

    def _can_name(self, link: RunnerLink, number: int, context: int) -> bool:
        """The runner may give a new context this id; if not, the operation has failed."""
        if not 0 <= context <= MAX_ID:
            error: PieError = BadField(f"a context id is a number from 0 to {MAX_ID}, not {context}")
        elif context in link.contexts:
            error = Conflict(f"context id {context} is in use")
        elif len(link.contexts) >= self._limits.max_contexts + MOST_REFUSED:
            error = self._too_many("this runner", "max_contexts", self._limits.max_contexts)
        else:
            return True
        link.outbox.fail(number, context, 0, error.info())
        done(link, number)
        return False

    def _enter(self, context: Context, number: int) -> bool:
        """The context begins; False if it is one too many and therefore dead."""
        error: PieError | None = None
        if len(context.link.contexts) >= self._limits.max_contexts:
            error = self._too_many("this runner", "max_contexts", self._limits.max_contexts)
        elif context.use.contexts >= self._limits.max_account_contexts:
            error = self._too_many("the account", "max_account_contexts", self._limits.max_account_contexts)
        self._table.enter(context)
        if error is not None:
            self._ends.bury(context, number, error)
        return error is None

    def _too_many(self, who: str, setting: str, most: int) -> PieError:
        return LimitExceeded(
            f"{who} has {most} contexts open, as many as the engine's {setting} allows: drop some, or raise it"
        )


def _imports(link: RunnerLink) -> Iterator[Import]:
    return (c.current for c in link.contexts.values() if isinstance(c.current, Import))
