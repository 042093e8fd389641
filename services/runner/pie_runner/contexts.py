"""A context as the runner holds it: the consumed token list, and what the engine has not confirmed yet.

Operations are sent without waiting. The token list is what the program sees; a journal remembers how to undo each
operation that the engine may still refuse. When one fails, the list goes back to where it was before that operation,
the generation advances, and the error waits for the program's next waiting call; until then further operations are
skipped here as they would be there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pie_wire.errors import BadRequest, Closed, PieError, TooLarge
from pie_wire.messages import engine as ops
from pie_wire.messages.runner import OpFailure

from pie_runner.passes import PendingOutput, Shape
from pie_runner.runs import Run, RunSpec
from pie_runner.waitables import Completion

if TYPE_CHECKING:
    from pie_runner.engine_session import Session
    from pie_runner.process import Process


@dataclass(slots=True)
class _Undo:
    """How to take back operation `number`: keep `keep` tokens, then put `tail` back."""

    number: int
    keep: int
    tail: list[int]


@dataclass(slots=True)
class _Birth(_Undo):
    """A create or fork: when it fails, the context is dead."""

    keep: int = 0
    tail: list[int] = field(default_factory=list[int])


class Context:
    """The WIT's `context`. Made by `create`, `restore` and `fork`; ends with `close`, its process or its engine."""

    def __init__(self, session: Session, owner: Process, tokens: list[int]) -> None:
        owner.usage.check_contexts(len(owner.contexts))
        self.session = session
        self.owner = owner
        self.id = session.next_context()
        self.tokens = tokens
        """Consumed tokens, oldest first."""
        self.generation = 0
        self.run: Run | None = None
        self.dead: PieError | None = None
        """Why no operation on it can succeed any more."""
        self.fault: PieError | None = None
        """A failure that the program has not been told of yet."""
        self.cause: PieError | None = None
        """The last failure: what operations of an older generation were skipped for."""
        self.closed = False
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

    # -- operations of the program; none waits

    def fork(self) -> Context:
        """A copy of the consumed tokens; an open run goes on. A fork of a dead context is dead of the same cause."""
        self._check_open()
        if self.run is not None:
            self.run.report()
        child = Context(self.session, self.owner, list(self.tokens))
        child.dead = self.dead or self.fault
        if child.dead is None:
            op = ops.Fork(child.id, self.id, self.generation, len(self.tokens), self.owner.pid)
            child._journal_birth(self.session.submit(op))
        return child

    def append(self, tokens: Sequence[int]) -> None:
        """Add tokens at the end. Closes an open run.

        Raises:
            TooLarge: the model's context would overflow.
        """
        self._check_alive()
        self.check_room(len(tokens))
        self.close_run()
        if self.fault is None and tokens:
            self.owner.usage.spend_tokens(len(tokens))
            keep = len(self.tokens)
            self._record(ops.Append(self.id, self.generation, list(tokens)), keep, [])
            self.tokens.extend(tokens)

    def truncate(self, length: int) -> None:
        """Keep the first `length` tokens. Closes an open run.

        Raises:
            BadRequest: there are fewer.
        """
        self._check_alive()
        if length > len(self.tokens):
            raise BadRequest(f"truncate to {length}: the context has {len(self.tokens)} tokens")
        self.close_run()
        if self.fault is None and length < len(self.tokens):
            tail = self.tokens[length:]
            self._record(ops.Truncate(self.id, self.generation, length), length, tail)
            del self.tokens[length:]

    def flush(self) -> Completion:
        """Completes when all tokens but the last have KV."""
        self._check_open()
        done = Completion(self.owner.waitables)
        error = self.take_fault()
        if error is not None:
            done.complete(error)
        else:
            self.session.flushes[self.session.submit(ops.Flush(self.id, self.generation))] = done
        return done

    def open_run(self, spec: RunSpec) -> Run:
        """Start decoding. An older run is closed.

        Raises:
            BadRequest: the context is empty. TooLarge: it is full.
        """
        self._check_open()
        if self.dead is None and self.fault is None:
            if not self.tokens:
                raise BadRequest("the context is empty: append at least one token before generating")
            self.check_room(1)
            self.owner.usage.check_tokens()
        self.close_run()
        error = self.take_fault()
        run = Run(self, spec)
        if error is not None:
            run.fail(error)
        else:
            run.open()
            self.run = run
        return run

    def forward(self, tokens: Sequence[int], outputs: list[ops.Output], shape: Shape) -> PendingOutput:
        """One explicit pass; `shape` tells what its outputs are.

        Raises:
            TooLarge: the model's context would overflow. BadRequest: nothing to run on.
        """
        self._check_open()
        pending = PendingOutput(self.owner.waitables, shape)
        if self.dead is None and self.fault is None:
            if not tokens and not self.tokens:
                raise BadRequest("the context is empty: a pass needs at least one token")
            self.check_room(len(tokens))
        self.close_run()
        error = self.take_fault()
        if error is not None:
            pending.fail(error)
            return pending
        self.owner.usage.spend_tokens(len(tokens))
        keep = len(self.tokens)
        op = ops.Forward(self.id, self.generation, list(tokens), outputs)
        number = self._record(op, keep, [])
        self.tokens.extend(tokens)
        self.session.passes[number] = pending
        return pending

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

    def _check_open(self) -> None:
        if self.closed:
            raise Closed("the context has been dropped")

    def _check_alive(self) -> None:
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
        if self.dead is not None and self.run is not None:
            self.run.fail(self.dead)
        if told:
            self.fault = None
        elif root:
            self.fault = error

    def _record(self, op: ops.Op, keep: int, tail: list[int]) -> int:
        number = self.session.submit(op)
        self._journal.append(_Undo(number, keep, tail))
        self.session.journaled[self] = None
        return number

    def _journal_birth(self, number: int) -> None:
        self._journal.append(_Birth(number))
        self.session.journaled[self] = None
