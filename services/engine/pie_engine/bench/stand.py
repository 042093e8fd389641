"""A whole engine on a test stand: its core, its device on a thread of its own, and a runner at the other end of a link
without sockets."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from pie_wire.errors import InternalError
from pie_wire.hub import Hub, Incoming
from pie_wire.messages import engine as wire
from pie_wire.messages.common import Account
from pie_wire.messages.link import Identity
from pie_wire.messages.runner import Step

from pie_engine.config import EngineConfig
from pie_engine.core import EngineCore
from pie_engine.models.base import Model
from pie_engine.models.loading import ready_device
from pie_engine.passes.batch import Batch
from pie_engine.passes.device import Device, Result
from pie_engine.service import PORT, build_core
from pie_engine.worker import Worker

P = ParamSpec("P")
R = TypeVar("R")

_ENGINE = "engine"
_ROUTE = b"bench"
_TICK = 0.001


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds of one step, and the rows of its pass (0: there was no work).

    `total` runs from the runner's messages in the engine's hands to the answers ready for the socket. Of it, `apply` is
    operations; `plan` is schedule and batch; `device` is the pass with its sampling, and the way to the device's thread
    and back.
    """

    total: float
    apply: float
    plan: float
    device: float
    rows: int


class Stand:
    """Drives the engine step by step as `service.Engine` does, and times each step. The runner's side is not timed."""

    def __init__(self, config: EngineConfig, model: Model, device: Device, pages: int, worker: Worker) -> None:
        self.model = model
        self.execute: Callable[[Batch], list[Result]] = device.execute
        """What a pass is: the device's, or something in its place."""
        self._worker = worker
        self._now = 0.0
        self._hub = Hub(Identity(_ENGINE, "bench", 1), self._clock, rng=random.Random(1))
        self._hub.listen(PORT)
        self.core: EngineCore = build_core(self._hub, config, model, pages)
        self._runner = Hub(Identity("runner", "bench", 1), self._clock, rng=random.Random(2))
        self._runner.on(Step, self._receive)
        self._runner.dial(_ENGINE)
        self._next_op = 1
        self._next_id = 0
        self.received: Counter[int] = Counter()
        """Tokens that came for each run."""
        self.ended: set[int] = set()
        self._outputs: list[int] = []
        for _ in range(4):
            self._carry()
        if self._runner.peer(_ENGINE) is None:
            raise InternalError("the stand's runner did not reach its engine")

    # -- the runner's side

    def send(self, *ops: wire.Op) -> int:
        """Operations that the engine finds at its next step. Returns the number of the last."""
        peer = self._runner.peer(_ENGINE)
        if peer is None:
            raise InternalError("the stand's link is down")
        self._runner.send(peer, wire.Ops(self._next_op, list(ops)))
        self._next_op += len(ops)
        return self._next_op - 1

    def take_outputs(self) -> list[int]:
        """Numbers of the passes that were answered since this was last asked."""
        taken, self._outputs = self._outputs, []
        return taken

    def new_id(self) -> int:
        """For a context or run."""
        self._next_id += 1
        return self._next_id

    def create(self, tokens: Sequence[int]) -> int:
        """A context with these tokens; their KV is computed when `flush` or a run asks for it."""
        context = self.new_id()
        self.send(wire.Create(context, "bench", "local", Account()), wire.Append(context, 0, list(tokens)))
        return context

    # -- the engine's side

    def step(self) -> Timing:
        """One engine step."""
        self._now += _TICK
        frames = [out.frames for out in self._runner.outgoing()]
        began = time.perf_counter()
        for each in frames:
            self._hub.receive(PORT, _ROUTE, each)
        received = time.perf_counter()
        self.core.apply()
        self.core.tick()
        applied = time.perf_counter()
        batch = self.core.plan()
        planned = executed = time.perf_counter()
        if batch is not None:
            results = self._worker.submit(self.execute, batch).result()
            executed = time.perf_counter()
            self.core.finish(results, executed - planned)
        answers = [out.frames for out in self._hub.outgoing()]
        ended = time.perf_counter()
        for each in answers:
            self._runner.receive(_ENGINE, b"", each)
        self._carry()
        spans = (ended - began, applied - received, planned - applied, executed - planned)
        total, apply, plan, device = (span * 1000.0 for span in spans)
        return Timing(total, apply, plan, device, batch.rows if batch is not None else 0)

    def settle(self) -> None:
        """Step until there is nothing left to compute."""
        while self.step().rows:
            pass

    def on_device_thread(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call where the model runs: thread pools belong to the thread that started them."""
        return self._worker.submit(function, *args, **kwargs).result()

    # -- inside

    def _carry(self) -> None:
        """What the link itself has to say, both ways."""
        self._runner.tick()
        for out in self._runner.outgoing():
            self._hub.receive(PORT, _ROUTE, out.frames)
        self._hub.tick()
        for out in self._hub.outgoing():
            self._runner.receive(_ENGINE, b"", out.frames)

    def _receive(self, incoming: Incoming[Step]) -> None:
        step = incoming.message
        for failure in step.failed:
            raise InternalError(f"operation {failure.op} failed: {failure.error.message}")
        for run, count in zip(step.runs, step.counts, strict=True):
            self.received[run] += count
        self._outputs += [done.op for done in step.outputs]
        for end in step.ends:
            if end.error is not None:
                raise InternalError(f"run {end.run} failed: {end.error.message}")
            self.ended.add(end.run)

    def _clock(self) -> float:
        # Its own: a link must not time out while a slow machine prepares a case.
        return self._now


@contextmanager
def stand(config: EngineConfig) -> Generator[Stand]:
    """Load the model as the service does, and end its thread afterwards."""
    worker = Worker(lambda: None)
    try:
        model, device, pages = worker.submit(ready_device, config).result()
        yield Stand(config, model, device, pages, worker)
    finally:
        worker.stop(10.0)
