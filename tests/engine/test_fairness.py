"""Whose turn it is: short prompts, shares of accounts, bounded gaps, and programs that go step by step."""

from __future__ import annotations

import random

import clocked as clock
import hypothesis.strategies as st
import pytest
from clocked import Clocked, by_arrival, tokens
from hypothesis import HealthCheck, given, settings
from pie_wire.messages import engine as wire
from pie_wire.messages.common import Account
from test_pressure import continuation

STEP = 0.1


def test_a_short_prompt_does_not_wait_for_long_ones(benches):
    clocked = Clocked(benches, pages=4096, page_size=16)
    bench = clocked.bench
    for number in range(16):
        bench.open_run(bench.create(tokens(512, number)), 4)
    while bench.now < 0.5:
        clocked.step()
    came = bench.now
    run = bench.open_run(bench.create(tokens(20, 50)), 4)
    while run not in clocked.first:
        clocked.step()
    assert clocked.first[run] - came < 3 * STEP


def test_a_long_prompt_is_not_starved_by_short_ones(benches):
    """A stream of short prompts that alone would fill every step."""
    clocked = Clocked(benches, pages=4096, page_size=16)
    bench = clocked.bench
    for number in range(8):
        bench.open_run(bench.create(tokens(64, number)), 1)
    clocked.step()
    long = bench.open_run(bench.create(tokens(900, 60)), 1)
    for step in range(400):
        for number in range(5):
            bench.open_run(bench.create(tokens(60, 61 + 5 * step + number)), 1)
        clocked.step()
        if long in clocked.first:
            break
    assert long in clocked.first


def test_accounts_share_prompts_by_weight(benches):
    clocked = Clocked(benches, pages=4096, page_size=16)
    bench = clocked.bench
    accounts = Account(salt=b"a", weight=3.0), Account(salt=b"b", weight=1.0)
    runs = [
        [bench.open_run(bench.create(tokens(128, 40 * i + number), account), 1) for number in range(24)]
        for i, account in enumerate(accounts)
    ]
    while len(clocked.first) < 24:
        clocked.step()
    served = [sum(run in clocked.first for run in those) for those in runs]
    assert 2.0 < served[0] / served[1] < 4.5


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1 << 16), streams=st.integers(1, 12), prompts=st.integers(1, 10))
def test_gaps_between_tokens_are_bounded(benches, seed, streams, prompts):
    """Whatever prompts come, a stream gets its next token within a step and a bit."""
    chance = random.Random(seed)
    clocked = Clocked(benches, pages=8192, page_size=16)
    bench = clocked.bench
    # The cost model has seen this machine before.
    warm = bench.open_run(bench.create(tokens(700, 90)), 60)
    clocked.settle()
    assert warm in bench.runner.ends
    clocked.gaps.clear()
    runs = [bench.open_run(bench.create(tokens(chance.randrange(1, 40), i)), 40) for i in range(streams)]
    for number in range(prompts):
        for _ in range(chance.randrange(4)):
            clocked.step()
        runs.append(bench.open_run(bench.create(tokens(chance.randrange(1, 1500), 20 + number)), 2))
    clocked.settle()
    assert set(runs) <= set(bench.runner.ends)
    assert max(clocked.gaps) <= 1.5 * STEP


def test_gaps_are_bounded_beside_passes_that_ask_much_of_every_row(benches, monkeypatch):
    """Probes of whole prompts take longer than their rows do; streams feel a step of it at most."""
    monkeypatch.setattr(clock, "pass_ms", lambda batch: 8.0 + 0.2 * batch.rows + 0.5 * len(batch.outputs))
    clocked = Clocked(benches, pages=8192, page_size=16)
    bench = clocked.bench
    bench.pass_ms = clock.pass_ms
    outputs = [wire.Output(row, kind) for row in range(200) for kind in ("entropy", "entropy", "token")]

    def ask(number: int) -> int:
        return bench.send(wire.Forward(bench.create([number, 1]), 0, tokens(200, number), outputs))

    for number in range(4):
        ask(90 + number)
    clocked.settle()
    clocked.gaps.clear()
    runs = [bench.open_run(bench.create(tokens(30, i)), 60) for i in range(4)]
    asked = [ask(number) for number in range(6)]
    clocked.settle()
    assert all(run in bench.runner.ends for run in runs)
    assert all(len(bench.runner.outputs[number]) == 600 for number in asked)
    assert max(clocked.gaps) <= 1.5 * STEP


