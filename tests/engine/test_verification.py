"""Guesses of programs, in chains and trees, against plain decoding."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings
from pie_engine.passes.outputs import Sampler
from pie_engine.passes.trees import ancestors, depths, intervals
from pie_engine.simulation.simulated import next_token
from pie_wire.errors import DeviceError
from pie_wire.messages import engine as wire

VOCAB = 97
GREEDY = wire.Output(0)
DRAWN = wire.Output(0, "token", wire.SamplerSpec(1.0), 5)


def prompt(length: int) -> list[int]:
    return [(31 + 7 * i) % VOCAB for i in range(length)]


def continuation(tokens: list[int], count: int, sampler: Sampler | None = None) -> list[int]:
    known = list(tokens)
    for _ in range(count):
        known.append(next_token(known, sampler or Sampler(), len(known), VOCAB))
    return known[len(tokens) :]


def verify(bench, context: int, tokens: list[int], parents: list[int], output: wire.Output = GREEDY) -> list[int]:
    number = bench.send(wire.Verify(context, 0, tokens, parents, output))
    bench.settle()
    return [slot.token for slot in bench.runner.outputs[number]]


def goes_on_like(bench, context: int, known: list[int]) -> bool:
    """The context has exactly these tokens, and KV for them."""
    run = bench.open_run(context, 5)
    bench.settle()
    return bench.runner.tokens[run] == continuation(known, 5)


@pytest.mark.parametrize("length", [1, 4, 5, 9])
@pytest.mark.parametrize("right", [0, 1, 3, 6])
@pytest.mark.parametrize(("output", "sampler"), [(GREEDY, Sampler()), (DRAWN, Sampler(1.0, seed=5))])
def test_a_chain_is_accepted_as_far_as_it_is_drawn(bench, length, right, output, sampler):
    expected = continuation(prompt(length), 7, sampler)
    guesses = [token if i < right else (token + 1) % VOCAB for i, token in enumerate(expected[:6])]
    context = bench.create(prompt(length))
    assert verify(bench, context, guesses, list(range(-1, 5)), output) == expected[: right + 1]
    assert goes_on_like(bench, context, prompt(length) + expected[:right])


def test_the_right_branch_of_a_tree_is_kept_and_the_others_leave_nothing(bench):
    a, b, c, d = continuation(prompt(6), 4)
    #        wrong ---- wrong        a ---- wrong
    #                                 \---- b ---- c
    tokens = [90, 91, a, 92, b, 93, c]
    parents = [-1, 0, -1, 2, 2, 1, 4]
    context = bench.create(prompt(6))
    before = bench.owned()
    assert verify(bench, context, tokens, parents) == [a, b, c, d]
    assert bench.owned() <= before + 3
    assert verify(bench, context, [], []) == [d]
    assert verify(bench, context, [d], [-1])[0] == d
    assert goes_on_like(bench, context, [*prompt(6), a, b, c, d])


@pytest.mark.parametrize("length", [1, 8, 9, 11])
def test_a_context_that_is_away_with_the_kv_of_its_last_token_takes_guesses(benches, length):
    expected = continuation(prompt(length), 6)
    bench = benches(pages=16, swap_pages=16)
    context = bench.create(prompt(12))
    bench.send(wire.Flush(context, 0), wire.Truncate(context, 0, length), wire.Suspend(context, 0))
    bench.settle()
    assert bench.owned() == 0
    assert verify(bench, context, expected[:5], list(range(-1, 4))) == expected
    assert goes_on_like(bench, context, prompt(length) + expected[:5])


def test_a_fork_keeps_what_it_had_while_its_parent_verifies(bench):
    expected = continuation(prompt(6), 3)
    context = bench.create(prompt(6))
    bench.send(wire.Flush(context, 0))
    bench.settle()
    bench.contexts += 1
    bench.send(wire.Fork(bench.contexts, context, 0, 6, "p"))
    assert verify(bench, context, [90, *expected[:2]], [-1, -1, 1]) == expected
    assert goes_on_like(bench, bench.contexts, prompt(6))
    assert goes_on_like(bench, context, prompt(6) + expected[:2])


def test_a_failed_pass_leaves_the_context_as_it_was(bench):
    context = bench.create(prompt(6))
    bench.failing = RuntimeError("boom")
    number = bench.send(wire.Verify(context, 0, [1, 2], [-1, 0], GREEDY))
    bench.settle()
    assert bench.runner.failed[number].code == DeviceError.code
    run = bench.open_run(context, 5, generation=1)
    bench.settle()
    assert bench.runner.tokens[run] == continuation(prompt(6), 5)


@pytest.mark.parametrize(
    ("tokens", "parents", "output", "code"),
    [
        ([VOCAB], [-1], GREEDY, "bad_field"),
        ([1, 2], [-1], GREEDY, "bad_field"),
        ([1, 2], [-1, 1], GREEDY, "bad_field"),
        ([1, 2], [-2, 0], GREEDY, "bad_field"),
        ([1] * 300, [-1] * 300, GREEDY, "too_large"),
        ([1], [-1], wire.Output(0, "logits"), "bad_field"),
        ([1], [-1], wire.Output(0, "token", wire.SamplerSpec(float("nan"))), "bad_field"),
    ],
)
def test_what_is_no_tree_is_refused(bench, tokens, parents, output, code):
    context = bench.create(prompt(6))
    number = bench.send(wire.Verify(context, 0, tokens, parents, output))
    bench.settle()
    assert bench.runner.failed[number].code == code


def test_an_empty_context_has_nothing_to_follow(bench):
    number = bench.send(wire.Verify(bench.create(), 0, [1], [-1], GREEDY))
    bench.settle()
    assert bench.runner.failed[number].code == "bad_request"


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), length=st.integers(1, 20), chunk=st.sampled_from([3, 8, 2048]))
def test_any_tree_gives_what_plain_decoding_gives(benches, data, length, chunk):
    bench = benches(max_rows=chunk)
    sampler = Sampler(1.0, seed=5)
    known = prompt(length)
    context = bench.create(known)
    for _ in range(3):
        expected = continuation(known, 12, sampler)
        count = data.draw(st.integers(0, 10))
        parents = [data.draw(st.integers(-1, i - 1)) for i in range(count)]
        level = depths(parents)
        tokens = [expected[level[i]] if data.draw(st.booleans()) else 90 + i % 7 for i in range(count)]
        # What plain decoding would accept: at every depth a child of the path with the drawn token.
        path, at = 0, -1
        while True:
            child = next((i for i in range(count) if parents[i] == at and tokens[i] == expected[path]), None)
            if child is None:
                break
            path, at = path + 1, child
        assert verify(bench, context, tokens, parents, DRAWN) == expected[: path + 1]
        known = known + expected[:path]
    assert goes_on_like(bench, context, known)
    bench.send(wire.CloseRun(context, 1, 0), wire.Drop(context))
    bench.settle()
    assert bench.owned() == 0


@given(parents=st.integers(0, 12).flatmap(lambda n: st.tuples(*(st.integers(-1, i - 1) for i in range(n)))))
def test_rows_of_a_tree_see_their_ancestors_only(parents):
    for guess, (spans, depth) in enumerate(
        zip(intervals(parents, 100, [(0, 3), (5, 100)]), depths(parents), strict=True)
    ):
        slots = [slot for start, end in spans for slot in range(start, end)]
        path = ancestors(parents, guess)
        assert slots == [*range(3), *range(5, 100), *(100 + i for i in path)]
        assert len(path) == depth + 1


@pytest.mark.parametrize(("limits", "most"), [({"max_rows": 100}, 100), ({"step_ms": 1.0}, 64)])
def test_guesses_to_verify_count_as_the_rows_they_are(benches, limits, most):
    bench = benches(pages=512, **limits)
    contexts = [bench.create(prompt(5 + i)) for i in range(6)]
    bench.send(*(wire.Flush(context, 0) for context in contexts))
    bench.settle()
    for context in contexts:
        bench.send(wire.Verify(context, 0, [90] * 30, list(range(-1, 29)), GREEDY))
    sizes = []
    before = bench.device.rows
    while bench.step():
        sizes.append(bench.device.rows - before)
        before = bench.device.rows
    assert len(bench.runner.outputs) == 6
    assert sum(sizes) == 6 * 31
    assert max(sizes) <= most


def test_a_verification_larger_than_a_step_is_served(benches):
    bench = benches(pages=512, max_rows=16)
    run = bench.open_run(bench.create(prompt(3)), 50)
    number = bench.send(wire.Verify(bench.create(prompt(5)), 0, [90] * 30, list(range(-1, 29)), GREEDY))
    bench.settle()
    assert number in bench.runner.outputs
    assert bench.runner.ends[run].reason == "length"


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.sampled_from([8, 12, 16, 32]),
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=5),
    guesses=st.integers(1, 7),
    streams=st.integers(0, 3),
)
def test_no_pass_has_more_rows_than_it_may_with_guesses(benches, rows, lengths, guesses, streams):
    bench = benches(pages=512, max_rows=rows)
    runs = [bench.open_run(bench.create([7, number]), 6) for number in range(streams)]
    wanted = {}
    for index, length in enumerate(lengths):
        known = [(index * 13 + 5 * i) % VOCAB for i in range(length)]
        right = continuation(known, guesses + 1)
        op = wire.Verify(bench.create(known), 0, right[:guesses], list(range(-1, guesses - 1)), GREEDY)
        wanted[bench.send(op)] = right
    widths = []
    execute = bench.device.execute
    bench.device.execute = lambda batch: widths.append(batch.rows) or execute(batch)
    bench.settle(2000)
    assert max(widths) <= rows
    assert {number: [slot.token for slot in slots] for number, slots in bench.runner.outputs.items()} == wanted
    assert all(len(bench.runner.tokens[run]) == 6 for run in runs)
