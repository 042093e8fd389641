"""The answer of one explicit forward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pie_wire.codec import Buffer
from pie_wire.errors import Closed, InternalError, PieError
from pie_wire.messages.runner import ForwardDone

from pie_runner.limits import RowLease, Usage
from pie_runner.probes import Answer, Probe, answered, received
from pie_runner.waitables import Waitable, Waitables
from pie_runner.wasm.hostcall import Case, Err, Ok


class Output(NamedTuple):
    """The WIT's `output`."""

    tokens: list[list[int]]
    probes: list[Case]
    cached_tokens: int


@dataclass(frozen=True)
class Shape:
    """What the slots of an answer are, in order: rows of each draw, then the probes. `draws` None: all are tokens, of
    one draw (a verification, whose length only its answer tells)."""

    draws: Sequence[int] | None
    probes: Sequence[Probe] = ()


class PendingOutput(Waitable):
    """The WIT's `pending-output`."""

    def __init__(self, table: Waitables, shape: Shape, usage: Usage, rows: int = 0) -> None:
        """`rows`: bytes of the whole rows that it will answer with. Raises LimitExceeded."""
        usage.check_rows(rows)
        super().__init__(table)
        self._lease: RowLease = usage.lease_rows(rows)
        self._shape = shape
        self._usage = usage
        self._answers: Sequence[Answer] = ()
        self._cached = 0
        self._error: PieError | None = None
        self._taken = False
        self.settled = False
        """The pass ran or failed."""
        self.on_tokens: Callable[[list[int]], None] | None = None
        """Gets the tokens of a verification when they come, whether the program asks for them or not."""

    @property
    def ready(self) -> bool:
        return self._taken or self.settled

    def deliver(self, done: ForwardDone, buffers: Sequence[Buffer]) -> None:
        """The pass ran."""
        if self.settled:
            return
        try:
            answers = received(done.slots, buffers)
            if self.on_tokens is not None:
                self.on_tokens(_tokens(answers))
        except PieError as exc:
            self.fail(exc)
            return
        self.settled = True
        if not self._taken:
            self._answers, self._cached = answers, done.cached_tokens
        self.notify()

    def fail(self, error: PieError) -> None:
        """The pass did not run."""
        if not self.settled:
            self.settled = True
            self._error = error
            self._lease.close()
            self.notify()

    def get(self) -> Ok | Err | None:
        """The output, once."""
        if self._taken:
            return Err(Closed("the output of this pass was already taken").info())
        if not self.settled:
            return None
        answers, self._answers, self._taken = self._answers, (), True
        self._lease.close()
        if self._error is not None:
            return Err(self._error.info())
        try:
            return Ok(self._output(answers))
        except PieError as exc:
            return Err(exc.info())

    def close(self) -> None:
        """The program dropped its handle."""
        super().close()
        self._taken = True
        self._answers = ()
        self._lease.close()

    def _output(self, answers: Sequence[Answer]) -> Output:
        draws = [len(answers)] if self._shape.draws is None else self._shape.draws
        if len(answers) != sum(draws) + len(self._shape.probes):
            raise InternalError("the engine's answer does not fit the pass")
        tokens: list[list[int]] = []
        at = 0
        for rows in draws:
            tokens.append(_tokens(answers[at : at + rows]))
            at += rows
        asked = zip(self._shape.probes, answers[at:], strict=True)
        return Output(tokens, [answered(probe, answer, self._usage) for probe, answer in asked], self._cached)


def _tokens(answers: Sequence[Answer]) -> list[int]:
    if any(answer.slot.kind != "token" for answer in answers):
        raise InternalError("the engine answered something else where a token was asked")
    return [answer.slot.token for answer in answers]
