"""Requests for the stand: contexts that decode, prompts that arrive."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from pie_wire.errors import InternalError
from pie_wire.messages import engine as wire

from pie_engine.bench.stand import Stand, Timing

GREEDY = wire.SamplerSpec(temperature=0.0)
TOP_P = wire.SamplerSpec(temperature=1.0, top_p=0.9)
_WINDOW = 32
_PLENTY = 1 << 20


class Tokens:
    """Random token ids, the same ones for a name in every process, no two prompts alike."""

    def __init__(self, vocab: int, name: str) -> None:
        self._random = np.random.default_rng(zlib.crc32(name.encode()))
        self._vocab = vocab

    def draw(self, count: int) -> list[int]:
        return self._random.integers(0, self._vocab, count).tolist()


class Decodes:
    """`count` requests that decode around a context of `context` tokens, of which the first `shared` are one prefix.

    A round opens a run on every context, takes `steps` steps and cancels the runs, so that every round starts from the
    same contexts. Even requests are greedy in even rounds and draw by top-p 0.9 in odd ones; odd requests the other way
    round. The program consumes each token at once.
    """

    def __init__(self, stand: Stand, tokens: Tokens, count: int, context: int, *, steps: int, shared: int = 0) -> None:
        self._stand = stand
        self._steps = steps
        self._round = 0
        self._length = context - steps // 2
        self.contexts = self._contexts(tokens, count, self._length, shared)
        self.runs: list[int] = []
        for each in self.contexts:
            stand.send(wire.Flush(each, 0))
        stand.settle()

    def _contexts(self, tokens: Tokens, count: int, length: int, shared: int) -> list[int]:
        if not shared:
            return [self._stand.create(tokens.draw(length)) for _ in range(count)]
        root = self._stand.create(tokens.draw(shared))
        self._stand.send(wire.Flush(root, 0))
        self._stand.settle()
        children: list[int] = []
        for _ in range(count):
            child = self._stand.new_id()
            own = wire.Append(child, 0, tokens.draw(length - shared))
            self._stand.send(wire.Fork(child, root, 0, shared, "bench"), own)
            children.append(child)
        return children

    def round(self) -> list[Timing]:
        """The steps of a round; its first step, in which runs are opened, is not among them."""
        self.open()
        self.step()
        timings = [self.step() for _ in range(self._steps)]
        self.close()
        return timings

    def open(self, window: int = _WINDOW) -> None:
        """Open a run on every context."""
        self._round += 1
        for index, context in enumerate(self.contexts):
            run = self._stand.new_id()
            sampler = TOP_P if (index + self._round) % 2 else GREEDY
            self._stand.send(wire.OpenRun(context, 0, run, sampler, run, [], _PLENTY, window))
            self.runs.append(run)

    def consume(self) -> None:
        """The program takes what has come."""
        taken = zip(self.contexts, self.runs, strict=True)
        self._stand.send(*(wire.Consume(context, run, self._stand.received[run]) for context, run in taken))

    def step(self) -> Timing:
        """One step in which every request decodes one token."""
        timing = self._stand.step()
        self.expect(timing, len(self.contexts))
        self.consume()
        return timing

    def close(self) -> None:
        """Cancel the runs: the contexts are as before."""
        for context, run in zip(self.contexts, self.runs, strict=True):
            close = wire.CloseRun(context, run, self._stand.received[run])
            self._stand.send(close, wire.Truncate(context, 0, self._length))
        self.runs.clear()
        self._stand.settle()

    @staticmethod
    def expect(timing: Timing, rows: int) -> None:
        """InternalError if the pass had other rows than the case is about: its time would mean nothing."""
        if timing.rows != rows:
            raise InternalError(f"a pass had {timing.rows} rows instead of {rows}")


class Prompts:
    """New prompts of `length` tokens, each in a context of its own, one token drawn from each."""

    def __init__(self, stand: Stand, tokens: Tokens, length: int) -> None:
        self._stand = stand
        self._tokens = tokens
        self.length = length
        self._sent = 0

    def send(self, prompt: Sequence[int] | None = None) -> int:
        """A prompt (default: a new one) arrives; returns its context."""
        context = self._stand.create(self._tokens.draw(self.length) if prompt is None else prompt)
        run = self._stand.new_id()
        sampler = TOP_P if self._sent % 2 else GREEDY
        self._sent += 1
        self._stand.send(wire.OpenRun(context, 0, run, sampler, run, [], 1, 1))
        return context

    def drop(self, context: int) -> None:
        """Forget it."""
        self._stand.send(wire.Drop(context))
