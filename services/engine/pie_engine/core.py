"""The engine without I/O: contexts, runs and passes of all runners over one page pool.

The shell drives it, once per step:

    apply() -> [adapters move] -> plan() -> [device executes the batch] -> finish() or fail() -> hub.outgoing()

Between plan() and its finish() or fail() the hub may go on receiving, since messages only enter the inbox; nothing else
of the core may be called then.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence

from pie_wire.errors import DeviceError, InternalError, NotFound, Overloaded, PieError, ProtocolError
from pie_wire.hub import Answer, Hub, Incoming, Peer
from pie_wire.messages.base import Done
from pie_wire.messages.common import ModelFacts, PageRow, PoolStats
from pie_wire.messages.engine import GetModel, GetStanding, ModelReply, Ops, Standing
from pie_wire.messages.kvstore import PutPages

from pie_engine.adapters.requests import AdapterRequests
from pie_engine.adapters.table import AdapterTable
from pie_engine.contexts.context_table import ContextTable
from pie_engine.contexts.operations import Operations
from pie_engine.contexts.transfers import Transfers
from pie_engine.limits import Limits
from pie_engine.links.answer_budget import AnswerBudget
from pie_engine.links.inbox import Inbox
from pie_engine.links.runner_link import RunnerLink
from pie_engine.memory.eviction import Eviction
from pie_engine.memory.kv_cache import KvCache
from pie_engine.memory.ownership import Ownership
from pie_engine.memory.pages import PagePool
from pie_engine.memory.pressure import PressureGauge
from pie_engine.passes.batch import Batch, Buffer
from pie_engine.passes.device import Result
from pie_engine.runs.grammar_compiler import GrammarCompiler
from pie_engine.runs.run import Run
from pie_engine.runs.verification import Verification
from pie_engine.schedule.cost import CostModel
from pie_engine.schedule.fairness import Patience
from pie_engine.schedule.plan import Plan
from pie_engine.schedule.scheduler import Scheduler
from pie_engine.schedule.work import Export, Pass

KVSTORE = "kvstore"
"""Name of the hub's port to kvstore; reports go there while it is up."""
_REPORT_SECONDS = 0.5
_REPORT_TIMEOUT = 5.0


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
        self._limits = limits
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
        self._operations = Operations(self._cache, limits, self._table, adapters, self._eviction, grammars, transfers)
        self._ownership = Ownership(self._cache)
        self._links: dict[Peer, RunnerLink] = {}
        self._inbox: Inbox[tuple[Ops, Sequence[Buffer]] | Incoming[GetStanding]] = Inbox()
        self._budget = AnswerBudget(hub.owed, limits.vocab)
        self._inflight: Plan | None = None
        self._stalled = False
        """The last plan found nothing that can be done: only news can change that."""
        self._reported = 0.0
        self._report_pending = False
        self._tokens = 0
        hub.on(Ops, self._receive)
        hub.on(GetModel, self._get_model)
        hub.on(GetStanding, self._get_standing)
        hub.on_up(self._up)
        hub.on_down(self._down)

    # -- the step

    @property
    def has_work(self) -> bool:
        """A plan now could have rows, or the inbox has news."""
        active = bool(self._table.active) and not self._stalled
        return bool(self._inbox) or active or self._cache.swap.pending

    def apply(self) -> None:
        """Carry out everything received since the last step border."""
        self._at_border()
        self.adapters.apply()
        self._operations.pins.expire()
        self._operations.runs.compiled()
        for peer, message in self._inbox.drain():
            if message is None:
                link = self._links.pop(peer, None)
                if link is not None:
                    self._operations.release(link)
                continue
            if isinstance(message, Incoming):
                self._answer_standing(message)
                continue
            ops, buffers = message
            link = self._links.get(peer)
            if link is None:
                if not peer.alive:
                    continue
                link = self._links[peer] = RunnerLink(peer)
                if self._gauge.level != "low":
                    link.outbox.pressure(self._gauge.reading())
            if ops.first != link.last + 1:
                self._hub.lost(peer, ProtocolError(f"operations from {ops.first} on, but {link.last + 1} comes next"))
                continue
            for index, op in enumerate(ops.ops):
                self._operations.apply(link, ops.first + index, op, buffers)
        self._send()

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
        for context in [c for c in active if c.work is None]:
            del active[context]
        plan = self._scheduler.plan(self._budget.admit(active), self._table.contexts)
        self._inflight = plan
        if plan is not None:
            self._patience.planned()
        for context in self._eviction.take_killed():
            self._operations.kill(context)
        self._stalled = plan is None and bool(active)
        if self._gauge.update(self.pool.owned, self._scheduler.waited, self.pool.total, self._eviction.price):
            for link in self._links.values():
                link.outbox.pressure(self._gauge.reading())
        if plan is None:
            self._send()
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
        self._cache.swap.settle()
        if plan.entries:
            self.cost.observe(plan.batch.load(), seconds * 1000.0)
        at = 0
        for entry in plan.entries:
            mine = results[at : at + entry.outputs]
            at += entry.outputs
            work, context = entry.work, entry.work.context
            if entry.copy is not None:
                self._cache.keep_copy(entry.copy)
            context.last_step = self._scheduler.step
            right, error = 0, next((result for result in mine if isinstance(result, PieError)), None)
            unsound = any(isinstance(result, DeviceError) for result in mine)
            match work:
                case Run():
                    drawn = self._operations.runs.drawn(work, plan.guesses(entry), mine)
                    self._tokens += drawn.tokens
                    right, error = drawn.right, drawn.error
                case Pass() if error is None:
                    work.deliver(entry.start, entry.stop, mine)
                case Verification() if mine and not unsound:
                    error = work.accept(mine)
                    right = max(0, len(work.drawn) - 1)
                case Export() if error is None:
                    work.deliver(mine)
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
                self._operations.fail(work, error)
                continue
            self._cache.publish(context)
            if not isinstance(work, Run) and work.done:
                self._operations.finish(work)
        passes = [entry.work.context for entry in plan.entries if isinstance(entry.work, Pass)]
        self._patience.served(passes, self._hub.clock(), seconds)
        self._send()

    def fail(self, cause: BaseException) -> None:
        """The device failed: every request of the pass gets the cause, nobody else notices."""
        self._fail(self._take_inflight(), cause)

    def tick(self) -> None:
        """Report page ownership when something changed. Call a few times a second, at a step border."""
        self._at_border()
        now = self._hub.clock()
        peer = self._hub.peer(KVSTORE)
        if peer is None or self._report_pending or now - self._reported < _REPORT_SECONDS:
            return
        changes = self._ownership.changes(self._table.contexts)
        self._reported = now
        if changes is None:
            return
        who = self._hub.identity
        self._report_pending = True
        self._hub.request(
            peer,
            PutPages(who.name, who.epoch, changes.rows, changes.dropped, self.pool_stats(), changes.full),
            self._put,
            timeout=_REPORT_TIMEOUT,
        )

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
        held: dict[int, int] = {}
        for context in self._table.contexts:
            for page in self._cache.held(context):
                held[page] = held.get(page, 0) + 1
        for page in self._operations.pins.held():
            held[page] = held.get(page, 0) + 1
        self.pool.check_integrity(held)
        kept: dict[int, int] = {}
        for slot in (slot for c in self._table.contexts if c.swapped is not None for slot in c.swapped.slots):
            if slot != self._cache.swap.hole:
                kept[slot] = kept.get(slot, 0) + 1
        for slot in self._cache.swap.leaving():
            kept[slot] = kept.get(slot, 0) + 1
        self._cache.swap.pool.check_integrity(kept)

    # -- inside

    def _fail(self, plan: Plan, cause: BaseException) -> None:
        if isinstance(cause, PieError):
            error = cause
        else:
            error = DeviceError(f"the forward pass failed: {type(cause).__name__}: {cause}")
        for entry in plan.entries:
            context = entry.work.context
            if entry.copy is not None:
                self._cache.undo_copy(context, entry.copy)
            self._cache.trim(context, context.kv_length)
            self._operations.fail(entry.work, error)
        self._cache.swap.settle()
        if plan.batch.moves is not None and not plan.batch.moves.done:
            self._eviction.lose_all(self._table.contexts)
            for context in self._eviction.take_killed():
                self._operations.kill(context)
        self._send()

    def _take_inflight(self) -> Plan:
        plan, self._inflight = self._inflight, None
        if plan is None:
            raise InternalError("no pass is being executed")
        return plan

    def _at_border(self) -> None:
        if self._inflight is not None:
            raise InternalError("a pass is being executed: finish() or fail() it first")

    def _send(self) -> None:
        for peer, link in self._links.items():
            for step, buffers in link.outbox.take(link.acked):
                self._hub.send(peer, step, buffers=buffers)

    # -- messages

    def _receive(self, incoming: Incoming[Ops]) -> None:
        try:
            message = incoming.message
            self._inbox.put(incoming.peer, (message, incoming.buffers), operations=len(message.ops), size=incoming.size)
        except Overloaded as exc:
            # Operations are numbered and pipelined: dropping one would break all behind it, so the link must go.
            self._hub.lost(incoming.peer, exc)

    def _get_standing(self, incoming: Incoming[GetStanding]) -> None:
        self._inbox.put(incoming.peer, incoming, operations=1, size=incoming.size)

    def _answer_standing(self, incoming: Incoming[GetStanding]) -> None:
        link = self._links.get(incoming.peer)
        contexts = [link.contexts.get(number) if link is not None else None for number in incoming.message.contexts]
        missing = [n for n, context in zip(incoming.message.contexts, contexts, strict=True) if context is None]
        if missing:
            incoming.fail(NotFound(f"context {missing[0]} does not exist: it was dropped or never created"))
            return
        known = [context for context in contexts if context is not None]
        rents = [self._gauge.price * len(context.pages) for context in known]
        balances = [self._table.share_of(context.use) * self.pool.total - context.use.pages for context in known]
        incoming.reply(Standing(self._gauge.reading(), rents, balances))

    def _get_model(self, incoming: Incoming[GetModel]) -> None:
        incoming.reply(ModelReply(self._facts, list(self._files)), buffers=list(self._files.values()))

    def _up(self, peer: Peer) -> None:
        if peer.port == KVSTORE:
            self._ownership.resync()
            self._report_pending = False

    def _down(self, peer: Peer, _: PieError) -> None:
        self._inbox.ended(peer)

    def _put(self, answer: Answer[Done]) -> None:
        self._report_pending = False
        if answer.error is not None:
            self._ownership.resync()


def _digest(files: Mapping[str, bytes]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, content in sorted(files.items()):
        digest.update(name.encode() + b"\0" + hashlib.blake2b(content, digest_size=16).digest())
    return digest.hexdigest()
