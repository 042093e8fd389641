"""Plain `generate` of transformers beside the engine: the same prompts, greedy, in turn."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pie_wire.errors import InternalError
from pie_wire.messages import engine as wire

from pie_engine.bench.stand import Stand
from pie_engine.bench.traffic import GREEDY, Tokens
from pie_engine.models.plain_generate import PlainGenerate

_PROMPT = 128
_NEW = 64
_BATCHES = (1, 16)


@dataclass(frozen=True)
class Rival:
    """Medians over rounds of the time from the prompts to their last tokens. `ratio` is transformers over the engine;
    `threads` are those of transformers: the number with which it was fastest."""

    name: str
    engine_ms: float
    transformers_ms: float
    ratio: float
    engine_tokens_per_s: float
    transformers_tokens_per_s: float
    threads: int


def compare(stand: Stand, folder: Path, rounds: int) -> Iterator[Rival]:
    """One comparison per batch size."""
    generate = stand.on_device_thread(PlainGenerate, folder, _NEW)
    tokens = Tokens(stand.model.info.vocab_size, "rival")
    for batch in _BATCHES:
        stand.on_device_thread(generate.choose_threads, _prompts(tokens, batch))
        _engine_ms(stand, _prompts(tokens, batch))
        ours: list[float] = []
        theirs: list[float] = []
        for _ in range(rounds):
            prompts = _prompts(tokens, batch)
            ours.append(_engine_ms(stand, prompts))
            theirs.append(stand.on_device_thread(generate.milliseconds, prompts))
        engine, plain = statistics.median(ours), statistics.median(theirs)
        yield Rival(
            name=f"generate-b{batch}",
            engine_ms=round(engine, 2),
            transformers_ms=round(plain, 2),
            ratio=round(plain / engine, 3),
            engine_tokens_per_s=round(batch * _NEW / engine * 1000.0, 1),
            transformers_tokens_per_s=round(batch * _NEW / plain * 1000.0, 1),
            threads=generate.threads,
        )


def _prompts(tokens: Tokens, count: int) -> list[list[int]]:
    return [tokens.draw(_PROMPT) for _ in range(count)]


def _engine_ms(stand: Stand, prompts: Sequence[Sequence[int]]) -> float:
    """The same work as a run per prompt; the time of the engine's steps."""
    contexts = [stand.create(prompt) for prompt in prompts]
    runs = [stand.new_id() for _ in contexts]
    for context, run in zip(contexts, runs, strict=True):
        stand.send(wire.OpenRun(context, 0, run, GREEDY, 0, [], _NEW, _NEW))
    took = 0.0
    while not stand.ended.issuperset(runs):
        timing = stand.step()
        if not timing.rows:
            raise InternalError("the engine had nothing to do before its runs had ended")
        took += timing.total
    if any(stand.received[run] != _NEW for run in runs):
        raise InternalError(f"a run ended before its {_NEW} tokens")
    stand.send(*(wire.Drop(context) for context in contexts))
    stand.settle()
    return took
