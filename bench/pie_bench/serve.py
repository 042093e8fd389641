"""Serving: 1, 16 and 64 concurrent streams through client, gateway, runner and engine. Prefill is part of it.

Every stream has its own random prompt, so that no KV is shared, and each repetition other prompts than the one before.
A stream's time per output token is (last token - first token) / (tokens - 1) as its client sees them; throughput is all
output tokens over the time from the first launch to the last token.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files

from pie_wire.errors import InternalError, Unavailable
from pie_zmq import AsyncClient

from pie_bench.report import Case, Report


@dataclass(frozen=True)
class Workload:
    """Tokens per stream, repetitions per case, and the numbers of concurrent streams."""

    prompt_tokens: int = 128
    new_tokens: int = 64
    repetitions: int = 5
    streams: tuple[int, ...] = (1, 16, 64)


@dataclass(frozen=True)
class Stream:
    """When the tokens of one stream arrived, in seconds since its launch was sent; steps may carry several."""

    first: float
    last: float
    tokens: int


async def measure(endpoint: str, workload: Workload, progress: Callable[[str], None]) -> Report:
    """Run the workload against a stack that is up.

    Raises:
        Unavailable: no stack, or no model. PieError: a stream failed; a benchmark of failures would mean nothing.
    """
    seeds = itertools.count(int(time.time() * 1000) % (1 << 40))
    samples: dict[int, list[tuple[float, list[Stream]]]] = {n: [] for n in workload.streams}
    async with AsyncClient(endpoint) as client:
        status = await client.status()
        if not status.models:
            raise Unavailable("no engine serves a model yet: see `pie status`")
        source = files("pie_bench").joinpath("inferlets", "stream.py").read_bytes()
        program = f"sha256:{await client.upload(source)}"
        await _round(client, program, workload, 1, seeds)
        for number in range(workload.repetitions):  # interleaved, so that a busy moment of the machine meets every case
            for streams in workload.streams:
                progress(f"round {number + 1} of {workload.repetitions}: {streams} streams")
                samples[streams].append(await _round(client, program, workload, streams, seeds))
    model = status.models[0]
    setup: dict[str, str | int | float] = {
        "model": model.name,
        "dtype": model.dtype,
        "backend": model.backend,
        "prompt_tokens": workload.prompt_tokens,
        "new_tokens": workload.new_tokens,
        "repetitions": workload.repetitions,
        "runners": sum(1 for m in status.members if m.kind == "runner"),
    }
    return Report("serve", list(_cases(samples)), setup)


async def _round(
    client: AsyncClient, program: str, workload: Workload, streams: int, seeds: itertools.count[int]
) -> tuple[float, list[Stream]]:
    """(seconds from the first launch to the last token, what each stream saw)."""
    began = time.perf_counter()
    done = await asyncio.gather(*(_stream(client, program, workload, next(seeds)) for _ in range(streams)))
    return time.perf_counter() - began, list(done)


async def _stream(client: AsyncClient, program: str, workload: Workload, seed: int) -> Stream:
    given = {"seed": seed, "prompt_tokens": workload.prompt_tokens, "new_tokens": workload.new_tokens}
    began = time.perf_counter()
    process = await client.launch(program, given, on_disconnect="terminate")
    first = last = 0.0
    tokens = 0
    async for event in process.events():
        if event.kind == "message":
            last = time.perf_counter() - began
            first = first or last
            tokens += int(event.text)
    await process.result()
    if tokens != workload.new_tokens:
        raise InternalError(f"a stream produced {tokens} tokens instead of {workload.new_tokens}")
    return Stream(first, last, tokens)


def _cases(samples: dict[int, list[tuple[float, list[Stream]]]]) -> list[Case]:
    cases: list[Case] = []
    for streams, rounds in samples.items():
        first = [statistics.median(s.first for s in each) * 1000 for _, each in rounds]
        if streams == 1:
            gaps = [(each[0].last - each[0].first) / (each[0].tokens - 1) * 1000 for _, each in rounds]
            cases.append(_median("stream-1-tpot-ms", "ms", gaps))
        else:
            rates = [sum(s.tokens for s in each) / seconds for seconds, each in rounds]
            cases.append(_median(f"stream-{streams}-tok-s", "tok/s", rates))
        cases.append(_median(f"stream-{streams}-ttft-ms", "ms", first))
    return cases


def _median(name: str, unit: str, values: list[float]) -> Case:
    return Case(name, round(statistics.median(values), 2), unit, [round(v, 2) for v in values])
