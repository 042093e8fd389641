"""Contexts as programs have them. What is known of one and how its operations are undone: `context_state.py`; what
computes on it: `context_computing.py`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pie_wire.errors import BadRequest, PieError, TooLarge
from pie_wire.messages import engine as ops
from pie_wire.messages.runner import Receipt

from pie_runner.context_computing import ComputingContext
from pie_runner.exports import Archive, Collector
from pie_runner.waitables import Completion

if TYPE_CHECKING:
    from pie_runner.engine_session import Session
    from pie_runner.process import Process


class Context(ComputingContext):
    """The WIT's `context`. Made by `create`, `restore` and `fork`; ends with `close`, its process or its engine."""

    @classmethod
    def create(cls, session: Session, owner: Process) -> Context:
        """A new, empty context. Raises the session's end if it has ended."""
        session.check()
        context = cls(session, owner, [])
        number = session.submit(ops.Create(context.id, owner.pid, owner.scope.tenant, owner.account))
        context._journal_birth(number)
        return context

    @classmethod
    def from_archive(cls, session: Session, owner: Process, archive: Archive) -> Context:
        """A context as an export says. Raises TooLarge, or the session's end if it has ended."""
        session.check()
        count, limit = len(archive.header.tokens), session.facts.max_context
        if count > limit:
            raise TooLarge(f"the export has {count} tokens, more than the model's context of {limit}")
        context = cls(session, owner, list(archive.header.tokens), archive.layout)
        account, scope = owner.account, owner.scope
        op = ops.Import(context.id, owner.pid, scope.tenant, account, 0, len(archive.parts))
        context._journal_birth(session.submit(op, archive.parts))
        return context

    # -- operations of the program; none waits

    def fork(self) -> Context:
        """A copy of the consumed tokens; an open run goes on. A fork of a dead context is dead of the same cause."""
        self._check_open()
        self._report()
        child = Context(self.session, self.owner, list(self.tokens), self.layout)
        child.dead = self.dead or self.fault
        if child.dead is None:
            op = ops.Fork(child.id, self.id, self.generation, len(self.tokens), self.owner.pid)
            child._journal_birth(self.session.submit(op))
        return child

    def append(self, tokens: Sequence[int], *, free: bool = False) -> None:
        """Add tokens at the end. Closes an open run. `free`: they do not count as used.

        Raises:
            TooLarge: the model's context would overflow.
        """
        self.check_usable()
        self.check_room(len(tokens))
        self.close_run()
        if self.fault is None and tokens:
            self._check_pages(len(tokens))
            if not free:
                self.owner.usage.spend_tokens(len(tokens))
            keep = len(self.tokens)
            self._record(ops.Append(self.id, self.generation, list(tokens)), keep, [])
            self.tokens.extend(tokens)
            self._resize()

    def truncate(self, length: int) -> None:
        """Keep the first `length` tokens. Closes an open run.

        Raises:
            BadRequest: there are fewer.
        """
        self.check_usable()
        if length > len(self.tokens):
            raise BadRequest(f"truncate to {length}: the context has {len(self.tokens)} tokens")
        layout = self.layout.cut(length, self.page_size)
        self.close_run()
        if self.fault is None and length < len(self.tokens):
            self._cut(ops.Truncate(self.id, self.generation, length), length, layout)

    def flush(self) -> Completion:
        """Completes when all tokens but the last have KV."""
        self._check_open()
        return self._answered(ops.Flush(self.id, self.generation))

    def drop_tokens(self, start: int, stop: int) -> Completion:
        """Forget the tokens [start, stop). Closes an open run. Completes when done.

        Raises:
            BadRequest: they do not all lie before the last token.
        """
        self.check_usable()
        layout = self.layout.drop(start, stop, len(self.tokens))
        self.close_run()
        return self._answered(ops.DropTokens(self.id, self.generation, start, stop), layout)

    def reserve(self, pages: int) -> None:
        """Room for so many working pages more. Closes an open run. Raises BadRequest."""
        self.check_usable()
        if pages < 1:
            raise BadRequest(f"a reservation is for at least 1 page, not {pages}")
        self.close_run()
        if self.fault is None:
            layout = self.layout.reserve(pages, len(self.tokens), self.page_size)
            self._record(ops.Reserve(self.id, self.generation, pages), len(self.tokens), [], layout)

    def commit(self, pages: int) -> Completion:
        """Seal the first working pages. Closes an open run. Completes when done. Raises BadRequest."""
        self.check_usable()
        self.close_run()
        layout = self.layout.commit(pages, len(self.tokens), self.page_size)
        return self._answered(ops.Commit(self.id, self.generation, pages), layout)

    def release(self, pages: int) -> None:
        """Give up room for the last working pages; tokens in them vanish. Closes an open run. Raises BadRequest."""
        self.check_usable()
        self.close_run()
        layout, length = self.layout.release(pages, len(self.tokens), self.page_size)
        if self.fault is None:
            self._cut(ops.Release(self.id, self.generation, pages), length, layout)

    def set_adapters(self, uses: Sequence[ops.AdapterUse]) -> None:
        """The last token and all after it are computed with these. Closes an open run."""
        self.check_usable()
        self.close_run()
        if self.fault is None:
            slot = max(0, len(self.tokens) - 1)
            layout = self.layout.mark(slot) if uses or not self.layout.is_plain else self.layout
            self._record(ops.SetAdapters(self.id, self.generation, list(uses)), len(self.tokens), [], layout)

    def pin(self, key: str, seconds: float) -> Completion:
        """Keep the full pages under a key of the account, up to the consumed point of a run, which goes on. Completes
        when done."""
        self.check_usable()
        self._report()
        return self._answered(ops.Pin(self.id, self.generation, key, seconds))

    def export(
        self, then: Callable[[list[bytes] | None, PieError | None], None], *, bare: bool = False
    ) -> Callable[[], None]:
        """Call with the buffers of an export of what the program has, or why there is none. A run goes on. `bare`:
        without KV, unless there is no other way to it. Returns how to forget the question."""
        self._check_open()
        self._report()
        error = self.take_fault()
        if error is not None:
            then(None, error)
            return lambda: None
        exports = self.session.exports
        number = self.session.submit(ops.Export(self.id, self.generation, bare, len(self.tokens)))
        exports[number] = Collector(then)
        return lambda: exports.pop(number, None) and None

    def suspend(self) -> Completion:
        """Give the pages back now; any later operation brings them back. Completes when they are gone."""
        self.check_alive()
        return self._answered(ops.Suspend(self.id, self.generation), acknowledged=True)

    def idle(self, on: bool) -> None:
        """Enter or leave an idle scope: the run pauses, and the pages go first. Of a dead context nothing happens."""
        self._check_handle()
        self.session.submit(ops.Idle(self.id, on))

    def bid(self, value: float) -> None:
        """What its pages are worth to it. Raises BadRequest unless it is a number from 0. Of a dead context nothing
        happens."""
        self._check_handle()
        if not (math.isfinite(value) and value >= 0):
            raise BadRequest(f"a bid is {value}: it must be a finite number from 0")
        self.session.submit(ops.Bid(self.id, value))

    def take_receipts(self) -> list[Receipt]:
        """Those since the last call, oldest first."""
        taken = list(self.receipts)
        self.receipts.clear()
        return taken
