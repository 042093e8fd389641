"""A run: the engine decodes ahead, the program consumes one token a step."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from pie_wire.errors import Closed, InternalError, LimitExceeded, PieError, from_info
from pie_wire.messages.engine import CloseRun, Consume, OpenRun, SamplerSpec
from pie_wire.messages.runner import RunEnd

from pie_runner.waitables import Waitable

if TYPE_CHECKING:
    from pie_runner.contexts import Context
    from pie_runner.detokenizer import Detokenizer

Finish = Literal["stop", "length", "context-full"]


@dataclass(frozen=True)
class RunSpec:
    """What a program asked for, checked. `max_tokens` None: up to the end of the model's context."""

    sampler: SamplerSpec
    seed: int
    stop: Sequence[int]
    max_tokens: int | None
    window: int
    detokenizer: Detokenizer | None


class StepResult(NamedTuple):
    """The WIT's `step`."""

    tokens: list[int]
    text: str
    finish: Finish | None


class Run(Waitable):
    """The WIT's `run`. Steps do not depend on how tokens travel: one token each; `length` and `context-full` come with
    the last token, `stop` as a step of its own."""

    def __init__(self, context: Context, spec: RunSpec) -> None:
        super().__init__(context.owner.waitables)
        self.context = context
        self.spec = spec
        room = context.session.facts.max_context - len(context.tokens)
        self._budget = room if spec.max_tokens is None else min(room, spec.max_tokens)
        self._last: Finish = "length" if spec.max_tokens is not None and spec.max_tokens <= room else "context-full"
        self.number = 0
        self._buffer: deque[int] = deque()
        self.consumed = 0
        self._reported = 0
        self._cut: Finish | None = None
        """Set when the engine will send no more tokens, though the budget is not used up."""
        self._finish: Finish | None = None
        self._error: PieError | None = None
        self._closed = False

    def open(self) -> None:
        """Send it to the engine."""
        session, context = self.context.session, self.context
        self.number = session.next_run()
        session.runs[self.number] = self
        op = OpenRun(
            context.id,
            context.generation,
            self.number,
            self.spec.sampler,
            self.spec.seed,
            list(self.spec.stop),
            min(self._budget, context.owner.usage.tokens_left or self._budget),
            self.spec.window,
        )
        session.openings[session.submit(op)] = self

    @property
    def ready(self) -> bool:
        return bool(self._buffer or self._cut or self._finish or self._error or self._closed)

    def next(self) -> StepResult | None:
        """Consume one token; None when none is here.

        Raises:
            Closed: the run was cancelled. LimitExceeded: the process may have no more tokens. Or the run's own error,
            once its tokens are consumed.
        """
        if self._finish is not None:
            return StepResult([], "", self._finish)
        if self._closed:
            raise Closed("the run has been closed: open another one")
        if self._buffer or self._cut == "context-full":
            try:
                self.context.owner.usage.check_tokens()
            except LimitExceeded:
                self._end()
                raise
        if self._buffer:
            return self._consume(self._buffer.popleft())
        if self._error is not None:
            error = self._error
            self._end()
            raise error
        if self._cut is not None:
            return self._finished(self._cut, [], "")
        return None

    def close(self) -> None:
        """Cancel: the context ends at the last consumed token. Repeats are harmless."""
        super().close()
        self._end()

    def forget(self) -> None:
        """The context is being dropped: nothing needs to be said to the engine."""
        self._closed = True
        self._detach()

    def report(self) -> None:
        """Tell the engine how far the program is."""
        if self._reported < self.consumed and not self._closed:
            self._reported = self.consumed
            self.context.session.submit(Consume(self.context.id, self.number, self.consumed))

    # -- the engine's answers

    def push(self, tokens: Sequence[int]) -> None:
        """Tokens were decoded."""
        self._buffer.extend(tokens)
        self.notify()

    def end(self, end: RunEnd) -> None:
        """No more tokens will come."""
        match end.reason:
            case "stop":
                self._cut = "stop"
            case "length":
                self._cut = "context-full"  # read only if the budget is not reached: the engine's own limit is lower
            case "error" | "cancelled":
                fallback = InternalError(f"the engine ended a run: {end.reason}")
                self._error = fallback if end.error is None else from_info(end.error)
        self.notify()

    def fail(self, error: PieError) -> None:
        """It did not open, or its engine died."""
        if self._error is None:
            self._error = error
        self.notify()

    def _consume(self, token: int) -> StepResult:
        self.consumed += 1
        self.context.owner.usage.spend_tokens(1)
        self.context.tokens.append(token)
        detokenizer = self.spec.detokenizer
        text = detokenizer.feed([token]) if detokenizer is not None else ""
        if self.consumed >= self._budget:
            return self._finished(self._last, [token], text)
        self.context.session.unreported[self] = None
        return StepResult([token], text, None)

    def _finished(self, finish: Finish, tokens: list[int], text: str) -> StepResult:
        self._finish = finish
        if self.spec.detokenizer is not None:
            text += self.spec.detokenizer.finish()
        self._end()
        return StepResult(tokens, text, finish)

    def _end(self) -> None:
        if not self._closed:
            self._closed = True
            session = self.context.session
            if self.number in session.runs and session.error is None:
                session.submit(CloseRun(self.context.id, self.number, self.consumed))
            self._detach()
            self.notify()

    def _detach(self) -> None:
        session = self.context.session
        session.runs.pop(self.number, None)
        session.unreported.pop(self, None)
        self._buffer.clear()
        if self.context.run is self:
            self.context.run = None
