"""The engine without I/O: contexts, runs and passes of all runners over one page pool.

The shell drives it, once per step:

    apply() -> [adapters move] -> plan() -> [device executes the batch] -> finish() or fail() -> hub.outgoing()

Between plan() and its finish() or fail() the hub may go on receiving, since messages only enter the inbox; nothing else
of the core may be called then.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence

from pie_wire.errors import DeviceError, InternalError, NotFound, PieError
from pie_wire.hub import Hub, Incoming, Peer
from pie_wire.messages.common import ModelFacts, PageRow, PoolStats
from pie_wire.messages.engine import GetModel, GetStanding, ModelReply, Ops, Standing

from pie_engine.adapters.requests import AdapterRequests
from pie_engine.adapters.table import AdapterTable
from pie_engine.contexts.context_table import ContextTable
from pie_engine.contexts.operations import Operations
from pie_engine.contexts.transfers import Transfers
from pie_engine.limits import Limits
from pie_engine.links.answer_budget import AnswerBudget
from pie_engine.links.runner_links import RunnerLinks
from pie_engine.memory.eviction import Eviction
from pie_engine.memory.kv_cache import KvCache
from pie_engine.memory.ownership import Ownership
from pie_engine.memory.ownership_reports import OwnershipReports
from pie_engine.memory.pages import PagePool
from pie_engine.memory.pressure import PressureGauge
from pie_engine.passes.batch import Batch
from pie_engine.passes.device import Result
from pie_engine.passes.page_moves import Buffer
from pie_engine.runs.grammar_compiler import GrammarCompiler
from pie_engine.schedule.cost import CostModel
from pie_engine.schedule.fairness import Patience
from pie_engine.schedule.outcomes import Outcomes
from pie_engine.schedule.plan import Plan
from pie_engine.schedule.scheduler import Scheduler
from pie_engine.schedule.work import Pass, Work


class EngineCore:
    """See the module's text. `model_files` are the tokenizer files handed to runners."""

    def __init__(
        self,
        hub: Hub,
        facts: ModelFacts,
        model_files: Mapping[str, bytes],
        fingerprint: str,
        limits: Limits,
        wall_clock: Callable[[], float],
        grammars: GrammarCompiler | None = None,
    ) -> None:
        """`wall_clock` gives Unix seconds, for the rows of the ownership table. Without `grammars` runs have none."""
        self._hub = hub
        self._facts = facts
        self._files = dict(model_files)
        self.pool = PagePool(limits.pages, limits.page_size)
        # Equal ids mean equal text only with the same tokenizer.
        fingerprint = f"{fingerprint}:{_digest(model_files)}"
        self._cache = KvCache(self.pool, fingerprint, limits.swap_pages)
        self.cost = CostModel()
        self._eviction = Eviction(self._cache, self.cost, hub.clock)
        self._scheduler = Scheduler(self._cache, limits, self.cost, self._eviction)
        self._gauge = PressureGauge()
        self._patience = Patience()
        self._table = ContextTable(wall_clock)
        adapters = AdapterTable(limits.adapter_memory)
        self.adapters = AdapterRequests(hub, adapters)
        self.grammars = grammars
        transfers = Transfers(self._cache, limits, self._table, adapters, fingerprint, facts.dtype)
        self._operations = Operations(
            self._cache, limits, self._table, adapters, self._eviction, grammars, transfers, self._copied
        )
        self._outcomes = Outcomes(self._cache, self._operations)
        self._ownership = Ownership(self._cache)
        self._reports = OwnershipReports(hub, self._ownership, self._table, self.pool_stats)
        self._links = RunnerLinks(hub)
        self._budget = AnswerBudget(hub.owed, limits.vocab)
        self._inflight: Plan | None = None
        self._stalled = False
        """The last plan found nothing that can be done: only news can change that."""
        self._tokens = 0
        hub.on(GetModel, self._get_model)

    # -- the step

    @property
    def has_work(self) -> bool:
        """A plan now could have rows, or the inbox has news."""
        active = bool(self._table.active) and not self._stalled
        return bool(self._links) or active or self._cache.swap.pending

    def apply(self) -> None:
        """Carry out everything received since the last step border."""
        self._at_border()
        self.adapters.apply()
        self._operations.expire()
        for peer, message in self._links.drain():
            if message is None:
                link = self._links.remove(peer)
                if link is not None:
                    self._operations.release(link)
            elif isinstance(message, Incoming):
                try:
                    self._answer_standing(message)
                except Exception as exc:  # noqa: BLE001 - a bug must not reach other requests
                    self._operations.containment.elsewhere(exc, "standing")
                    message.fail(InternalError(f"a bug of the engine ended this request: {type(exc).__name__}"))
            else:
                self._carry_out(peer, *message)
        self._links.send(before_pass=True)

    def patience(self) -> float:
        """Seconds to wait for more operations before plan(): programs that go step by step are about to come back. 0
        when there is nothing to do anyway."""
        if not any(context.work is not None for context in self._table.active):
            return 0.0
        return self._patience.left(self._hub.clock())

    def plan(self) -> Batch | None:
        """The next pass; None when nobody has work."""
        self._at_border()
        active = self._table.active
        works: list[Work] = []
        for context in list(active):
            work = context.work
            if work is None:
                del active[context]
            else:
                works.append(work)
        plan = self._scheduler.plan(self._budget.admit(works), self._table.contexts)
        self._inflight = plan
        if plan is not None:
            self._patience.planned()
        self._end_killed()
        self._stalled = plan is None and bool(active)
        if self._gauge.update(self.pool.owned, self._scheduler.waited, self.pool.total, self._eviction.price):
            self._links.announce(self._gauge.reading())
        if plan is None:
            self._links.send()
        return plan.batch if plan is not None else None

    def finish(self, results: Sequence[Result], seconds: float) -> None:
        """The pass was executed in so many seconds, with one result per output of its batch."""
        plan = self._take_inflight()
        if len(results) != len(plan.batch.outputs):
            self._fail(plan, InternalError(f"{len(results)} results for {len(plan.batch.outputs)} outputs"))
            return
        moves = plan.batch.moves
        if moves is not None:
            seconds -= moves.seconds
            self._eviction.copied(len(moves.out) + len(moves.back), moves.seconds)
        self._settle_moves()
        if plan.entries:
            self.cost.observe(plan.batch.load(), seconds * 1000.0)
        self._tokens += self._outcomes.deliver(plan, results, self._scheduler.step)
        passes = [entry.work.context for entry in plan.entries if isinstance(entry.work, Pass)]
        self._patience.served(passes, self._hub.clock(), seconds)
        self._links.send()

    def fail(self, cause: BaseException) -> None:
        """The device failed: every request of the pass gets the cause, nobody else notices."""
        self._fail(self._take_inflight(), cause)

    def tick(self) -> None:
        """Report page ownership when something changed. Call a few times a second, at a step border."""
        self._at_border()
        self._reports.tick()

    # -- state

    def pool_stats(self) -> PoolStats:
        """free + cached + owned = total, in pages."""
        pool = self.pool
        return PoolStats(pool.total, pool.free, pool.cached, pool.owned, pool.page_size)

    def stats(self) -> dict[str, str | int | float]:
        """Load, for leases and status."""
        pool = self.pool
        return {
            "pages_total": pool.total,
            "pages_free": pool.free,
            "pages_cached": pool.cached,
            "pages_owned": pool.owned,
            "pages_pinned": self._table.pinned,
            "contexts": len(self._table.contexts),
            "active": len(self._table.active),
            "runners": len(self._links),
            "steps": self._scheduler.step,
            "tokens": self._tokens,
            "evictions": self._eviction.evictions,
            "recomputed": self._eviction.recomputed,
            "moved": self._eviction.moved,
            "kills": self._eviction.kills,
            "swap_total": self._cache.swap.pool.total,
            "swap_owned": self._cache.swap.pool.owned,
            "pressure": self._gauge.level,
            "demand": round(self._gauge.demand, 4),
            "price": self._gauge.price,
        }

    def page_rows(self) -> list[PageRow]:
        """The ownership table now."""
        return [self._ownership.row(c) for c in self._table.contexts if not c.dead and not c.unborn]

    def check_integrity(self) -> None:
        """Raises InternalError if page accounting is broken."""
        self._operations.books.check()

    # -- inside

    def _carry_out(self, peer: Peer, ops: Ops, buffers: Sequence[Buffer]) -> None:
        pressure = self._gauge.reading() if self._gauge.level != "low" else None
        link = self._links.take(peer, ops, pressure)
        if link is not None:
            for number, op in enumerate(ops.ops, ops.first):
                self._operations.apply(link, number, op, buffers)

    def _fail(self, plan: Plan, cause: BaseException) -> None:
        if isinstance(cause, PieError):
            error = cause
        else:
            error = DeviceError(f"the forward pass failed: {type(cause).__name__}: {cause}")
        self._outcomes.fail(plan, error)
        self._settle_moves()
        if plan.batch.moves is not None and not plan.batch.moves.done:
            self._eviction.lose_all(self._table.contexts)
            self._end_killed()
        self._links.send()

    def _settle_moves(self) -> None:
        try:
            self._cache.swap.settle()
        except Exception as exc:  # noqa: BLE001 - no context's fault, and all of them have what they had
            self._operations.containment.elsewhere(exc, "swap")

    def _copied(self) -> Iterable[int]:
        entries = self._inflight.entries if self._inflight is not None else ()
        return (entry.copy[0] for entry in entries if entry.copy is not None)

    def _end_killed(self) -> None:
        for context in self._eviction.take_killed():
            self._operations.ends.kill(context)

    def _take_inflight(self) -> Plan:
        plan, self._inflight = self._inflight, None
        if plan is None:
            raise InternalError("no pass is being executed")
        return plan

    def _at_border(self) -> None:
        if self._inflight is not None:
            raise InternalError("a pass is being executed: finish() or fail() it first")

    # -- questions

    def _answer_standing(self, incoming: Incoming[GetStanding]) -> None:
        link = self._links.of(incoming.peer)
        contexts = [link.contexts.get(number) if link is not None else None for number in incoming.message.contexts]
        missing = [n for n, context in zip(incoming.message.contexts, contexts, strict=True) if context is None]
        if missing:
            incoming.fail(NotFound(f"context {missing[0]} does not exist: it was dropped or never created"))
            return
        known = [context for context in contexts if context is not None]
        rents = [self._gauge.price * len(context.pages) for context in known]
        balances = [self._table.share_of(context.use) * self.pool.total - context.use.pages for context in known]
        incoming.reply(Standing(self._gauge.reading(), rents, balances, round(self.cost.mean_ms / 1000.0, 6)))

    def _get_model(self, incoming: Incoming[GetModel]) -> None:
        incoming.reply(ModelReply(self._facts, list(self._files)), buffers=list(self._files.values()))


def _digest(files: Mapping[str, bytes]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, content in sorted(files.items()):
        digest.update(name.encode() + b"\0" + hashlib.blake2b(content, digest_size=16).digest())
    return digest.hexdigest()
