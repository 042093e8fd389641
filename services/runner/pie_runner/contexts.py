"""A context as the runner holds it: the consumed token list, and what the engine has not confirmed yet.

Operations are sent without waiting. The token list is what the program sees; a journal remembers how to undo each
operation that the engine may still refuse. When one fails, the list goes back to where it was before that operation,
the generation advances, and the error waits for the program's next waiting call; until then further operations are
skipped here as they would be there.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pie_wire.errors import BadRequest, Closed, Conflict, PieError, TooLarge
from pie_wire.messages import engine as ops
from pie_wire.messages.runner import OpFailure, Receipt

from pie_runner.exports import Archive, Collector
from pie_runner.layout import PLAIN, Layout
from pie_runner.passes import PendingOutput, Shape
from pie_runner.runs import Run, RunSpec
from pie_runner.waitables import Completion

if TYPE_CHECKING:
    from pie_runner.engine_session import Session
    from pie_runner.process import Process


@dataclass(slots=True)
class _Undo:
    """How to take back operation `number`: keep `keep` tokens, then put `tail` back; the layout is as it was."""

    number: int
    keep: int
    tail: list[int]
    layout: Layout


@dataclass(slots=True)
class _Birth(_Undo):
    """A create or fork: when it fails, the context is dead."""

    keep: int = 0
    tail: list[int] = field(default_factory=list[int])
    layout: Layout = PLAIN


MAX_RECEIPTS = 64


class Context:
    """The WIT's `context`. Made by `create`, `restore` and `fork`; ends with `close`, its process or its engine."""

    def __init__(self, session: Session, owner: Process, tokens: list[int], layout: Layout = PLAIN) -> None:
        self.page_size = session.facts.page_size
        held = layout.pages(len(tokens), self.page_size)
        owner.usage.check_pages(held)
        owner.usage.open_context()
        owner.usage.hold_pages(held)
        self._held = held
        """Pages that count as held."""
        self.session = session
        self.owner = owner
        self.id = session.next_context()
        self.tokens = tokens
        """Consumed tokens, oldest first."""
        self.layout = layout
        self.receipts: deque[Receipt] = deque(maxlen=MAX_RECEIPTS)
        """What the engine told of its pages, until the program asks."""
        self.generation = 0
        self.run: Run | None = None
        self.dead: PieError | None = None
        """Why no operation on it can succeed any more."""
        self.fault: PieError | None = None
        """A failure that the program has not been told of yet."""
        self.cause: PieError | None = None
        """The last failure: what operations of an older generation were skipped for."""
        self.closed = False
        self._verification: PendingOutput | None = None
        """The last one: what it appends is not known before it has its answer."""
        self._journal: deque[_Undo] = deque()
        session.contexts[self.id] = self
        owner.contexts[self] = None

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

    def open_run(self, spec: RunSpec) -> Run:
        """Start decoding. An older run is closed.

        Raises:
            BadRequest: the context is empty. TooLarge: it is full. LimitExceeded: the process may not hold the rows
            that the run's probes can be ahead by.
        """
        self._check_open()
        if self.dead is None and self.fault is None:
            if not self.tokens:
                raise BadRequest("the context is empty: append at least one token before generating")
            self.check_room(1)
            self.check_step()
        self.close_run()
        self.owner.usage.check_rows(spec.rows_ahead(self.session.facts.vocab))
        error = self.take_fault()
        run = Run(self, spec)
        if error is not None:
            run.fail(error)
        else:
            run.open()
            self.run = run
        return run

    def forward(
        self,
        tokens: Sequence[int],
        outputs: list[ops.Output],
        shape: Shape,
        *,
        positions: Sequence[int] = (),
        mask: ops.Mask = ops.Mask(),  # noqa: B008 - immutable
        rows: int = 0,
    ) -> PendingOutput:
        """One explicit pass; `shape` tells what its outputs are, `rows` how many bytes those have that are whole rows.

        Raises:
            TooLarge: the model's context would overflow. BadRequest: nothing to run on.
        """
        pending = self._begin(shape, len(tokens), rows, empty_allowed=bool(tokens))
        op = ops.Forward(self.id, self.generation, list(tokens), outputs, list(positions), mask)
        special = positions or mask.kind != "causal"
        layout = self.layout.mark(max(0, len(self.tokens) - (not tokens))) if special else None
        if self._pass(op, pending, layout):
            self.tokens.extend(tokens)
            self._resize()
        return pending

    def verify(self, tokens: Sequence[int], parents: Sequence[int], output: ops.Output) -> PendingOutput:
        """One pass over guesses of what follows. The path of right ones is appended when the answer comes; until then
        other operations raise Conflict.

        Raises:
            TooLarge: the model's context would overflow. BadRequest: the context is empty.
        """
        pending = self._begin(Shape(None), len(tokens), 0, empty_allowed=False)
        op = ops.Verify(self.id, self.generation, list(tokens), list(parents), output)
        if self._pass(op, pending):
            self._verification = pending
            pending.on_tokens = self._verified
        return pending

    def _begin(self, shape: Shape, count: int, rows: int, *, empty_allowed: bool) -> PendingOutput:
        """The answer of a pass over `count` tokens, once it is known that it can be asked for."""
        self._check_open()
        usage = self.owner.usage
        usage.check_rows(rows)
        if self.dead is None and self.fault is None:
            if not empty_allowed and not self.tokens:
                raise BadRequest("the context is empty: a pass needs at least one token")
            self.check_room(count)
            self._check_pages(count)
            usage.spend_tokens(count)
        return PendingOutput(self.owner.waitables, shape, usage, rows)

    def _pass(self, op: ops.Forward | ops.Verify, pending: PendingOutput, layout: Layout | None = None) -> bool:
        """Send it, unless an error waits for the program, which the pass then fails with."""
        self.close_run()
        error = self.take_fault()
        if error is not None:
            pending.fail(error)
            return False
        self.session.passes[self._record(op, len(self.tokens), [], layout)] = pending
        return True

    def _verified(self, tokens: list[int]) -> None:
        """A verification was answered: the path, and the token behind it, which is not appended."""
        self._verification = None
        self.tokens.extend(tokens[:-1])
        self._resize()

    def close_run(self) -> None:
        """Cancel the open run, if any: the context ends at the last consumed token."""
        if self.run is not None:
            self.run.close()

    def close(self) -> None:
        """Free the pages. Also called when the process ends; repeats are harmless."""
        if self.closed:
            return
        self.closed = True
        if self.run is not None:
            self.run.forget()
        self.session.contexts.pop(self.id, None)
        self.owner.contexts.pop(self, None)
        self.owner.usage.close_context()
        self.owner.usage.hold_pages(-self._held)
        self._held = 0
        if self.session.error is None:
            self.session.submit(ops.Drop(self.id))
        self._journal.clear()

    # -- errors

    def take_fault(self) -> PieError | None:
        """The error to raise at a waiting call; a living context is then usable again."""
        if self.dead is not None:
            return self.dead
        fault, self.fault = self.fault, None
        return fault

    def check_room(self, count: int) -> None:
        """Raise TooLarge if `count` more tokens do not fit."""
        limit = self.session.facts.max_context
        if len(self.tokens) + count > limit:
            raise TooLarge(
                f"{len(self.tokens)} tokens and {count} more exceed the model's context of {limit}: "
                "truncate the context or shorten the input"
            )

    def check_settled(self) -> None:
        """Raise Conflict while nobody knows what the context holds."""
        if self._verification is not None and not self._verification.settled:
            raise Conflict("guesses are being verified on this context: wait for the output first")

    def _check_handle(self) -> None:
        if self.closed:
            raise Closed("the context has been dropped")

    def _check_open(self) -> None:
        self._check_handle()
        self.check_settled()

    def check_alive(self) -> None:
        """Raise why nothing can be known of it, if so."""
        self._check_handle()
        if self.dead is not None:
            raise self.dead

    def check_usable(self) -> None:
        """Raise why no operation on it can succeed, if so."""
        self._check_open()
        if self.dead is not None:
            raise self.dead

    # -- the engine's answers

    def lose(self, error: PieError) -> None:
        """The engine is gone, and the context with it."""
        self.dead = error
        if self.run is not None:
            self.run.fail(error)
        self._journal.clear()

    @property
    def last_op(self) -> int:
        """Number of the newest operation that the engine may still refuse; 0 when there is none."""
        return self._journal[-1].number if self._journal else 0

    @property
    def has_unsettled(self) -> bool:
        """The engine may still refuse something."""
        return bool(self._journal)

    def acknowledge(self, acked: int) -> None:
        """Operations up to `acked` were applied: they need no undoing any more."""
        while self._journal and self._journal[0].number <= acked:
            self._journal.popleft()

    def refuse(self, failures: Sequence[OpFailure], error: PieError, *, told: bool, root: bool) -> None:
        """Operations failed: take back what was not applied, which is the first of them and all after it, since a
        context carries out its operations in order. `told`: a waitable of the program carries the error; `root`: not
        all of them were merely skipped."""
        self.generation = max(self.generation, *(f.generation for f in failures))
        self.cause = error
        first = min(f.op for f in failures)
        while self._journal and self._journal[-1].number >= first:
            entry = self._journal.pop()
            if isinstance(entry, _Birth):
                self.dead = error
            else:
                del self.tokens[entry.keep :]
                self.tokens.extend(entry.tail)
                self.layout = entry.layout
        self._resize()
        if self.dead is not None and self.run is not None:
            self.run.fail(self.dead)
        if told:
            self.fault = None
        elif root:
            self.fault = error

    def _record(self, op: ops.Op, keep: int, tail: list[int], layout: Layout | None = None) -> int:
        """Submit an operation; `keep` and `tail` undo what the caller does to the tokens, `layout` is the new one."""
        number = self.session.submit(op)
        self._journal.append(_Undo(number, keep, tail, self.layout))
        self.session.journaled[self] = None
        if layout is not None:
            self.layout = layout
        return number

    def _cut(self, op: ops.Op, length: int, layout: Layout) -> None:
        """Submit an operation that leaves the first `length` tokens."""
        self._record(op, length, self.tokens[length:], layout)
        del self.tokens[length:]
        self._resize()

    def _answered(self, op: ops.Op, layout: Layout | None = None, *, acknowledged: bool = False) -> Completion:
        """Submit an operation that is answered when done, or (`acknowledged`) when it counts as applied. The caller has
        closed the run where that is needed. An error not told yet is told instead."""
        done = Completion(self.owner.waitables)
        error = self.take_fault()
        if error is not None:
            done.complete(error)
            return done
        if layout is None:
            number = self.session.submit(op)
        else:
            number = self._record(op, len(self.tokens), [], layout)
            self._resize()
        self.session.flushes[number] = done
        if acknowledged:
            self.session.after_ack(number, lambda: self.session.completed(number))
        return done

    def _report(self) -> None:
        """What comes next acts at the consumed point of the run: the engine must know it."""
        if self.run is not None:
            self.run.report()

    # -- limits

    def check_step(self) -> None:
        """Raise LimitExceeded when the program may not consume another token."""
        usage = self.owner.usage
        usage.check_tokens()
        if not len(self.tokens) % self.page_size:
            usage.check_pages(1)

    def stepped(self) -> None:
        """A token was consumed."""
        if len(self.tokens) % self.page_size == 1 or self.page_size == 1:
            self._resize()

    def _check_pages(self, more: int) -> None:
        """Raise LimitExceeded when there may not be so many tokens more."""
        self.owner.usage.check_pages(self.layout.pages(len(self.tokens) + more, self.page_size) - self._held)

    def _resize(self) -> None:
        """The tokens or the layout have changed."""
        held = self.layout.pages(len(self.tokens), self.page_size)
        if held != self._held and not self.closed:
            self.owner.usage.hold_pages(held - self._held)
            self._held = held

    def _journal_birth(self, number: int) -> None:
        self._journal.append(_Birth(number))
        self.session.journaled[self] = None
