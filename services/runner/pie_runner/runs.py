"""A run: the engine decodes ahead, the program consumes one token a step."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec
from pie_wire.codec import Buffer
from pie_wire.errors import BadRequest, Closed, Conflict, InternalError, LimitExceeded, PieError
from pie_wire.messages.engine import (
    CloseRun,
    Consume,
    Grammar,
    OpenRun,
    PauseRun,
    ResumeRun,
    SamplerSpec,
    Speculation,
)
from pie_wire.messages.runner import RunEnd, Slot

from pie_runner.drains import Forward, PendingRest
from pie_runner.engine_errors import engine_error
from pie_runner.probes import Answer, Probe, answered, received, resident_bytes, row_bytes
from pie_runner.waitables import Waitable
from pie_runner.wasm.hostcall import Case

if TYPE_CHECKING:
    from pie_runner.context_state import ContextState
    from pie_runner.text_stream import TextStream

Finish = Literal["stop", "stop-string", "length", "context-full"]

_REPORTS_A_WINDOW = 4
_NO_SPECULATION = Speculation()
_NO_PROBES: list[Case] = []


@dataclass(frozen=True)
class RunSpec:
    """What a program asked for, checked. `max_tokens` None: up to the end of the model's context."""

    sampler: SamplerSpec
    seed: int
    stop: Sequence[int]
    max_tokens: int | None
    window: int
    text: TextStream | None = None
    grammar: Grammar | None = None
    speculation: Speculation = _NO_SPECULATION
    probes: Sequence[Probe] = ()

    def rows_ahead(self, vocab: int) -> int:
        """Bytes of the whole rows that the run may be ahead by."""
        return self.window * row_bytes(self.probes, vocab)


class StepResult(NamedTuple):
    """The WIT's `step`."""

    tokens: list[int]
    text: str
    probes: list[Case]
    finish: Finish | None


class RunStats(NamedTuple):
    """The WIT's `run-stats`."""

    cached_tokens: int
    drafted: int
    accepted: int


