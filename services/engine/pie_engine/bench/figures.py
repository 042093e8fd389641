"""Figures beside the table: what single operations of the engine cost."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence

from pie_wire.messages import engine as wire

from pie_engine.bench.adapted import adapter_figures
from pie_engine.bench.attending import attention_figures
from pie_engine.bench.figure import Figure
from pie_engine.bench.guessing import guessing_figures
from pie_engine.bench.sampling import sampler_ms
from pie_engine.bench.stand import Stand
from pie_engine.bench.swapped import swap_figures
from pie_engine.bench.traffic import Decodes, Prompts, Tokens
from pie_engine.passes.batch import Batch
from pie_engine.passes.device import Result

_CONTEXT = 1024
_REQUESTS = 64
_VOCABULARIES = ((49_152, 3.0), (151_936, 9.0))
"""Of SmolLM2 and Qwen2.5, with the milliseconds that sampling may take."""


def echo(batch: Batch) -> list[Result]:
    """A device that computes nothing: what is left of a step is the core."""
    return [7] * len(batch.outputs)


def core_figures(stand: Stand, rounds: int) -> Iterator[Figure]:
    """Scheduling at 64 requests of 1,024 tokens, fork, cancel: with a device that computes nothing."""
    stand.execute = echo
    tokens = Tokens(stand.model.info.vocab_size, "core")
    decodes = Decodes(stand, tokens, _REQUESTS, _CONTEXT, steps=16)
    timings = [timing for _ in range(rounds) for timing in decodes.round()]
    yield _figure("schedule-b64", [timing.plan for timing in timings], "ms", 0.6)
    yield _figure("core-b64", [timing.total - timing.device for timing in timings], "ms")
    forks = [_fork(stand, decodes.contexts[0]) for _ in range(rounds * 8)]
    yield _figure("fork-1024", forks, "us", 100.0)
    yield _figure("cancel-run", [_cancel(stand, decodes.contexts[0]) for _ in range(rounds * 8)], "us")


def prefix_figures(stand: Stand, rounds: int) -> Iterator[Figure]:
    """A prompt of 1,024 tokens that the cache has, over a decode step at that length."""
    tokens = Tokens(stand.model.info.vocab_size, "prefix")
    decodes = Decodes(stand, tokens, 1, _CONTEXT, steps=4)
    prompts = Prompts(stand, tokens, _CONTEXT)
    known = tokens.draw(_CONTEXT)
    first = prompts.send(known)
    stand.settle()
    prompts.drop(first)
    hits: list[float] = []
    steps: list[float] = []
    for _ in range(rounds):
        steps += [timing.total for timing in decodes.round()]
        for _ in range(4):
            context = prompts.send(known)
            timing = stand.step()
            Decodes.expect(timing, 1)
            hits.append(timing.total)
            prompts.drop(context)
            stand.settle()
    yield _figure("prefix-hit-1024", hits, "ms")
    yield _figure("decode-b1-c1024", steps, "ms")
    yield Figure("prefix-hit-over-decode", statistics.median(hits) / statistics.median(steps), "x", 1.3)


def sampler_figures(stand: Stand, rounds: int) -> Iterator[Figure]:
    """Top-p 0.9 of 64 rows at once, for the vocabularies of SmolLM2 and Qwen2.5."""
    for vocab, must in _VOCABULARIES:
        samples = stand.on_device_thread(sampler_ms, _REQUESTS, vocab, rounds * 4)
        yield _figure(f"sampler-b64-v{vocab}", samples, "ms", must)


GROUPS: Mapping[str, Callable[[Stand, int], Iterator[Figure]]] = {
    "core": core_figures,
    "prefix": prefix_figures,
    "sampler": sampler_figures,
    "attention": attention_figures,
    "adapters": adapter_figures,
    "swap": swap_figures,
    "guessing": guessing_figures,
}
"""What one process measures together."""


def _fork(stand: Stand, parent: int) -> float:
    """Microseconds of carrying out a fork."""
    child = stand.new_id()
    length = _CONTEXT - 16
    stand.send(wire.Fork(child, parent, 0, length, "bench"))
    timing = stand.step()
    stand.send(wire.Drop(child))
    stand.settle()
    return timing.apply * 1000.0


def _cancel(stand: Stand, context: int) -> float:
    """Microseconds of closing a run that is 32 tokens ahead of its program."""
    run = stand.new_id()
    stand.send(wire.OpenRun(context, 0, run, wire.SamplerSpec(), 0, [], 1 << 20, 32))
    stand.settle()
    stand.send(wire.CloseRun(context, run, 0))
    return stand.step().apply * 1000.0


def _figure(name: str, samples: Sequence[float], unit: str, must: float | None = None) -> Figure:
    return Figure(name, round(statistics.median(samples), 4), unit, must)
