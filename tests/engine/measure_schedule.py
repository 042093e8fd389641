"""Figures of decisions 077 and 078, with a simulated device and a simulated clock: the same on every machine.

python tests/engine/measure_schedule.py
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from statistics import mean
from typing import TYPE_CHECKING

from pie_engine.passes.batch import Batch
from pie_engine.schedule.fairness import Turns
from pie_engine.schedule.work import Work
from pie_wire.messages import engine as wire

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


def say(line: str) -> None:
    """Print it."""
    sys.stdout.write(line + "\n")


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


def pressure(make: MakeBench) -> None:
    """32 conversations of 512 + 64 tokens in a pool for half of them, 16-token pages."""
    say("working set twice the pool: 32 streams of 512 + 64 tokens, 576 pages of 16")
    say(f"  {'swap pages':>10} {'ended':>6} {'evictions':>10} {'recomputed':>11} {'moved':>6} {'seconds':>8}")
    for swap in (0, 192, 2048):
        clocked = Clocked(make, pages=576, page_size=16, swap_pages=swap)
        bench = clocked.bench
        for number in range(32):
            bench.open_run(bench.create(tokens(512, number)), 64)
        for _ in range(40):
            clocked.step()
        # Conversations that wait for their programs meanwhile: the older half pauses and comes back.
        for context in range(1, 17):
            bench.send(wire.Idle(context, True))
        for _ in range(60):
            clocked.step()
        for context in range(1, 17):
            bench.send(wire.Idle(context, False))
        clocked.settle()
        stats = bench.core.stats()
        ended = sum(1 for end in bench.runner.ends.values() if end.reason == "length")
        say(
            f"  {swap:>10} {ended:>4}/32 {stats['evictions']:>10} {stats['recomputed']:>11} {stats['moved']:>6}"
            f" {bench.now:>8.1f}"
        )


def fair_prompts(make: MakeBench) -> None:
    """64 prompts of 512 tokens, and one of 20 that comes a second later."""
    say("64 prompts of 512 tokens at once, one of 20 tokens a second later: seconds to the first token")
    say(f"  {'order':>14} {'newcomer':>9} {'mean':>6} {'last':>6} {'longest gap':>12}")
    for name in ("arrival", "shortest first"):
        clocked = Clocked(make, pages=8192, page_size=16)
        bench = clocked.bench
        turns: Turns = bench.core._scheduler._prompts._turns
        if name == "arrival":
            turns.order = by_arrival  # type: ignore[method-assign, assignment]
        runs = [bench.open_run(bench.create(tokens(512, number)), 32) for number in range(64)]
        while bench.now < 1.0:
            clocked.step()
        came = bench.now
        newcomer = bench.open_run(bench.create(tokens(20, 80)), 8)
        clocked.settle()
        first = [clocked.first[run] for run in runs]
        say(
            f"  {name:>14} {clocked.first[newcomer] - came:>9.2f} {mean(first):>6.1f} {max(first):>6.1f}"
            f" {max(clocked.gaps):>12.3f}"
        )


def arrive(bench: Bench, due: dict[int, float], asked: dict[int, int], left: dict[int, int]) -> None:
    """Programs whose time has come ask for their next pass."""
    for context in [c for c, at in due.items() if at <= bench.now]:
        del due[context]
        if left[context]:
            left[context] -= 1
            asked[bench.send(wire.Forward(context, 0, [1], [wire.Output(0)]))] = context


def lockstep(make: MakeBench) -> None:
    """16 programs that come back 0.05 to 0.7 ms after their answers."""
    say("16 lockstep programs, back 0.05 to 0.7 ms after each answer, 400 passes each")
    say(f"  {'wait':>6} {'rows a pass':>12} {'seconds':>8}")
    for waits in (False, True):
        clocked = Clocked(make, pages=512, page_size=16)
        bench, chance = clocked.bench, random.Random(4)
        contexts = [bench.create(tokens(16, number)) for number in range(16)]
        bench.send(*[wire.Flush(context, 0) for context in contexts])
        clocked.settle()
        due = dict.fromkeys(contexts, 0.0)
        asked: dict[int, int] = {}
        left = dict.fromkeys(contexts, 400)
        passes, rows, began = bench.device.passes, bench.device.rows, bench.now

        def arrive(
            bench: Bench = bench,
            due: dict[int, float] = due,
            asked: dict[int, int] = asked,
            left: dict[int, int] = left,
        ) -> None:
            for context in [c for c, at in due.items() if at <= bench.now]:
                del due[context]
                if left[context]:
                    left[context] -= 1
                    asked[bench.send(wire.Forward(context, 0, [1], [wire.Output(0)]))] = context

        while due or asked:
            arrive()
            bench.core.apply()
            while waits and bench.core.patience() > 0 and due:
                bench.now = min(*due.values(), bench.now + bench.core.patience())
                arrive(bench, due, asked, left)
                bench.core.apply()
            if not clocked.step() and due:
                bench.now = max(bench.now, min(due.values()))
            for number in [n for n in asked if n in bench.runner.outputs]:
                due[asked.pop(number)] = bench.now + chance.uniform(0.00005, 0.0007)
        count = (bench.device.rows - rows) / (bench.device.passes - passes)
        say(f"  {'1 ms' if waits else 'none':>6} {count:>12.1f} {bench.now - began:>8.1f}")


if __name__ == "__main__":
    from conftest import make_bench

    pressure(make_bench)
    fair_prompts(make_bench)
    lockstep(make_bench)
