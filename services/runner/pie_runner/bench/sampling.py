"""What a sampler in guest code costs: a loop of passes with tokens drawn by the program, and with drawn tokens."""

from __future__ import annotations

import statistics
import time

from pie_wire.errors import InternalError

from pie_runner.bench.figure import Figure, median
from pie_runner.bench.local_engine import VOCAB, LocalEngine
from pie_runner.bench.programs import SAMPLERS, Guest, Sampling
from pie_runner.bench.stand import Stand, must_end_well

_STEPS = 500
_SECONDS = 120.0
_BOUNDS = {"tiny": (600, 300), "quickjs": (900, 500), "python": (900, 500)}


def custom_sampler(stand: Stand, name: str, rounds: int) -> list[Figure]:
    """Processor microseconds per token that temperature 0.8, top-p 0.9 and a draw through resident logits take more
    than an ordinary draw, for which this engine computes nothing. Of the row everything is in it: its way from the
    engine, the calls, the arithmetic, the drop."""
    engine = LocalEngine(stand.hub, stand.facilities.engines)
    guest = stand.made(SAMPLERS[name])
    samples: list[float] = []
    drawn: list[float] = []
    for _ in range(rounds + 1):
        ordinary = _seconds(stand, engine, guest, custom=False) / _STEPS * 1e6
        custom = _seconds(stand, engine, guest, custom=True) / _STEPS * 1e6
        samples.append(custom - ordinary)
        drawn.append(ordinary)
    must, wanted = _BOUNDS[name]
    note = f"temperature 0.8, top-p 0.9 and a draw over {VOCAB} random logits, more than a drawn token, which takes "
    note += f"{statistics.median(drawn[1:]):.0f} us; {_STEPS} steps"
    return [median(f"custom-sampler-step-us.{name}", "us", samples[1:], must, wanted, note)]


def _seconds(stand: Stand, engine: LocalEngine, guest: Guest, *, custom: bool) -> float:
    """Of one life's steps, without the way to its first pass."""
    life = stand.launch(guest, Sampling(_STEPS, custom))
    stand.drive()
    began = time.process_time()
    deadline = time.monotonic() + _SECONDS
    while life.ended is None:
        if time.monotonic() > deadline:
            raise InternalError("a program of the benchmark does not get on")
        stand.facilities.engines.flush()
        engine.move()
        stand.drive()
    took = time.process_time() - began
    must_end_well(life)
    stand.facilities.engines.flush()
    engine.move()
    return took
