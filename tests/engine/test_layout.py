"""Positions and masks of lockstep passes: what a row sees, what stays in the context, what is refused."""

from __future__ import annotations

import pytest
from pie_engine.passes.outputs import Sampler
from pie_engine.simulation.simulated import next_token
from pie_wire.messages import engine as wire
from pie_wire.messages.engine import Mask, Output

VOCAB = 97


def answer(tokens, places=None, position=None):
    where = position if position is not None else (places[-1] + 1 if places else len(tokens))
    return next_token(tokens, Sampler(), where, VOCAB, places)


def ask(*rows):
    return [Output(row) for row in rows]


def tokens_of(bench, number):
    return [slot.token for slot in bench.runner.outputs[number]]


def test_rows_see_what_their_masks_show(bench):
    context = bench.create([5, 6, 7])
    mask = Mask("runs", runs=[[0, 1, 1, 2], [2, 3]])
    number = bench.send(wire.Forward(context, 0, [8, 9], ask(0, 1), [], mask))
    bench.settle()
    assert tokens_of(bench, number) == [answer([5, 7, 8], [0, 2, 3]), answer([7, 8, 9], [2, 3, 4])]


def test_window_and_sink_rows(bench):
    tokens = list(range(20))
    context = bench.create()
    number = bench.send(wire.Forward(context, 0, tokens, ask(19), [], Mask("window", 3, 2)))
    bench.settle()
    assert tokens_of(bench, number) == [answer([0, 1, 17, 18, 19], [0, 1, 17, 18, 19])]


def test_branches_of_a_tree_share_the_stem_and_count_from_their_parent(bench):
    context = bench.create([5, 6])
    mask = Mask("tree", parents=[-1, -1, 0, 1])
    number = bench.send(wire.Forward(context, 0, [10, 20, 11, 21], ask(2, 3), [], mask))
    bench.settle()
    assert tokens_of(bench, number) == [answer([5, 6, 10, 11]), answer([5, 6, 20, 21])]


def test_positions_are_kept_and_counted_on_from(bench):
    context = bench.create([5, 6])
    first = bench.send(wire.Forward(context, 0, [7, 8], ask(1), [10, 30]))
    second = bench.send(wire.Forward(context, 0, [9], ask(0)))
    bench.settle()
    assert tokens_of(bench, first) == [answer([5, 6, 7, 8], [0, 1, 10, 30])]
    assert tokens_of(bench, second) == [answer([5, 6, 7, 8, 9], [0, 1, 10, 30, 31])]


def test_a_run_draws_by_position(bench):
    context = bench.create([5])
    bench.send(wire.Forward(context, 0, [6], [], [40]))
    run = bench.open_run(context, 2, sampler=wire.SamplerSpec(1.0), seed=3)
    bench.settle()
    spec = Sampler(1.0, seed=3)
    first = next_token([5, 6], spec, 41, VOCAB, [0, 40])
    assert bench.runner.tokens[run] == [first, next_token([5, 6, first], spec, 42, VOCAB, [0, 40, 41])]


def test_masks_and_positions_outlive_the_loss_of_their_kv(benches):
    bench = benches(pages=8)
    context = bench.create([1, 2, 3])
    bench.send(wire.Forward(context, 0, [4, 5, 6], [], [7, 8, 9], Mask("window", 2)))
    bench.settle()
    other = bench.open_run(bench.create(list(range(20, 45))), 4)
    bench.settle()
    assert bench.core.stats()["evictions"] == 1
    assert other in bench.runner.ends
    number = bench.send(wire.Forward(context, 0, [], ask(0)))
    again = bench.send(wire.Forward(context, 0, [7], ask(0), [], Mask("runs", runs=[[0, 6, 0, 1]])))
    bench.settle()
    assert tokens_of(bench, number) == [answer([5, 6], [8, 9])]
    assert tokens_of(bench, again) == [answer([1, 2, 3, 4, 5, 6, 7], [0, 1, 2, 7, 8, 9, 10])]


def test_long_masked_passes_are_computed_in_chunks(benches):
    bench = benches(max_rows=16)
    tokens = [i % VOCAB for i in range(100)]
    number = bench.send(wire.Forward(bench.create(), 0, tokens, ask(0, 50, 99), [], Mask("window", 5, 1)))
    assert bench.settle() > 4
    seen = [[0], [0, *range(46, 51)], [0, *range(95, 100)]]
    assert tokens_of(bench, number) == [answer([tokens[i] for i in row], row) for row in seen]


