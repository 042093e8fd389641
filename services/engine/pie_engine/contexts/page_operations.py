"""Carries out what concerns a context's pages: reservation, commitment, release, and tokens dropped from inside."""

from __future__ import annotations

import itertools

from pie_wire.errors import BadField, BadRequest, OutOfMemory, TooLarge
from pie_wire.messages import engine as wire

from pie_engine.contexts.checks import check_cut
from pie_engine.contexts.context import Context
from pie_engine.contexts.context_table import ContextTable
from pie_engine.contexts.lineage import MAX_STRETCHES
from pie_engine.limits import Limits
from pie_engine.links.answers import done
from pie_engine.memory.kv_cache import KvCache
from pie_engine.passes.masks import united
from pie_engine.schedule.work import Flush


class PageOperations:
    """Working pages are those behind the committed ones. Each method raises what makes it impossible, having changed
    nothing."""

    def __init__(self, cache: KvCache, limits: Limits, table: ContextTable) -> None:
        self._cache = cache
        self._limits = limits
        self._table = table

    def reserve(self, context: Context, number: int, op: wire.Reserve) -> None:
        """Room for more working pages."""
        if op.pages < 1:
            raise BadField(f"a reservation is for at least 1 page, not {op.pages}")
        working = self.working(context) + op.pages
        most = self._cache.pages_for(self._limits.max_context)
        most = min(most, context.use.most_pages(self._limits) + context.holes)
        if context.committed + working > most:
            raise OutOfMemory(
                f"{working} working pages and {context.committed} committed ones exceed the {most} that a context of "
                "this account can have"
            )
        context.reserved = working
        done(context.link, number)

    def release(self, context: Context, number: int, op: wire.Release) -> None:
        """Room for fewer; what does not fit vanishes."""
        working = self.working(context)
        if not 1 <= op.pages <= working:
            raise BadField(f"{op.pages} pages cannot be released of {working} working ones")
        length = min(context.length, (context.committed + working - op.pages) * self._limits.page_size)
        check_cut(context, length, self._limits)
        if context.reserved is not None:
            context.reserved = working - op.pages
        self._cache.truncate(context, length)
        done(context.link, number)

    def commit(self, context: Context, number: int, op: wire.Commit) -> Flush:
        """The work after which `committed` seals the pages."""
        working = self.working(context)
        if not 1 <= op.pages <= working:
            raise BadField(f"{op.pages} pages cannot be committed of {working} working ones")
        size = self._limits.page_size
        start, stop = context.committed * size, (context.committed + op.pages) * size
        if stop > context.length:
            raise BadRequest(f"{op.pages} pages are not full: the context has {context.length} of {stop} tokens")
        positions = context.lineage.positions(max(0, start - 1), stop)
        if isinstance(positions, list):
            for slot, (before, after) in enumerate(itertools.pairwise(positions), max(1, start)):
                if after <= before:
                    raise BadRequest(f"position {after} of token {slot} follows {before}: committed ones must ascend")
        return Flush(number, context, self._table.arrival(), stop, op)

    def committed(self, context: Context, op: wire.Commit) -> None:
        """The pages have KV: seal them."""
        working = self.working(context)
        context.committed += op.pages
        if context.reserved is not None:
            context.reserved = working - op.pages

    def drop(self, context: Context, number: int, op: wire.DropTokens) -> Flush:
        """The work after which `dropped` forgets the tokens: those that stay need KV that has seen them."""
        if not 0 <= op.start < op.stop <= context.length - 1:
            raise BadField(
                f"tokens {op.start} to {op.stop} cannot be dropped of {context.length}: only such before the last"
            )
        if len(united(context.lineage.dropped, op.start, op.stop)) > MAX_STRETCHES:
            raise TooLarge(
                f"a context has at most {MAX_STRETCHES} stretches of dropped tokens: drop what lies between some, too"
            )
        return Flush(number, context, self._table.arrival(), context.length - 1, op)

    def dropped(self, context: Context, op: wire.DropTokens) -> None:
        """Everything before the last token has KV: forget the tokens."""
        self._cache.drop(context, op.start, op.stop)

    def working(self, context: Context) -> int:
        """Working pages that the context has room for."""
        if context.reserved is not None:
            return context.reserved
        return self._cache.pages_for(context.length) - context.committed
