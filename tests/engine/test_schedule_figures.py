"""The figures of decisions 077 and 078. Device and clock are simulated, so that they are the same on every machine."""

from __future__ import annotations

import random
from statistics import mean

import pytest
from clocked import Clocked, by_arrival, tokens
from conftest import Bench
from pie_wire.messages import engine as wire


@pytest.mark.parametrize(
    ("swap_pages", "recomputed", "moved", "seconds"), [(0, 8334, 0, 12.5), (192, 5772, 596, 11.5), (2048, 0, 1620, 9.3)]
)
def test_twice_the_pool(benches, swap_pages, recomputed, moved, seconds):
    """32 streams of 512 + 64 tokens in a pool for half of them; the older half pauses in between."""
    clocked = Clocked(benches, pages=576, page_size=16, swap_pages=swap_pages)
    bench = clocked.bench
    for number in range(32):
        bench.open_run(bench.create(tokens(512, number)), 64)
    for _ in range(40):
        clocked.step()
    bench.send(*(wire.Idle(context, True) for context in range(1, 17)))
    for _ in range(60):
        clocked.step()
    bench.send(*(wire.Idle(context, False) for context in range(1, 17)))
    clocked.settle()
    stats = bench.core.stats()
    assert [end.reason for end in bench.runner.ends.values()] == ["length"] * 32
    assert stats["evictions"] == 32
    assert stats["recomputed"] == pytest.approx(recomputed, rel=0.02)
    assert stats["moved"] == pytest.approx(moved, rel=0.02)
    assert bench.now == pytest.approx(seconds, rel=0.02)


@pytest.mark.parametrize(("order", "newcomer"), [("arrival", 14.5), ("shortest first", 0.10)])
def test_a_newcomer_behind_long_prompts(benches, order, newcomer):
    """64 prompts of 512 tokens, and one of 20 that comes a second later: seconds to their first tokens."""
    clocked = Clocked(benches, pages=8192, page_size=16)
    bench = clocked.bench
    if order == "arrival":
        bench.core._scheduler._prompts._turns.order = by_arrival
    runs = [bench.open_run(bench.create(tokens(512, number)), 32) for number in range(64)]
    while bench.now < 1.0:
        clocked.step()
    came = bench.now
    late = bench.open_run(bench.create(tokens(20, 80)), 8)
    clocked.settle()
    assert clocked.first[late] - came == pytest.approx(newcomer, rel=0.05)
    assert mean(clocked.first[run] for run in runs) == pytest.approx(7.9, rel=0.02)
    assert max(clocked.first[run] for run in runs) == pytest.approx(15.5, rel=0.02)
    assert max(clocked.gaps) == pytest.approx(0.1, rel=0.02)


@pytest.mark.parametrize(("waits", "rows", "seconds"), [(False, 8.0, 9.2), (True, 16.0, 6.3)])
def test_programs_in_lockstep(benches, waits, rows, seconds):
    """16 programs that come back 0.05 to 0.7 ms after their answers, 400 passes each: rows of a pass, and the whole
    time."""
    clocked = Clocked(benches, pages=512, page_size=16)
    bench, chance = clocked.bench, random.Random(4)
    contexts = [bench.create(tokens(16, number)) for number in range(16)]
    bench.send(*[wire.Flush(context, 0) for context in contexts])
    clocked.settle()
    due = dict.fromkeys(contexts, 0.0)
    asked: dict[int, int] = {}
    left = dict.fromkeys(contexts, 400)
    passes, before, began = bench.device.passes, bench.device.rows, bench.now
    while due or asked:
        arrive(bench, due, asked, left)
        while waits and bench.core.patience() > 0 and due:
            bench.now = min(*due.values(), bench.now + bench.core.patience())
            arrive(bench, due, asked, left)
        if not clocked.step() and due:
            bench.now = max(bench.now, min(due.values()))
        for number in [n for n in asked if n in bench.runner.outputs]:
            due[asked.pop(number)] = bench.now + chance.uniform(0.00005, 0.0007)
    assert (bench.device.rows - before) / (bench.device.passes - passes) == pytest.approx(rows, rel=0.02)
    assert bench.now - began == pytest.approx(seconds, rel=0.02)


def arrive(bench: Bench, due: dict[int, float], asked: dict[int, int], left: dict[int, int]) -> None:
    """Programs whose time has come ask for their next pass."""
    for context in [c for c, at in due.items() if at <= bench.now]:
        del due[context]
        if left[context]:
            left[context] -= 1
            asked[bench.send(wire.Forward(context, 0, [1], [wire.Output(0)]))] = context
    bench.core.apply()
