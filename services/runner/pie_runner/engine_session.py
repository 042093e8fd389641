"""One link to one engine process: operations out, batched per loop turn; step results in.

loop turn:  submit, submit, ... , flush ->  eng.ops(first, [...])   ->  engine
            handle failures, acks, tokens  <-  run.step             <-  engine step
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from pie_wire.codec import Buffer
from pie_wire.errors import EngineLost, PeerLost, PieError
from pie_wire.hub import Answer, Hub, Peer
from pie_wire.messages import engine as ops
from pie_wire.messages.base import Message, Request
from pie_wire.messages.common import ModelFacts
from pie_wire.messages.runner import OpFailure, Step

from pie_runner.cargo import CargoHold
from pie_runner.engine_errors import engine_error
from pie_runner.pressure import PressureWatch

if TYPE_CHECKING:
    from pie_runner.context_state import ContextState
    from pie_runner.drains import PendingRest
    from pie_runner.exports import Collector
    from pie_runner.models import Model
    from pie_runner.passes import PendingOutput
    from pie_runner.runs import Run
    from pie_runner.waitables import Completion

R = TypeVar("R", bound=Message)

REQUEST_SECONDS = 30.0
"""For answers that come at a step border."""
REPORT_EVERY = 0.25
"""Seconds until the engine knows what a program has consumed, where it does not need to know sooner to go on."""
MAX_UNACKED_OPS = 16_384
MAX_OPS_WEIGHT = 1_000_000
"""Weight of the operations in one message, where a token is 1: keeps its body far below the wire's limit."""


