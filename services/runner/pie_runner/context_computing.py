"""What computes on a context: runs and explicit passes."""

from __future__ import annotations

from collections.abc import Sequence

from pie_wire.errors import BadRequest
from pie_wire.messages import engine as ops

from pie_runner.context_state import ContextState
from pie_runner.layout import Layout
from pie_runner.passes import PendingOutput, Shape
from pie_runner.runs import Run, RunSpec


class ComputingContext(ContextState):
    """A context that generates, runs passes and verifies guesses."""

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
