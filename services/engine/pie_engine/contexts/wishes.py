"""Carries out what programs say about the memory of their contexts (docs/scheduling.md)."""

from __future__ import annotations

from math import isfinite

from pie_wire.errors import BadField
from pie_wire.messages import engine as wire

from pie_engine.contexts.context import Context
from pie_engine.contexts.context_table import ContextTable
from pie_engine.links.answers import done
from pie_engine.links.runner_link import RunnerLink
from pie_engine.memory.eviction import Eviction


class Wishes:
    """None of them fails for a context that does not exist any more, but for a bid that is no number."""

    def __init__(self, table: ContextTable, eviction: Eviction) -> None:
        self._table = table
        self._eviction = eviction

    def idle(self, link: RunnerLink, number: int, op: wire.Idle) -> None:
        """Its pages go first while `on`."""
        context = link.contexts.get(op.context)
        if context is not None:
            context.idle = op.on
            self._table.active[context] = None
        done(link, number)

    def bid(self, link: RunnerLink, number: int, op: wire.Bid) -> None:
        """What its pages are worth."""
        context = link.contexts.get(op.context)
        if not (isfinite(op.value) and op.value >= 0):
            wrong = BadField(f"a bid is a finite number from 0, not {op.value}")
            link.outbox.fail(number, op.context, context.generation if context is not None else 0, wrong.info())
        elif context is not None:
            context.bid = op.value
        done(link, number)

    def suspend(self, context: Context, number: int) -> None:
        """Its pages leave now, until something is asked of it."""
        context.suspended = True
        if context.pages and self._eviction.can_keep(context):
            self._eviction.evict(context, "suspend")
        done(context.link, number)

    def wake(self, context: Context | None) -> None:
        """An operation that waits for nobody came after a suspension, though perhaps before it was carried out."""
        if context is None:
            return
        for item in [item for item in context.queue if isinstance(item.op, wire.Suspend)]:
            context.queue.remove(item)
            done(context.link, item.number)
        context.suspended = False
        self._table.active[context] = None
