"""What the runner knows of a context: the consumed token list, and what the engine has not confirmed yet.

Operations are sent without waiting. The token list is what the program sees; a journal remembers how to undo each
operation that the engine may still refuse. When one fails, the list goes back to where it was before that operation,
the generation advances, and the error waits for the program's next waiting call; until then further operations are
skipped here as they would be there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pie_wire.errors import Closed, Conflict, PieError, TooLarge
from pie_wire.messages import engine as ops
from pie_wire.messages.runner import OpFailure, Receipt

from pie_runner.journal import Birth, Journal, Undo
from pie_runner.layout import PLAIN, Layout
from pie_runner.passes import PendingOutput
from pie_runner.runs import Run
from pie_runner.waitables import Completion

if TYPE_CHECKING:
    from pie_runner.engine_session import Session
    from pie_runner.process import Process

MAX_RECEIPTS = 64


class ContextState:
    """Tokens, layout, pages held, failures; how operations are sent and taken back."""

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
        self._journal = Journal()
        session.contexts[self.id] = self
        owner.contexts[self] = None

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
        return self._journal.last

    @property
    def has_unsettled(self) -> bool:
        """The engine may still refuse something."""
        return bool(self._journal)

    def acknowledge(self, acked: int) -> None:
        """Operations up to `acked` were applied: they need no undoing any more."""
        self._journal.acknowledge(acked)

    def refuse(self, failures: Sequence[OpFailure], error: PieError, *, told: bool, root: bool) -> None:
        """Operations failed: take back what was not applied, which is the first of them and all after it that was sent
        before the failure was known, since a context carries out its operations in order. `told`: a waitable of the
        program carries the error; `root`: not all of them were merely skipped."""
        generation = max(f.generation for f in failures)
        self.generation = max(self.generation, generation)
        self.cause = error
        first = min(f.op for f in failures)
        for entry in self._journal.take_back(first, generation):
            if isinstance(entry, Birth):
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
        self._journal.add(Undo(number, self.generation, keep, tail, self.layout))
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
        self._journal.add(Birth(number))
        self.session.journaled[self] = None