def test_pages_are_shared_only_between_equal_masks_and_positions(bench):
    tokens = list(range(12))
    shapes = [([], Mask()), ([], Mask("window", 3)), (list(range(1, 13)), Mask()), ([], Mask("window", 2))]
    for repeat in range(2):
        before = bench.device.rows
        for positions, mask in shapes:
            context = bench.create([])
            bench.send(wire.Forward(context, 0, tokens, ask(11), positions, mask))
            bench.settle()
        assert bench.device.rows - before == (12 * 4 if repeat == 0 else 4)


def test_the_mask_of_the_last_token_can_be_replaced(bench):
    context = bench.create([5, 6, 7])
    plain = bench.send(wire.Forward(context, 0, [], ask(0)))
    narrow = bench.send(wire.Forward(context, 0, [], ask(0), [], Mask("window", 1)))
    still = bench.send(wire.Forward(context, 0, [], ask(0)))
    wide = bench.send(wire.Forward(context, 0, [], ask(0), [], Mask("runs", runs=[[]])))
    bench.settle()
    assert tokens_of(bench, plain) == tokens_of(bench, wide) == [answer([5, 6, 7])]
    assert tokens_of(bench, narrow) == tokens_of(bench, still) == [answer([7], [2])]


def test_forks_and_truncated_contexts_keep_what_they_keep(bench):
    context = bench.create([1, 2])
    bench.send(wire.Forward(context, 0, [3, 4], [], [5, 6], Mask("window", 2)))
    bench.contexts += 1
    child = bench.contexts
    bench.send(wire.Fork(child, context, 0, 3, "p"), wire.Truncate(context, 0, 2))
    forked = bench.send(wire.Forward(child, 0, [9], ask(0)))
    cut = bench.send(wire.Forward(context, 0, [9], ask(0)))
    bench.settle()
    assert tokens_of(bench, forked) == [answer([1, 2, 3, 9], [0, 1, 5, 6])]
    assert tokens_of(bench, cut) == [answer([1, 2, 9])]


@pytest.mark.parametrize(
    ("tokens", "positions", "mask"),
    [
        ([1, 2], [3], Mask()),
        ([1], [4096], Mask()),
        ([1], [-1], Mask()),
        ([], [3], Mask()),
        ([1, 2], [], Mask("runs", runs=[[0, 4]])),
        ([1], [], Mask("runs", runs=[[0, 9]])),
        ([1], [], Mask("runs", runs=[[4]])),
        ([], [], Mask("tree", parents=[-1])),
        ([1, 97], [], Mask("window", 2)),
        ([1, 2], [7, 9], Mask("tree", parents=[-1, 1])),
    ],
)
def test_bad_layouts_leave_the_context_unharmed(bench, tokens, positions, mask):
    context = bench.create([5, 6, 7])
    number = bench.send(wire.Forward(context, 0, tokens, ask(0), positions, mask))
    bench.settle()
    assert bench.runner.failed[number].code == "bad_field"
    good = bench.send(wire.Forward(context, 1, [8], ask(0)))
    bench.settle()
    assert tokens_of(bench, good) == [answer([5, 6, 7, 8])]


def test_tokens_after_a_high_position_are_refused_where_positions_end(bench):
    context = bench.create([5])
    bench.send(wire.Forward(context, 0, [6], [], [4094]))
    fits = bench.send(wire.Append(context, 0, [7]))
    beyond = bench.send(wire.Append(context, 0, [8]))
    bench.settle()
    assert fits not in bench.runner.failed
    assert bench.runner.failed[beyond].code == "too_large"


@pytest.mark.parametrize("tokens", [[8, 9], []])
def test_a_failed_pass_takes_its_masks_back(bench, tokens):
    context = bench.create([5, 6, 7])
    bench.settle()
    bench.failing = RuntimeError("device")
    mask = Mask("window", 1)
    number = bench.send(wire.Forward(context, 0, tokens, ask(0), [50, 60][: len(tokens)], mask))
    bench.settle()
    assert bench.runner.failed[number].code == "device_error"
    good = bench.send(wire.Forward(context, 1, [8], ask(0)))
    bench.settle()
    assert tokens_of(bench, good) == [answer([5, 6, 7, 8])]
