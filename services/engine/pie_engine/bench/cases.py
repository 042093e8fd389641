"""The table of `pie bench engine`: what the engine does in a step, over what its linear layers alone would take."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pie_engine.bench.baseline import Gemms, Shapes
from pie_engine.bench.memory import peak_rss_mb
from pie_engine.bench.stand import Stand
from pie_engine.bench.traffic import Decodes, Prompts, Tokens

_STEPS = 8
"""Steps of a decoding round."""


@dataclass(frozen=True)
class Case:
    """`decodes` requests around `context` tokens take one step together, and with them a new prompt of `prompt` tokens
    if there is one. `must` and `wanted` bound the ratio; of a mixed step, that to its two halves taken apart."""

    name: str
    must: float
    wanted: float
    decodes: int = 0
    context: int = 0
    shared: int = 0
    prompt: int = 0

    @property
    def rows(self) -> int:
        return self.decodes + self.prompt

    @property
    def outputs(self) -> int:
        return self.decodes + bool(self.prompt)

    @property
    def is_mixed(self) -> bool:
        return bool(self.decodes and self.prompt)


CASES = (
    Case("decode-b1-c256", 1.1, 0.95, decodes=1, context=256),
    Case("decode-b16-c256", 1.6, 1.35, decodes=16, context=256),
    Case("decode-b64-c256", 1.9, 1.6, decodes=64, context=256),
    Case("decode-b16-c1024", 2.7, 2.2, decodes=16, context=1024),
    Case("decode-b64-c1024", 4.2, 3.2, decodes=64, context=1024),
    Case("decode-b32-shared1024", 2.0, 1.6, decodes=32, context=1056, shared=1024),
    Case("prefill-512", 1.45, 1.25, prompt=512),
    Case("prefill-2048", 1.8, 1.5, prompt=2048),
    Case("mixed-b16-prefill-512", 1.5, 1.1, decodes=16, context=256, prompt=512),
)


@dataclass(frozen=True)
class Measured:
    """A case's figures: medians, with all samples. `tokens_per_s` counts rows, each a token fed.

    `ratio` is `ms_per_step / gemm_ms`; `paired_ratio` is the median over rounds of each round's own ratio, which a
    change of the machine's load during the run moves less. `core_ms` is the part of a step outside the device. For a
    mixed step `apart_ms` is the sum of its two halves in steps of their own, and `over_apart` the ratio to that.
    """

    name: str
    ms_per_step: float
    gemm_ms: float
    ratio: float
    paired_ratio: float
    tokens_per_s: float
    peak_rss_mb: float
    rows: int
    gemm_threads: int
    core_ms: float
    must: float
    wanted: float
    apart_ms: float | None
    over_apart: float | None
    step_samples: list[float]
    gemm_samples: list[float]

    def as_json(self) -> dict[str, Any]:
        """Rounded to what can be told apart."""
        values = {name: value for name, value in asdict(self).items() if value is not None}
        rounded = {name: round(value, 3) for name, value in values.items() if isinstance(value, float)}
        samples = {
            "step_samples": [round(value, 3) for value in self.step_samples],
            "gemm_samples": [round(value, 3) for value in self.gemm_samples],
        }
        return values | rounded | samples


def measure(case: Case, stand: Stand, folder: Path, rounds: int) -> Measured:
    """Rounds of the case, each followed by as many repetitions of its linear layers alone."""
    take = _taker(case, stand)
    take()
    # Before the baseline brings weights of its own.
    peak = peak_rss_mb()
    gemms = stand.on_device_thread(Gemms, Shapes.read(folder), case.rows, case.outputs)
    steps: list[list[float]] = []
    baseline: list[list[float]] = []
    apart: list[float] = []
    core: list[float] = []
    for _ in range(rounds):
        taken = take()
        steps.append(taken.steps)
        core += taken.core
        apart += taken.apart
        baseline.append(stand.on_device_thread(gemms.milliseconds, len(taken.steps)))
    ms, gemm = _median(steps), _median(baseline)
    paired = statistics.median(map(lambda a, b: statistics.median(a) / statistics.median(b), steps, baseline))
    apart_ms = statistics.median(apart) if apart else None
    return Measured(
        name=case.name,
        ms_per_step=ms,
        gemm_ms=gemm,
        ratio=ms / gemm,
        paired_ratio=paired,
        tokens_per_s=case.rows / ms * 1000.0,
        peak_rss_mb=peak,
        rows=case.rows,
        gemm_threads=gemms.threads,
        core_ms=statistics.median(core),
        must=case.must,
        wanted=case.wanted,
        apart_ms=apart_ms,
        over_apart=ms / apart_ms if apart_ms is not None else None,
        step_samples=[value for each in steps for value in each],
        gemm_samples=[value for each in baseline for value in each],
    )


@dataclass(frozen=True, slots=True)
class _Taken:
    """A round: milliseconds of its steps, of their parts outside the device, and of mixed steps' halves."""

    steps: list[float]
    core: list[float]
    apart: list[float]


def _taker(case: Case, stand: Stand) -> Callable[[], _Taken]:
    tokens = Tokens(stand.model.info.vocab_size, case.name)
    prompts = Prompts(stand, tokens, case.prompt)
    if not case.decodes:
        return lambda: _prefill(stand, prompts)
    decodes = Decodes(stand, tokens, case.decodes, case.context, steps=_STEPS, shared=case.shared)
    if case.is_mixed:
        return lambda: _mixed(stand, decodes, prompts)
    return lambda: _decode(decodes)


def _decode(decodes: Decodes) -> _Taken:
    timings = decodes.round()
    return _Taken([t.total for t in timings], [t.total - t.device for t in timings], [])


def _prefill(stand: Stand, prompts: Prompts) -> _Taken:
    context = prompts.send()
    timing = stand.step()
    Decodes.expect(timing, prompts.length)
    prompts.drop(context)
    stand.settle()
    return _Taken([timing.total], [timing.total - timing.device], [])


def _mixed(stand: Stand, decodes: Decodes, prompts: Prompts) -> _Taken:
    """With a window of one token a request decodes only in steps before which its program has consumed."""
    decodes.open(window=1)
    decodes.step()
    alone = decodes.step().total
    first = prompts.send()
    both = stand.step()
    Decodes.expect(both, len(decodes.contexts) + prompts.length)
    second = prompts.send()
    prompt = stand.step()
    Decodes.expect(prompt, prompts.length)
    prompts.drop(first)
    prompts.drop(second)
    decodes.close()
    return _Taken([both.total], [both.total - both.device], [alone + prompt.total])


def _median(rounds: list[list[float]]) -> float:
    return statistics.median(value for each in rounds for value in each)
