"""A bench on which passes take the time that they would take on a small machine, whatever this one is doing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from pie_engine.passes.batch import Batch
from pie_engine.schedule.work import Work

if TYPE_CHECKING:
    from conftest import Bench

MakeBench = Callable[..., "Bench"]


def pass_ms(batch: Batch) -> float:
    """A small model on two cores: 8 ms to read the weights, 0.4 ms a row, and a little per slot looked at."""
    load = batch.load()
    return 8.0 + 0.4 * load.rows + 2e-4 * load.slots + 2e-5 * load.area


def tokens(length: int, number: int) -> list[int]:
    """A prompt that no other number begins like."""
    return [(number * 7 + i * (number + 3)) % 97 for i in range(length)]


class Clocked:
    """A bench whose clock goes on by what passes take."""

    def __init__(self, make: MakeBench, **limits: float) -> None:
        self.bench = make(max_context=1 << 16, **limits)
        self.bench.pass_ms = pass_ms
        self.first: dict[int, float] = {}
        self.last: dict[int, float] = {}
        self.gaps: list[float] = []
        self._counts: dict[int, int] = {}

    def step(self) -> bool:
        """One pass; notes when runs got their first and last tokens, and gaps between tokens."""
        execute = self.bench.device.execute

        def timed(batch: Batch) -> list[object]:
            self.bench.now += pass_ms(batch) / 1000
            return execute(batch)

        self.bench.device.execute = timed  # type: ignore[method-assign]
        try:
            self.bench.now -= 0.01
            worked = self.bench.step()
        finally:
            self.bench.device.execute = execute  # type: ignore[method-assign]
        for run, said in self.bench.runner.tokens.items():
            if len(said) > self._counts.get(run, 0):
                self.first.setdefault(run, self.bench.now)
                if run in self.last:
                    self.gaps.append(self.bench.now - self.last[run])
                self.last[run] = self.bench.now
                self._counts[run] = len(said)
        return worked

    def settle(self) -> None:
        """Until nothing is left."""
        while self.step():
            pass


def by_arrival(works: list[Work], _: Callable[[Work], int]) -> Iterator[Work]:
    """What `Turns.order` replaced."""
    return iter(sorted(works, key=lambda work: work.arrival))