def test_who_waits_for_a_producer_takes_over_when_it_is_gone(benches):
    bench = benches(pages=256, max_rows=16)
    shared = [(5 * i) % 97 for i in range(120)]
    first, second = bench.create([*shared, 1]), bench.create([*shared, 2])
    bench.open_run(first, 2)
    run = bench.open_run(second, 2)
    for _ in range(3):
        bench.step()
    rows = bench.device.rows
    bench.send(wire.Drop(first))
    bench.settle()
    assert bench.runner.tokens[run] == continuation([*shared, 2], 2)
    assert bench.device.rows - rows < 121


@pytest.mark.parametrize("order", ["turns", "arrival"])
def test_equal_prompts_are_computed_once_in_any_order(benches, order):
    bench = benches(pages=256, max_rows=32)
    if order == "arrival":
        bench.core._scheduler._prompts._turns.order = by_arrival
    shared = [(5 * i) % 97 for i in range(100)]
    runs = [bench.open_run(bench.create([*shared, number]), 2) for number in range(6)]
    bench.settle()
    assert [bench.runner.tokens[run] for run in runs] == [continuation([*shared, n], 2) for n in range(6)]
    assert bench.device.rows < 100 + 6 * 8


# -- programs that go step by step


@pytest.fixture
def together(bench):
    """Three contexts that were served in the last pass, which took 10 ms, and one with a run."""
    contexts = [bench.create([1, 2, number]) for number in range(3)]
    bench.open_run(bench.create([4]), 1000)
    for context in contexts:
        bench.send(wire.Forward(context, 0, [], []))
    bench.step()
    return contexts


def again(bench, context):
    bench.send(wire.Forward(context, 0, [5], []))
    bench.core.apply()


def test_a_step_waits_for_those_of_the_last_one(bench, together):
    bench.core.apply()
    assert bench.core.patience() == pytest.approx(0.0025)
    for context in together:
        assert bench.core.patience() > 0
        again(bench, context)
    assert bench.core.patience() == 0


def test_no_longer_than_ten_milliseconds_or_a_quarter_of_the_step(bench, together):
    bench.now += 0.0026
    assert bench.core.patience() == 0
    bench.pass_ms = lambda batch: 2.0
    for context in together:
        again(bench, context)
    bench.step()
    assert bench.core.patience() == pytest.approx(0.0005)
    bench.pass_ms = lambda batch: 200.0
    for context in together:
        again(bench, context)
    bench.step()
    assert bench.core.patience() == pytest.approx(0.01)


def test_nobody_who_was_late_is_waited_for(bench, together):
    late, *others = together
    for context in others:
        again(bench, context)
    bench.step()
    again(bench, late)
    for context in others:
        again(bench, context)
    bench.step()
    for context in others:
        again(bench, context)
    assert bench.core.patience() == 0


def test_there_is_no_waiting_when_nobody_else_has_work(bench):
    context = bench.create([1, 2])
    bench.send(wire.Forward(context, 0, [], []))
    bench.step()
    assert bench.core.patience() == 0


def test_a_turn_with_nothing_to_do_makes_nobody_late(bench):
    contexts = [bench.create([1, 2, number]) for number in range(3)]
    for context in contexts:
        bench.send(wire.Forward(context, 0, [], []))
    bench.step()
    assert bench.core.plan() is None
    again(bench, contexts[0])
    assert bench.core.patience() > 0


def test_dropped_and_idle_contexts_are_not_waited_for(bench, together):
    bench.send(wire.Drop(together[0]), wire.Idle(together[1], True))
    again(bench, together[2])
    assert bench.core.patience() == 0
