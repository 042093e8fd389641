"""What it costs that programs are programs: generations through client, gateway, runner and engine, over the same
driven at the engine itself, in turns on one machine.

A stream's pace is (last - first token) / (tokens - 1); launch and prefill are not in it. Beside it, the processor time
of each process per token says where the difference goes.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from pie_wire.errors import InternalError, Unavailable, Unsupported
from pie_zmq import AsyncClient

from pie_bench.engine import model_folder
from pie_bench.stack import stack

TOKENS = 64
STREAMS = (1, 16, 64)
_PROMPT_WORDS = 15
_WORDS = ("time", "year", "people", "way", "day", "man", "thing", "life", "child", "world", "state", "family", "group")
_READY_SECONDS = 180.0
_BOUNDS = {"stream": (8.0, 3.0), "send": (8.0, 3.0), "lockstep": (15.0, 6.0)}
_LAUNCHES = 1000
_LAUNCH_BOUNDS = {"tiny": (1.0, 0.5), "quickjs": (5.0, 2.5), "python": (5.0, 2.5)}
LAUNCHED = tuple(_LAUNCH_BOUNDS)
"""Guests that `launches` knows."""


_SAME_MOMENT = 0.0005
"""Messages that come closer than this travelled together: the first ones of a stream count as one arrival."""


class Tax:
    """A stack and an engine beside it, both with the model loaded; one idles while the other works."""

    def __init__(self, client: AsyncClient, engine: subprocess.Popen[str], pids: Mapping[str, int]) -> None:
        self._client = client
        self._engine = engine
        self._pids = pids
        self._round = 0

    async def round(self, program: str, streams: int, mode: str) -> dict[str, float]:
        """One turn of each: `stack_ms` and `engine_ms` a token, and microseconds per token of each process."""
        direct = await asyncio.to_thread(self._direct, streams, mode == "lockstep")
        before = {name: _cpu_seconds(pid) for name, pid in self._pids.items()}
        self._round += 1
        paces = await asyncio.gather(*(self._stream(program, number, mode) for number in range(streams)))
        spent = {name: _cpu_seconds(pid) - before[name] for name, pid in self._pids.items()}
        figures = {name: seconds / (streams * TOKENS) * 1e6 for name, seconds in spent.items()}
        return figures | {
            "stack_ms": statistics.median(paces) * 1000,
            "engine_ms": direct["ms_per_token"],
            "engine alone": direct["engine_us_per_token"],
        }

    def _direct(self, streams: int, lockstep: bool) -> dict[str, float]:
        asked = {"streams": streams, "prompt": _PROMPT_WORDS + 1, "tokens": TOKENS, "lockstep": lockstep}
        if self._engine.stdin is None or self._engine.stdout is None:
            raise InternalError("the engine of the benchmark has no pipes")
        self._engine.stdin.write(json.dumps(asked) + "\n")
        self._engine.stdin.flush()
        answer = self._engine.stdout.readline()
        if not answer:
            raise InternalError("the engine of the benchmark ended; its last words are above")
        return json.loads(answer)

    async def _stream(self, program: str, number: int, mode: str) -> float:
        words = [
            _WORDS[(number * 7 + self._round * 3 + at * (number + 1)) % len(_WORDS)] for at in range(_PROMPT_WORDS)
        ]
        given = {
            "prompt": " ".join([str(self._round * 100 + number), *words]),
            "max_tokens": TOKENS,
            "mode": mode,
        }
        process = await self._client.launch(program, given, on_disconnect="terminate")
        times = [time.perf_counter() async for event in process.events() if event.kind == "message"]
        await process.result()
        if len(times) != TOKENS and (mode != "send" or len(times) < TOKENS // 2):  # what has no text is not sent there
            raise InternalError(f"a stream had {len(times)} messages instead of {TOKENS}")
        early = sum(1 for each in times if each - times[0] < _SAME_MOMENT)
        return (times[-1] - times[0]) / max(1, TOKENS - early)


async def tax(model: str, rounds: int, progress: Callable[[str], None]) -> list[dict[str, Any]]:
    """Figures `tax-stream-percent.N`, `tax-send-percent.N` and `tax-lockstep-percent.N`."""
    samples: dict[tuple[str, int], list[dict[str, float]]] = {}
    source = files("pie_bench").joinpath("inferlets", "complete.py").read_bytes()
    with _direct_engine(model) as engine, stack(model, {"PIE_RUNNER_CAPACITY": "1024"}) as endpoint:
        async with _client(endpoint) as client:
            pids = await _pids(client)
            program = f"sha256:{await client.upload(source)}"
            bench = Tax(client, engine, pids)
            await bench.round(program, 1, "stream")
            for number in range(rounds):
                for streams in STREAMS:
                    for mode in _BOUNDS:
                        progress(f"round {number + 1} of {rounds}: {mode}, {streams} streams")
                        taken = await bench.round(program, streams, mode)
                        samples.setdefault((mode, streams), []).append(taken)
    return [_figure(mode, streams, taken) for (mode, streams), taken in samples.items()]


async def launches(
    names: list[str], model: str, rounds: int, progress: Callable[[str], None]
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Figures `launch-1000-s.G`: seconds from the first of a thousand launches until all have made a call and ended.
    Beside them, by guest, why there is no figure: its toolchain is missing."""
    samples: dict[str, list[float]] = {}
    missing: dict[str, str] = {}
    with stack(model, {"PIE_RUNNER_CAPACITY": "1024"}) as endpoint:
        async with _client(endpoint) as client:
            programs: dict[str, tuple[str, dict[str, Any], Any]] = {}
            for name in names:
                try:
                    programs[name] = await _install(client, name)
                except Unsupported as exc:
                    missing[name] = exc.message
            for number in range(rounds + 1):
                for name, (program, options, given) in programs.items():
                    progress(f"round {number} of {rounds}: {_LAUNCHES} launches, {name}")
                    count = _LAUNCHES if number else 10  # first a few, for compiled code and caches

                    async def one(
                        program: str = program, given: Any = given, options: dict[str, Any] = options
                    ) -> None:
                        await (await client.launch(program, given, **options)).result()

                    began = time.perf_counter()
                    await asyncio.gather(*(one() for _ in range(count)))
                    if number:
                        samples.setdefault(name, []).append(time.perf_counter() - began)
    figures: list[dict[str, Any]] = []
    for name, taken in samples.items():
        must, wanted = _LAUNCH_BOUNDS[name]
        note = f"{_LAUNCHES} launches through client, gateway and one runner, until the result of the last"
        figures.append(_entry(f"launch-1000-s.{name}", "s", taken, must, wanted, note))
    return figures, missing