class Run(Waitable):
    """The WIT's `run`. Steps do not depend on how tokens travel: one token each; `length`, `context-full` and
    `stop-string` come with the last token, `stop` as a step of its own."""

    def __init__(self, context: ContextState, spec: RunSpec) -> None:
        """The process may hold the rows that the run can be ahead by."""
        vocab = context.session.facts.vocab
        super().__init__(context.owner.waitables)
        self._lease = context.owner.usage.lease_rows(spec.rows_ahead(vocab))
        self._resident_bytes = resident_bytes(spec.probes, vocab)
        self.context = context
        self.spec = spec
        room = context.session.facts.max_context - len(context.tokens)
        self._budget = room if spec.max_tokens is None else min(room, spec.max_tokens)
        self._last: Finish = "length" if spec.max_tokens is not None and spec.max_tokens <= room else "context-full"
        self.number = 0
        self._buffer: deque[int] = deque()
        self._answers: deque[list[Answer]] = deque()
        """What the probes saw, for each token of the buffer."""
        self.consumed = 0
        self._reported = 0
        self._cut: Finish | None = None
        """Set when the engine will send no more tokens, though the budget is not used up."""
        self._finish: Finish | None = None
        self._error: PieError | None = None
        self._closed = False
        self._paused = False
        self._drain: PendingRest | None = None
        self.stats: RunStats | None = None
        """None until the engine has ended it."""

    def open(self) -> None:
        """Send it to the engine."""
        session, context = self.context.session, self.context
        self.number = session.next_run()
        session.runs[self.number] = self
        most = min(self._budget, context.owner.usage.tokens_left or self._budget)
        sampler = self.spec.sampler
        if sampler.min_tokens > most:
            sampler = msgspec.structs.replace(sampler, min_tokens=most)
        op = OpenRun(
            context.id,
            context.generation,
            self.number,
            sampler,
            self.spec.seed,
            list(self.spec.stop),
            most,
            self.spec.window,
            self.spec.speculation,
            [probe.output for probe in self.spec.probes],
            self.spec.grammar,
        )
        session.openings[session.submit(op)] = self

    @property
    def ready(self) -> bool:
        return bool(self._buffer or self._cut or self._finish or self._error or self._closed)

    def next(self) -> StepResult | None:
        """Consume one token; None when none is here.

        Raises:
            Closed: the run was cancelled. LimitExceeded: the process may have no more tokens, or hold no more rows (the
            token is still there). Or the run's own error, once its tokens are consumed.
        """
        if self._finish is not None:
            return StepResult([], "", _NO_PROBES, self._finish)
        if self._closed:
            raise Closed("the run has been closed: open another one")
        if self._buffer or self._cut == "context-full":
            try:
                self.context.check_step()
            except LimitExceeded:
                self._end()
                raise
        if self._buffer:
            return self._consume()
        if self._error is not None:
            error = self._error
            self._end()
            raise error
        if self._cut is not None:
            return self._finished(self._cut, [], "", _NO_PROBES)
        return None

    def check_free(self) -> None:
        """Raise Conflict while the run is drained."""
        if self._drain is not None:
            raise Conflict("the run is being drained: wait for the rest, or drop it to go on step by step")

    def drain(self, forward: Forward | None) -> PendingRest:
        """Take the rest in the program's place; `forward` gets its text, piece by piece.

        Raises:
            Conflict: it is being drained. BadRequest: it has probes, or no text to send.
        """
        self.check_free()
        if self.spec.probes:
            raise BadRequest("a run with probes cannot be drained: their answers are read step by step")
        if forward is not None and (self.spec.text is None or not self.spec.text.shown):
            raise BadRequest("the run has no text to send: open it with `text`")
        self._drain = drain = PendingRest(self, forward)
        if self.ready:
            self.notify()
        return drain

    def drained(self, drain: PendingRest) -> None:
        """It is over, or was given up. Repeats are harmless."""
        if self._drain is drain:
            self._drain = None

    def notify(self) -> None:
        drain, session = self._drain, self.context.session
        if drain is not None and session.error is None:
            session.drains[drain] = None
        elif drain is not None:  # nobody looks after a session that has ended
            drain.go_on()
        super().notify()

    def pause(self) -> None:
        """Decode no further for now. Repeats, and a run that is over, are harmless."""
        if not self._paused and not self._closed:
            self._paused = True
            self.context.session.submit(PauseRun(self.context.id, self.number))

    def resume(self) -> None:
        """Go on after a pause."""
        if self._paused and not self._closed:
            self._paused = False
            self.context.session.submit(ResumeRun(self.context.id, self.number))

    def cancel(self) -> None:
        """The context ends at the last consumed token. Repeats are harmless."""
        self._end()

    def close(self) -> None:
        """The program dropped its handle: cancel."""
        super().close()
        self._end()
        self.context.session.ending.pop(self.number, None)

    def forget(self) -> None:
        """The context is being dropped: nothing needs to be said to the engine."""
        self._closed = True
        self._detach()
        self.notify()

    @property
    def is_behind(self) -> bool:
        """So much of the window is consumed and not reported that the engine might soon wait for it."""
        return (self.consumed - self._reported) * _REPORTS_A_WINDOW >= self.spec.window

    def report(self) -> None:
        """Tell the engine how far the program is."""
        self.context.session.unreported.pop(self, None)
        if self._reported < self.consumed and not self._closed:
            self._reported = self.consumed
            self.context.session.submit(Consume(self.context.id, self.number, self.consumed))

    # -- the engine's answers

    def push(self, tokens: Sequence[int]) -> None:
        """Tokens were decoded."""
        self._buffer.extend(tokens)
        self.notify()

    def push_answers(self, slots: Sequence[Slot], buffers: Sequence[Buffer]) -> None:
        """What the probes saw when the tokens that come with it were drawn."""
        width = len(self.spec.probes)
        try:
            if not width or len(slots) % width:
                raise InternalError("the engine's answers do not fit the run's probes")
            for at in range(0, len(slots), width):
                self._answers.append(received(slots[at : at + width], buffers))
        except InternalError as exc:
            self.fail(exc)

    def end(self, end: RunEnd) -> None:
        """No more tokens will come."""
        self.stats = RunStats(end.cached_tokens, end.drafted, end.accepted)
        match end.reason:
            case "stop":
                self._cut = "stop"
            case "length":
                self._cut = "context-full"  # read only if the budget is not reached: the engine's own limit is lower
            case "error" | "cancelled":
                fallback = InternalError(f"the engine ended a run: {end.reason}")
                self._error = fallback if end.error is None else engine_error(end.error)
        self.notify()

    def fail(self, error: PieError) -> None:
        """It did not open, or its engine died."""
        if self._error is None:
            self._error = error
        self.notify()

    def _consume(self) -> StepResult:
        owner = self.context.owner
        probes = self._probed() if self.spec.probes else _NO_PROBES
        token = self._buffer.popleft()
        self.consumed += 1
        owner.usage.spend_tokens(1)
        self.context.tokens.append(token)
        self.context.stepped()
        text = ""
        if self.spec.text is not None:
            text = self.spec.text.feed(token)
            if self.spec.text.stopped:
                return self._finished("stop-string", [token], text, probes)
        if self.consumed >= self._budget:
            return self._finished(self._last, [token], text, probes)
        self.context.session.unreported[self] = None
        return StepResult([token], text, probes, None)

    def _probed(self) -> list[Case]:
        """Answers for the token that is consumed next."""
        usage = self.context.owner.usage
        usage.check_rows(self._resident_bytes)
        if not self._answers:
            raise InternalError("the engine sent a token without the answers of its probes")
        return [
            answered(probe, answer, usage)
            for probe, answer in zip(self.spec.probes, self._answers.popleft(), strict=True)
        ]

    def _finished(self, finish: Finish, tokens: list[int], text: str, probes: list[Case]) -> StepResult:
        if self.spec.text is not None:
            text += self.spec.text.finish()
            if self.spec.text.stopped:
                finish = "stop-string"
        self._finish = finish
        self._end()
        return StepResult(tokens, text, probes, finish)

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
        if session.runs.pop(self.number, None) is not None and self.stats is None:
            session.ending[self.number] = self
        session.unreported.pop(self, None)
        self._buffer.clear()
        self._answers.clear()
        self._lease.close()
        if self.context.run is self:
            self.context.run = None
