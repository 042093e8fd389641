"""Host calls: one that answers at once, and those that wait for an engine that answers a thousand programs together."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from pie_runner.bench import bare
from pie_runner.bench.echo import EchoLink
from pie_runner.bench.figure import Figure, median
from pie_runner.bench.programs import Work
from pie_runner.bench.stand import Life, Stand, must_end_well

PROGRAMS = 1000
_CALLS = 20_000
_WAITS = 20
_BOUNDS = {"tiny": (12, 8), "quickjs": (24, 18), "python": (25, 16)}
_ZMQ_BOUNDS = {"tiny": (16, 10), "quickjs": (28, 20), "python": (30, 18)}

Answer = Callable[[Sequence[Life]], None]


def host_call(stand: Stand, rounds: int) -> list[Figure]:
    """Microseconds of a call without arguments (clocks.monotonic-now), from the tiny guest and back."""
    guest = stand.guest("tiny")
    samples: list[float] = []
    for _ in range(rounds + 1):
        life = stand.launch(guest, Work(calls=_CALLS))
        began = time.process_time()
        stand.drive()
        samples.append((time.process_time() - began) / _CALLS * 1e6)
        must_end_well(life)
    return [median("host-call-us", "us", samples[1:], 1.5, 0.8, f"{_CALLS} calls of one program")]


def bare_call(_stand: Stand, rounds: int) -> list[Figure]:
    """What the library takes of `blocked_call` of the tiny guest."""
    samples = bare.waits(PROGRAMS, _WAITS, rounds)
    must, wanted = _BOUNDS["tiny"]
    return [median("bare-call-us.tiny", "us", samples, must, wanted, f"the library's part of it; {_note()}")]


def blocked_call(stand: Stand, name: str, rounds: int) -> list[Figure]:
    """Processor microseconds of a wait, its answer and everything between, when a thousand programs wait together."""
    samples = _waits(stand, name, rounds, _answer)
    must, wanted = _BOUNDS[name]
    return [median(f"blocked-call-us.{name}", "us", samples, must, wanted, _note())]


def blocked_call_zmq(stand: Stand, name: str, rounds: int) -> list[Figure]:
    """The same with the answers of an engine in another process: one message there and one back per turn."""
    with EchoLink() as link:
        samples = _waits(stand, name, rounds, link.ask)
    must, wanted = _ZMQ_BOUNDS[name]
    return [median(f"blocked-call-zmq-us.{name}", "us", samples, must, wanted, _note())]


def _answer(parked: Sequence[Life]) -> None:
    for life in parked:
        life.echo.answer()


def _note() -> str:
    return f"processor time of the runner's process; {PROGRAMS} programs, {_WAITS} waits each"


def _waits(stand: Stand, name: str, rounds: int, answer: Answer) -> list[float]:
    guest = stand.guest(name)
    samples: list[float] = []
    for _ in range(rounds + 1):
        lives = [stand.launch(guest, Work(waits=_WAITS + 1)) for _ in range(PROGRAMS)]
        stand.drive()  # every program is at its first wait: launching is not in the figure
        began = time.process_time()
        for _ in range(_WAITS):
            answer(lives)
            stand.drive()
        samples.append((time.process_time() - began) / (_WAITS * PROGRAMS) * 1e6)
        answer(lives)
        stand.drive()
        for life in lives:
            must_end_well(life)
    return samples[1:]
