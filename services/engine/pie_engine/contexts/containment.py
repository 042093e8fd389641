"""What a bug of the engine costs: the context that it struck.

An operation, or the delivery of a pass's results, that raises what nobody expected leaves its context in no known
state. So nothing of that context is kept: its id goes to a new context that is dead and answers everything with the
error, and what is held by whom is counted anew from all others. They notice nothing.
"""

from __future__ import annotations

import structlog
from pie_wire.errors import InternalError, PieError
from pie_wire.messages import engine as wire
from pie_wire.messages.common import Account

from pie_engine.contexts.context import Context
from pie_engine.contexts.context_table import ContextTable
from pie_engine.contexts.lines import Lines
from pie_engine.links.answers import done, fail
from pie_engine.links.runner_link import RunnerLink
from pie_engine.memory.books import Books
from pie_engine.memory.kv_cache import KvCache
from pie_engine.runs.run_operations import RunOperations

log = structlog.get_logger("pie.engine")


class Containment:
    """A second failure, in here, is not contained: the process ends, and whoever supervises it starts another."""

    def __init__(self, cache: KvCache, table: ContextTable, books: Books, lines: Lines, runs: RunOperations) -> None:
        self._cache = cache
        self._table = table
        self._books = books
        self._lines = lines
        self._runs = runs

    def operation(self, link: RunnerLink, number: int, op: wire.Op, cause: Exception) -> None:
        """Taking an operation has failed, before its turn or where it has none."""
        error = _logged(cause, link, type(op).__name__)
        if isinstance(op, wire.Prefetch):
            self._strike(self._find(link, -number), error)
            answer = 0
        elif isinstance(op, wire.Unpin):
            answer = 0
        else:
            answer = op.context
            struck = self._find(link, op.context)
            if struck is None and isinstance(op, wire.Create | wire.Import | wire.Fork):
                struck = self._still_born(link, op)
            self._strike(struck, error, None if isinstance(op, wire.Drop) else number)
            if isinstance(op, wire.Drop):
                self._bury(link, number, op)
        if number in link.open:
            link.outbox.fail(number, answer, 0, error.info())
            done(link, number)
        self._books.recount()

    def turn(self, context: Context, number: int, op: wire.Op, cause: Exception) -> None:
        """An operation whose turn it was has failed."""
        link = context.link
        error = _logged(cause, link, type(op).__name__)
        if isinstance(op, wire.Fork):
            self._strike(link.contexts.get(op.context), error, number)
        self._strike(context, error, None if isinstance(op, wire.Drop) else number)
        if isinstance(op, wire.Drop):
            self._bury(link, number, op)
        self._books.recount()

    def work(self, context: Context, cause: Exception) -> None:
        """Giving a context what its work has brought has failed."""
        self._strike(context, _logged(cause, context.link, "work"))
        self._books.recount()

    def lose(self, context: Context, cause: Exception) -> None:
        """Freeing a context has failed, and nobody is there any more to ask for it."""
        _logged(cause, context.link, "end")
        self._table.replace(context, None)
        self._books.recount()

    def elsewhere(self, cause: Exception, what: str) -> None:
        """Something has failed that concerns no context."""
        log.error("a bug, contained", what=what, exc_info=cause)
        self._books.recount()

    def _strike(self, context: Context | None, error: PieError, number: int | None = None) -> None:
        """End a context, and with it the operation `number` if it is open."""
        if context is None:
            return
        link = context.link
        self._distrust(context)
        grave = Context(
            context.id,
            link,
            context.process,
            context.tenant,
            context.use,
            parent=context.parent,
            since=context.since,
            generation=context.generation,
            cause=error,
            dead=True,
        )
        for item in context.queue.take_all():
            if item.number != number:
                grave.queue.append(item)
        self._table.replace(context, grave if context.id >= 0 else None)
        run, current = context.run, context.current
        if run is not None:
            self._runs.end(run, "error", error)
            link.runs.pop(run.id, None)
        for open_ in (number, current.op if current is not None else None):
            if open_ is not None and open_ in link.open:
                fail(grave, open_, error)
        context.run = context.current = None
        self._lines.advance(grave)

    def _find(self, link: RunnerLink, number: int) -> Context | None:
        """The context, even if it has been entered or left by half."""
        halves = (context for context in self._table.contexts if context.link is link and context.id == number)
        return link.contexts.get(number) or next(halves, None)

    def _distrust(self, context: Context) -> None:
        """Nobody finds what it holds any more: it may have been offered under a wrong name."""
        for page in context.pages:
            content = self._cache.pool.content(page) if 0 <= page < self._cache.pool.total else None
            if content is not None:
                self._cache.pool.forget(content)
                self._cache.swap.pool.forget(content)

    def _still_born(self, link: RunnerLink, op: wire.Create | wire.Import | wire.Fork) -> Context:
        if isinstance(op, wire.Fork):
            parent = link.contexts.get(op.parent)
            tenant, account = (parent.tenant, parent.use.account) if parent is not None else ("local", Account())
        else:
            tenant, account = op.tenant, op.account
        return Context(op.context, link, op.process, tenant, self._table.use_of(account))

    def _bury(self, link: RunnerLink, number: int, op: wire.Drop) -> None:
        """The runner has done with the id, whatever became of the context."""
        grave = link.contexts.get(op.context)
        if grave is not None:
            self._table.replace(grave, None)
        done(link, number)


def _logged(cause: Exception, link: RunnerLink, what: str) -> InternalError:
    """The error that the context dies with; what exactly happened is for the log."""
    log.error("a bug, contained: it ended one context", runner=link.peer.name, what=what, exc_info=cause)
    return InternalError(
        f"a bug of the engine ended this context ({what}: {type(cause).__name__}): its log has the details; please "
        "report them"
    )
