"""An engine core with a runner's link to it, in one process and without sockets."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pie_engine.adapters.loader import AdapterLoader
from pie_engine.core import EngineCore
from pie_engine.limits import Limits
from pie_engine.passes.batch import Batch
from pie_engine.passes.device import Device, LoadedAdapter
from pie_engine.runs.grammar_compiler import GrammarCompiler
from pie_engine.simulation.simulated import SimulatedDevice
from pie_wire.errors import ErrorInfo, PeerLost, PieError
from pie_wire.hub import Answer, Hub, Incoming, Peer
from pie_wire.messages import engine as wire
from pie_wire.messages.base import Message, Request
from pie_wire.messages.common import Account, ModelFacts
from pie_wire.messages.link import Identity
from pie_wire.messages.runner import RunEnd, Slot, Step

sys.path.insert(0, str(Path(__file__).parent))

VOCAB = 97


@dataclass
class Runner:
    """A runner's side: numbers operations, collects what steps bring."""

    name: str
    hub: Hub
    next_op: int = 1
    acked: int = 0
    tokens: dict[int, list[int]] = field(default_factory=dict)
    ends: dict[int, RunEnd] = field(default_factory=dict)
    failed: dict[int, ErrorInfo] = field(default_factory=dict)
    generations: dict[int, int] = field(default_factory=dict)
    flushed: set[int] = field(default_factory=set)
    exports: dict[int, list[bytes]] = field(default_factory=dict)
    cached: dict[int, int] = field(default_factory=dict)
    outputs: dict[int, list[Slot]] = field(default_factory=dict)
    buffers: dict[int, list[bytes]] = field(default_factory=dict)
    probes: dict[int, list[Slot]] = field(default_factory=dict)

    def receive(self, incoming: Incoming[Step]) -> None:
        step = incoming.message
        assert step.acked >= self.acked
        self.acked = step.acked
        at = 0
        for run, count in zip(step.runs, step.counts, strict=True):
            assert run not in self.ends, "tokens after the end of a run"
            self.tokens.setdefault(run, []).extend(step.tokens[at : at + count])
            at += count
        for end in step.ends:
            assert end.run not in self.ends, "a run ended twice"
            self.ends[end.run] = end
        for failure in step.failed:
            assert failure.op not in self.failed, "an operation failed twice"
            self.failed[failure.op] = failure.error
            self.generations[failure.context] = failure.generation
        for part in step.exports:
            parts = self.exports.setdefault(part.op, [])
            assert part.part == len(parts)
            parts.append(bytes(incoming.buffers[part.buffer]))
        self.flushed.update(step.flushed)
        self.cached.update(zip(step.flushed, step.cached, strict=True))
        for probed in step.probes:
            self.probes.setdefault(probed.run, []).extend(probed.slots)
        for done in step.outputs:
            self.outputs[done.op] = done.slots
            self.cached[done.op] = done.cached_tokens
            self.buffers[done.op] = [bytes(b) for b in incoming.buffers]