async def _install(client: AsyncClient, name: str) -> tuple[str, dict[str, Any], Any]:
    """(program, options of its launch, input) for one call of the host. Raises Unsupported without its toolchain."""
    pipe = asyncio.subprocess.PIPE
    done = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pie_runner.bench", "guest", name, stdout=pipe, stderr=pipe
    )
    data, said = await done.communicate()
    if done.returncode == os.EX_UNAVAILABLE:
        raise Unsupported(said.decode(errors="replace").strip())
    if done.returncode != 0:
        raise InternalError(f"the guest {name} was not made: {said.decode(errors='replace').strip()}")
    program = f"sha256:{await client.upload(data)}"
    if name == "python":
        return program, {"kind": "python"}, {"calls": 1, "waits": 0}
    return program, {"kind": "component"}, "n1" if name == "tiny" else {"calls": 1, "waits": 0}


def _figure(mode: str, streams: int, taken: list[dict[str, float]]) -> dict[str, Any]:
    percent = [(each["stack_ms"] / each["engine_ms"] - 1) * 100 for each in taken]
    must, wanted = _BOUNDS[mode]
    means = {name: statistics.median(each[name] for each in taken) for name in taken[0]}
    parts = ", ".join(f"{name} {value:.0f}" for name, value in means.items() if not name.endswith("_ms"))
    paces = f"{means['stack_ms']:.2f} ms a token instead of {means['engine_ms']:.2f}"
    entry = _entry(f"tax-{mode}-percent.{streams}", "%", percent, must, wanted, f"{paces}; us of CPU a token: {parts}")
    return entry | {"direct_ms": means["engine_ms"], "stack_ms": means["stack_ms"]}


def _entry(name: str, unit: str, samples: list[float], must: float, wanted: float, note: str) -> dict[str, Any]:
    return {"name": name, "unit": unit, "samples": samples, "must": must, "wanted": wanted, "note": note}


@asynccontextmanager
async def _client(endpoint: str) -> AsyncGenerator[AsyncClient]:
    """A client of a stack, once that has its model."""
    deadline = time.monotonic() + _READY_SECONDS
    async with AsyncClient(endpoint, timeout=60.0) as client:
        while True:
            status = await client.status()
            if status.models and any(member.kind == "runner" for member in status.members):
                break
            if time.monotonic() > deadline:
                raise Unavailable("the stack of the benchmark has no model")
            await asyncio.sleep(0.2)
        yield client


async def _pids(client: AsyncClient) -> dict[str, int]:
    members = (await client.status()).members
    return {"client": os.getpid()} | {member.kind: member.pid for member in members if member.pid}


def _cpu_seconds(pid: int) -> float:
    """Processor time of a process and its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def _direct_engine(model: str) -> Generator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "pie_engine.bench", "driven", "--model", str(model_folder(model))]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        if process.stdout is None or not process.stdout.readline():
            raise InternalError("the engine of the benchmark did not start; its last words are above")
        yield process
    finally:
        process.terminate()
        process.wait()