class Session:
    """One link to one engine process. When it ends, all contexts made on it are lost."""

    def __init__(self, hub: Hub, peer: Peer, model: Model, context_ids: itertools.count[int]) -> None:
        self._hub = hub
        self.peer = peer
        self.model = model
        self.error: PieError | None = None
        """Why it ended."""
        self.acked = 0
        self.contexts: dict[int, ContextState] = {}
        self.runs: dict[int, Run] = {}
        self.ending: dict[int, Run] = {}
        """Runs that were closed and whose end the engine has yet to tell."""
        self.openings: dict[int, Run] = {}
        """Runs by the number of their opening operation, until it is acknowledged."""
        self.flushes: dict[int, Completion] = {}
        """Flushes, and what else is only said to be done."""
        self.passes: dict[int, PendingOutput] = {}
        self.exports: dict[int, Collector] = {}
        self.hold = CargoHold()
        self.unreported: dict[Run, None] = {}
        """Runs with consumption the engine has not been told of."""
        self.drains: dict[PendingRest, None] = {}
        """Those whose runs have got something."""
        self.journaled: dict[ContextState, None] = {}
        self.pressure = PressureWatch()
        self.wasted = 0
        """Tokens decoded ahead and not consumed, as the engine reported them."""
        self._report_at = 0.0
        self._barriers: list[tuple[int, Callable[[], None]]] = []
        self._context_ids = context_ids
        self._next_run = 1
        self._next_op = 1
        self._batch: list[ops.Op] = []
        self._cargo: dict[int, Sequence[Buffer]] = {}
        """Buffers by the number of the import that they belong to, until it is sent."""

    @property
    def facts(self) -> ModelFacts:
        return self.model.facts

    @property
    def last_op(self) -> int:
        """Number of the newest operation."""
        return self._next_op - 1

    def check(self) -> None:
        """Raise why the session has ended, if it has."""
        if self.error is not None:
            raise self.error

    def next_context(self) -> int:
        """An id no context of this runner ever had."""
        return next(self._context_ids)

    def next_run(self) -> int:
        number = self._next_run
        self._next_run += 1
        return number

    def submit(self, op: ops.Op, buffers: Sequence[Buffer] = ()) -> int:
        """Queue an operation for the end of the loop turn; with buffers it gets a message of its own. Returns its
        number."""
        number = self._next_op
        self._next_op += 1
        if self.error is None:
            self._batch.append(op)
            if buffers:
                self._cargo[number] = buffers
        return number

    def after_ack(self, number: int, then: Callable[[], None]) -> None:
        """Call when operations up to `number` have been applied or refused, or the session has ended."""
        if self.acked >= number or self.error is not None:
            then()
        else:
            self._barriers.append((number, then))

    def completed(self, number: int) -> None:
        """Operation `number`, which yields nothing, is done."""
        completion = self.flushes.pop(number, None)
        if completion is not None:
            completion.complete()

    def ask(self, request: Request[R], then: Callable[[R | None, PieError | None], None]) -> Callable[[], None]:
        """Ask the engine, behind everything submitted so far; `then` gets the answer or why there is none. Returns how
        to forget the question. Raises the session's end."""
        self.check()

        def answered(answer: Answer[R]) -> None:
            error = answer.error
            if error is None:
                then(answer.value(), None)
            elif isinstance(error, PeerLost):
                then(None, self.error or EngineLost(f"the engine was lost: {error.message}"))
            else:
                then(None, error)

        self.flush()
        number = self._hub.request(self.peer, request, answered, timeout=REQUEST_SECONDS)
        return lambda: self._hub.cancel(number)

    @property
    def is_flooded(self) -> bool:
        """So many operations are unacknowledged that programs should wait before they add more."""
        return self.error is None and self.last_op - self.acked > MAX_UNACKED_OPS

    def flush(self) -> None:
        """Take what is drained, report consumption, where it is due, and send what is queued."""
        self.drain()
        if self.unreported:
            self._report()
        batch, self._batch = self._batch, []
        first = self._next_op - len(batch)
        start = weight = 0
        for i, op in enumerate(batch):
            weight += _weight(op)
            loaded = first + i in self._cargo
            if weight >= MAX_OPS_WEIGHT or i == len(batch) - 1 or loaded:
                end = i if loaded else i + 1
                if start < end:
                    self._hub.send(self.peer, ops.Ops(first + start, batch[start:end]))
                if loaded:
                    self._hub.send(self.peer, ops.Ops(first + i, [op]), buffers=self._cargo.pop(first + i))
                start, weight = i + 1, 0

    def drain(self) -> None:
        """Go on with the drains of runs that got something."""
        if self.drains:
            drains, self.drains = self.drains, {}
            for drain in drains:
                drain.go_on()

    def _report(self) -> None:
        now = self._hub.clock()
        everything = now >= self._report_at
        if everything:
            self._report_at = now + REPORT_EVERY
        for run in [run for run in self.unreported if everything or run.is_behind]:
            run.report()

    def on_step(self, step: Step, buffers: Sequence[Buffer]) -> None:
        """What one engine step has for this runner."""
        failures: dict[int, list[OpFailure]] = {}
        for failure in step.failed:
            failures.setdefault(failure.context, []).append(failure)
        for context_id, failed in failures.items():
            self._refuse(context_id, failed)
        self._acknowledge(step.acked)
        for probed in step.probes:
            run = self.runs.get(probed.run)
            if run is not None:
                run.push_answers(probed.slots, buffers)
        at = 0
        for number, count in zip(step.runs, step.counts, strict=True):
            run = self.runs.get(number)
            if run is not None:
                run.push(step.tokens[at : at + count])
            at += count
        for end in step.ends:
            self.wasted += end.wasted
            run = self.runs.get(end.run) or self.ending.pop(end.run, None)
            if run is not None:
                run.end(end)
        for done in step.outputs:
            pending = self.passes.pop(done.op, None)
            if pending is not None:
                pending.deliver(done, buffers)
        for part in step.exports:
            collector = self.exports.get(part.op)
            if collector is not None and collector.add(part, buffers):
                del self.exports[part.op]
        for number in step.flushed:
            self.completed(number)
        for receipt in step.receipts:
            context = self.contexts.get(receipt.context)
            if context is not None:
                context.receipts.append(receipt)
        if step.pressure is not None:
            self.pressure.told(step.pressure)

    def end(self, error: PieError) -> None:
        """The engine is gone: everything made on this session fails with the same error."""
        if self.error is not None:
            return
        self.error = error
        self._batch.clear()
        self._cargo.clear()
        for context in list(self.contexts.values()):
            context.lose(error)
        for completion in self.flushes.values():
            completion.complete(error)
        for pending in self.passes.values():
            pending.fail(error)
        for collector in self.exports.values():
            collector.fail(error)
        self.pressure.end(error)
        self.hold.end()
        barriers, self._barriers = self._barriers, []
        for _, then in barriers:
            then()
        for table in (self.contexts, self.runs, self.ending, self.openings, self.flushes, self.passes):
            table.clear()
        self.unreported.clear()
        self.journaled.clear()
        self.drain()

    def _refuse(self, context_id: int, failed: list[OpFailure]) -> None:
        context = self.contexts.get(context_id)
        roots = [f for f in failed if f.error.code != "skipped"]
        if roots:
            error = engine_error(roots[0].error)
        elif context is not None and context.cause is not None:
            error = context.cause
        else:
            error = engine_error(failed[0].error)
        told = False
        for failure in failed:
            run = self.openings.pop(failure.op, None)
            if run is not None:
                self.runs.pop(run.number, None)
                run.fail(error)
                told = True
            completion = self.flushes.pop(failure.op, None)
            if completion is not None:
                completion.complete(error)
                told = True
            pending = self.passes.pop(failure.op, None)
            if pending is not None:
                pending.fail(error)
                told = True
            collector = self.exports.pop(failure.op, None)
            if collector is not None:
                collector.fail(error)
                told = True
        if context is not None:
            context.refuse(failed, error, told=told, root=bool(roots))

    def _acknowledge(self, acked: int) -> None:
        if acked <= self.acked:
            return
        self.acked = acked
        for context in list(self.journaled):
            context.acknowledge(acked)
            if not context.has_unsettled:
                self.journaled.pop(context, None)
        for number in [n for n in self.openings if n <= acked]:
            del self.openings[number]
        due = [then for number, then in self._barriers if number <= acked]
        self._barriers = [(number, then) for number, then in self._barriers if number > acked]
        for then in due:
            then()


def _weight(op: ops.Op) -> int:
    """About a fifth of its bytes in a message."""
    match op:
        case ops.Append():
            return 16 + len(op.tokens)
        case ops.Forward():
            rows = sum(len(row) for row in op.mask.runs) + len(op.mask.parents)
            return 16 + len(op.tokens) + len(op.positions) + rows + sum(map(_output_weight, op.outputs))
        case ops.Verify():
            return 16 + 2 * len(op.tokens) + _output_weight(op.sampler)
        case ops.OpenRun():
            grammar = 0 if op.grammar is None else len(op.grammar.text)
            return 32 + len(op.stop) + _sampler_weight(op.sampler) + sum(map(_output_weight, op.probes)) + grammar
        case _:
            return 64


def _output_weight(output: ops.Output) -> int:
    return 16 + len(output.ids) + len(output.stop) + (_sampler_weight(output.sampler) if output.kind == "token" else 0)


def _sampler_weight(spec: ops.SamplerSpec) -> int:
    mask = 0 if spec.mask is None else len(spec.mask)
    return 8 + 3 * len(spec.bias) + mask