class Bench:
    """The core, a device, and runners."""

    def __init__(self, device: Device, limits: Limits, grammars: GrammarCompiler | None = None) -> None:
        self.now = 0.0
        self.device = device
        self.limits = limits
        self.hub = Hub(Identity("engine", "e", 1), lambda: self.now, rng=random.Random(1))
        self.hub.listen("runners")
        facts = ModelFacts("test", limits.vocab, limits.max_context, limits.page_size)
        self.core = EngineCore(self.hub, facts, {"tokenizer.json": b"{}"}, "model", limits, lambda: self.now, grammars)
        self.loader = AdapterLoader(self.core.adapters, device, self.read_adapter)
        self.runners: dict[bytes, Runner] = {}
        self.contexts = 0
        self.runs = 0
        self.failing: Exception | None = None
        self.largest_step: float = 0.0
        self.runner = self.add_runner("r0")

    def add_runner(self, name: str) -> Runner:
        hub = Hub(Identity("runner", name, 1), lambda: self.now, rng=random.Random(2))
        runner = Runner(name, hub)
        hub.on(Step, runner.receive)
        hub.dial("engine")
        self.runners[name.encode()] = runner
        self.pump()
        return runner

    def remove_runner(self, runner: Runner) -> None:
        """Its link is lost."""
        peer = next(p for p in self.hub.peers() if p.name == runner.name)
        self.hub.lost(peer, PeerLost("gone"))
        del self.runners[runner.name.encode()]

    def pump(self) -> None:
        """Carry frames both ways until none is left."""
        for _ in range(6):
            for route, runner in self.runners.items():
                runner.hub.tick()
                for out in runner.hub.outgoing():
                    self.hub.receive("runners", route, out.frames)
            self.hub.tick()
            for out in self.hub.outgoing():
                if out.route in self.runners:
                    self.runners[out.route].hub.receive("engine", b"", out.frames)

    def pass_ms(self, batch: Batch) -> float:
        """What the device claims to have taken; replace it to simulate another machine."""
        return 10.0

    def send(self, *ops: wire.Op, runner: Runner | None = None, buffers: Sequence[bytes] = ()) -> int:
        """Send operations in one message; returns the number of the last."""
        who = runner or self.runner
        peer: Peer | None = who.hub.peer("engine")
        assert peer is not None
        who.hub.send(peer, wire.Ops(who.next_op, list(ops)), buffers=list(buffers))
        who.next_op += len(ops)
        for out in who.hub.outgoing():
            self.hub.receive("runners", who.name.encode(), out.frames)
        return who.next_op - 1

    def step(self) -> bool:
        """One engine step; False if there was nothing to compute."""
        self.now += 0.01
        self.core.apply()
        self.loader.turn()
        batch = self.core.plan()
        if batch is not None:
            try:
                if self.failing is not None:
                    raise self.failing
                results = self.device.execute(batch)
            except (RuntimeError, FloatingPointError) as exc:
                self.failing = None
                self.core.fail(exc)
            else:
                self.core.finish(results, self.pass_ms(batch) / 1000)
        self.pump()
        self.core.check_integrity()
        return batch is not None

    def settle(self, most: int = 100_000) -> int:
        """Step until there is nothing to do; returns the number of steps."""
        for count in range(most):
            if not self.step():
                return count
        raise AssertionError(f"still working after {most} steps")

    # -- short forms

    def create(self, tokens: list[int] | None = None, account: Account | None = None) -> int:
        self.contexts += 1
        ops: list[wire.Op] = [wire.Create(self.contexts, "p", "local", account or Account())]
        if tokens:
            ops.append(wire.Append(self.contexts, 0, tokens))
        self.send(*ops)
        return self.contexts

    def open_run(
        self,
        context: int,
        max_tokens: int = 8,
        *,
        window: int = 1 << 20,
        stop: list[int] | None = None,
        sampler: wire.SamplerSpec | None = None,
        seed: int = 0,
        generation: int = 0,
        **options: Any,
    ) -> int:
        self.runs += 1
        sampler = sampler or wire.SamplerSpec()
        self.send(
            wire.OpenRun(context, generation, self.runs, sampler, seed, stop or [], max_tokens, window, **options)
        )
        return self.runs

    def read_adapter(self, folder: str, most: int) -> Future[LoadedAdapter]:
        """At once, on this thread."""
        future: Future[LoadedAdapter] = Future()
        try:
            future.set_result(self.device.read_adapter(folder, most))
        except PieError as exc:
            future.set_exception(exc)
        return future

    def ask(self, request: Request) -> Message | PieError:
        """The answer to a request of the first runner."""
        answers: list[Answer] = []
        peer = self.runner.hub.peer("engine")
        assert peer is not None
        self.runner.hub.request(peer, request, answers.append, timeout=1000.0)
        self.pump()
        for _ in range(4):
            self.step()
        answer = answers[0]
        return answer.error or answer.value()

    def owned(self) -> int:
        return self.core.pool_stats().owned


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For many small torch operations, which other work on the machine would keep waiting for each other's threads."""
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def bench() -> Bench:
    """A core over a simulated device: 64 pages of 4 slots."""
    return make_bench()


@pytest.fixture
def benches() -> Callable[..., Bench]:
    """Make a core with other limits."""
    return make_bench


def make_bench(pages: int = 64, page_size: int = 4, max_context: int = 4096, habit: int = 1, **limits: float) -> Bench:
    device = SimulatedDevice(pages, page_size, VOCAB, habit=habit)
    return Bench(device, Limits(pages, page_size, max_context, VOCAB, page_bytes=device.page_bytes, **limits))  # type: ignore[arg-type]
