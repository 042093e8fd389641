"""Too little memory: requests wait, lose their KV and come back, and all of them end with the right tokens."""

from __future__ import annotations

import random

import pytest
from pie_engine.passes.outputs import Sampler
from pie_engine.simulation.simulated import next_token
from pie_wire.messages import engine as wire
from pie_wire.messages.common import Account

VOCAB = 97


def continuation(tokens, count):
    known = list(tokens)
    for _ in range(count):
        known.append(next_token(known, Sampler(), len(known), VOCAB))
    return known[len(tokens) :]


def prompt(length, start):
    return [(start * 31 + 7 * i) % VOCAB for i in range(length)]


def run_all(bench, count, length, tokens, account=None):
    runs = {}
    for i in range(count):
        runs[bench.open_run(bench.create(prompt(length, i), account), tokens)] = i
    steps = bench.settle(20_000)
    for run, i in runs.items():
        assert bench.runner.tokens[run] == continuation(prompt(length, i), tokens)
    return steps


@pytest.mark.parametrize("count", [4, 8, 20])
def test_working_set_beyond_the_pool_completes(benches, count):
    bench = benches(pages=16)
    run_all(bench, count, 20, 24)
    assert not bench.runner.failed


def test_contexts_as_large_as_the_pool_take_turns(benches):
    bench = benches(pages=8)
    run_all(bench, 5, 20, 12)


def test_idle_contexts_lose_pages_before_requests_do(benches):
    bench = benches(pages=16)
    idle = bench.create(prompt(30, 9))
    bench.send(wire.Flush(idle, 0))
    bench.settle()
    run_all(bench, 2, 20, 10)
    assert bench.core.stats()["evictions"] == 1
    run = bench.open_run(idle, 5)
    bench.settle()
    assert bench.runner.tokens[run] == continuation(prompt(30, 9), 5)


def test_stalled_window_gives_way(benches):
    """A run whose program does not read pins nothing."""
    bench = benches(pages=10)
    stalled = bench.create(prompt(20, 1))
    run = bench.open_run(stalled, 12, window=8)
    bench.settle()
    run_all(bench, 3, 16, 16)
    bench.send(wire.Consume(stalled, run, 8))
    bench.settle()
    assert bench.runner.tokens[run] == continuation(prompt(20, 1), 12)


def test_account_cap_makes_its_own_requests_wait(benches):
    bench = benches(pages=64)
    capped = Account(salt=b"x", page_cap=12)
    peak = 0
    runs = [bench.open_run(bench.create(prompt(20, i), capped), 12) for i in range(6)]
    while bench.step():
        peak = max(peak, bench.owned())
    assert peak <= 12
    for i, run in enumerate(runs):
        assert bench.runner.tokens[run] == continuation(prompt(20, i), 12)


def test_operation_beyond_the_cap_fails_at_once(benches):
    bench = benches(pages=64)
    context = bench.create(None, Account(page_cap=2))
    number = bench.send(wire.Append(context, 0, prompt(9, 1)))
    bench.settle()
    assert bench.runner.failed[number].code == "out_of_memory"


def test_cached_pages_go_before_anything_else(benches):
    bench = benches(pages=16)
    context = bench.create(prompt(40, 3))
    bench.send(wire.Flush(context, 0))
    bench.settle()
    bench.send(wire.Drop(context))
    bench.settle()
    assert bench.core.pool_stats().cached > 0
    run_all(bench, 2, 20, 10)
    assert bench.core.stats()["evictions"] == 0


def test_lockstep_programs_cannot_starve_a_prompt(benches):
    """Many contexts with a pass in every step, and one prompt that needs most of the pool."""
    bench = benches(pages=24)
    contexts = [bench.create(prompt(12, i)) for i in range(6)]
    for context in contexts:
        bench.send(wire.Forward(context, 0, [], []))
    bench.settle()
    large = bench.create(prompt(70, 8))
    run = bench.open_run(large, 2)
    for step in range(600):
        for i, context in enumerate(contexts):
            bench.send(wire.Forward(context, 0, [(step + i) % VOCAB], []), wire.Truncate(context, 0, 12))
        bench.step()
        if run in bench.runner.ends:
            break
    assert bench.runner.tokens[run] == continuation(prompt(70, 8), 2)


def test_shared_partial_page_of_a_full_pool(benches):
    """A context that fills the pool, truncated into a published page, still can write."""
    bench = benches(pages=4)
    context = bench.create(prompt(16, 2))
    bench.send(wire.Forward(context, 0, [], []), wire.Truncate(context, 0, 14), wire.Append(context, 0, [1]))
    run = bench.open_run(context, 1)
    bench.settle()
    assert bench.runner.tokens[run] == continuation([*prompt(14, 2), 1], 1)


def test_a_long_prompt_stalls_nobody(benches):
    """With a steady cost model a decode is in every step while the prompt is computed in chunks."""
    bench = benches(pages=2048, page_size=4, max_rows=64)
    runs = [bench.open_run(bench.create(prompt(4, i)), 200) for i in range(4)]
    for _ in range(3):
        bench.step()
    long = bench.open_run(bench.create(prompt(3000, 7)), 1)
    while long not in bench.runner.ends:
        before = [len(bench.runner.tokens[run]) for run in runs if run not in bench.runner.ends]
        assert bench.step()
        alive = [run for run in runs if run not in bench.runner.ends]
        if len(alive) == len(before):
            assert [len(bench.runner.tokens[run]) for run in alive] == [n + 1 for n in before]


def test_random_load_with_forks_and_cancels(benches):
    chance = random.Random(5)
    bench = benches(pages=20)
    runs = {}
    for i in range(60):
        tokens = prompt(chance.randrange(1, 30), chance.randrange(4))
        context = bench.create(tokens)
        count = chance.randrange(1, 20)
        runs[bench.open_run(context, count)] = (context, tokens, count)
        for _ in range(chance.randrange(3)):
            bench.step()
        if i % 5 == 4:
            run, (other, _, _) = chance.choice(list(runs.items()))
            bench.send(wire.Drop(other))
            del runs[run]
    bench.settle(20_000)
    for run, (_, tokens, count) in runs.items():
        assert bench.runner.tokens[run] == continuation(tokens, count)


def test_a_prompt_advances_however_slow_the_machine(benches):
    """Steps measured as far beyond their time leave no estimate in which a chunk would fit."""
    bench = benches(pages=2048, step_ms=0.001)
    for i in range(4):
        bench.open_run(bench.create(prompt(4, i)), 400)
    for _ in range(8):
        bench.step()
    run = bench.open_run(bench.create(prompt(64, 7)), 1)
    for _ in range(6):
        bench.step()
    assert bench.runner.tokens[run] == continuation(prompt(64, 7), 1)


def test_a_slow_machine_keeps_its_batches(benches):
    """When an empty step takes longer than a step may, taking turns would only multiply what it costs."""
    bench = benches(pages=8192, step_ms=100.0)
    bench.pass_ms = lambda batch: 300.0 + 10.0 * batch.rows
    for i in range(16):
        bench.open_run(bench.create(prompt(4, i)), 900)
    for _ in range(700):
        bench.step()
    passes, rows = bench.device.passes, bench.device.rows
    for _ in range(20):
        bench.step()
    assert (bench.device.rows - rows) / (bench.device.passes - passes) == 16
