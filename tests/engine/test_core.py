"""Runs, passes, forks and failures against a dense oracle: the simulated device's own function of all tokens."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from pie_engine.passes.outputs import Sampler
from pie_engine.simulation.simulated import next_token
from pie_wire.messages import engine as wire
from pie_wire.messages.common import Account

VOCAB = 97


def continuation(tokens: Sequence[int], count: int, sampler: Sampler | None = None) -> list[int]:
    """What a model without pages, batches or runs would generate."""
    known = list(tokens)
    for _ in range(count):
        known.append(next_token(known, sampler or Sampler(), len(known), VOCAB))
    return known[len(tokens) :]


def prompt(length: int, start: int = 1) -> list[int]:
    return [(start * 31 + 7 * i) % VOCAB for i in range(length)]


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 8, 17, 40])
def test_run_gives_what_the_model_gives(bench, length):
    context = bench.create(prompt(length))
    run = bench.open_run(context, 12)
    bench.settle()
    assert bench.runner.tokens[run] == continuation(prompt(length), 12)
    assert bench.runner.ends[run].reason == "length"


def test_many_runs_share_passes(bench):
    runs = {bench.open_run(bench.create(prompt(5 + i, i)), 6): i for i in range(8)}
    steps = bench.settle()
    assert steps < 12
    for run, i in runs.items():
        assert bench.runner.tokens[run] == continuation(prompt(5 + i, i), 6)


def test_stop_id_ends_the_run_and_is_not_emitted(bench):
    expected = continuation(prompt(6), 5)
    run = bench.open_run(bench.create(prompt(6)), 100, stop=[expected[4]])
    bench.settle()
    assert bench.runner.tokens[run] == expected[: expected.index(expected[4])]
    assert bench.runner.ends[run].reason == "stop"


def test_window_holds_the_run_until_tokens_are_consumed(bench):
    context = bench.create(prompt(6))
    run = bench.open_run(context, 20, window=4)
    bench.settle()
    assert len(bench.runner.tokens[run]) == 4
    bench.send(wire.Consume(context, run, 3))
    bench.settle()
    assert len(bench.runner.tokens[run]) == 7


@pytest.mark.parametrize("kept", [0, 1, 3, 5, 9])
def test_cancel_leaves_start_and_consumed_tokens(bench, kept):
    context = bench.create(prompt(6))
    run = bench.open_run(context, 9)
    bench.settle()
    expected = continuation(prompt(6), 9)
    bench.send(wire.CloseRun(context, run, kept), wire.Append(context, 0, [5, 6]))
    again = bench.open_run(context, 4)
    bench.settle()
    assert bench.runner.tokens[again] == continuation([*prompt(6), *expected[:kept], 5, 6], 4)
    assert not bench.runner.failed


def test_cancelled_run_reports_waste(bench):
    context = bench.create(prompt(6))
    run = bench.open_run(context, 50, window=8)
    bench.settle()
    bench.send(wire.CloseRun(context, run, 3))
    bench.settle()
    assert bench.runner.ends[run].reason == "cancelled"
    assert bench.runner.ends[run].wasted == 5


def test_close_before_open_has_been_carried_out(bench):
    context = bench.create(prompt(30))
    bench.send(wire.Flush(context, 0))
    run = bench.open_run(context, 5)
    bench.send(wire.CloseRun(context, run, 0), wire.Append(context, 0, [1]))
    last = bench.open_run(context, 2)
    bench.settle()
    assert bench.runner.ends[run].reason == "cancelled"
    assert bench.runner.tokens[last] == continuation([*prompt(30), 1], 2)


def test_lockstep_equals_stream(bench):
    sampler = wire.SamplerSpec(1.0)
    streamed = bench.open_run(bench.create(prompt(9)), 10, sampler=sampler, seed=3)
    context = bench.create(prompt(9))
    tokens: list[int] = []
    fed: list[int] = []
    for _ in range(10):
        number = bench.send(wire.Forward(context, 0, fed, [wire.Output(0, "token", sampler, 3)]))
        bench.settle()
        tokens.append(bench.runner.outputs[number][0].token)
        fed = [tokens[-1]]
    assert tokens == bench.runner.tokens[streamed]


def test_pass_answers_rows_in_the_order_asked(bench):
    context = bench.create(prompt(5))
    fed = [3, 1, 4, 1, 5]
    outputs = [wire.Output(4), wire.Output(0), wire.Output(2, "top", top=3), wire.Output(4, "logits"), wire.Output(2)]
    number = bench.send(wire.Forward(context, 0, fed, outputs))
    bench.settle()
    slots = bench.runner.outputs[number]
    greedy = [next_token([*prompt(5), *fed[: i + 1]], Sampler(), 0, VOCAB) for i in range(5)]
    assert [slots[0].token, slots[1].token, slots[4].token] == [greedy[4], greedy[0], greedy[2]]
    assert slots[2].ids[0] == greedy[2]
    assert len(slots[2].ids) == 3
    assert len(bench.runner.buffers[number][slots[3].buffer]) == 4 * VOCAB


def test_pass_in_chunks_collects_all_rows(benches):
    bench = benches(max_rows=16)
    context = bench.create(prompt(3))
    fed = prompt(60, 2)
    number = bench.send(wire.Forward(context, 0, fed, [wire.Output(i) for i in range(60)]))
    assert bench.settle() >= 4
    expected = [next_token([*prompt(3), *fed[: i + 1]], Sampler(), 0, VOCAB) for i in range(60)]
    assert [slot.token for slot in bench.runner.outputs[number]] == expected


def test_rows_asked_are_computed_even_when_their_kv_is_cached(bench):
    bench.send(wire.Flush(bench.create(prompt(20)), 0))
    bench.settle()
    context = bench.create(prompt(4))
    number = bench.send(wire.Forward(context, 0, prompt(20)[4:], [wire.Output(5), wire.Output(15)]))
    bench.settle()
    expected = [next_token(prompt(20)[:n], Sampler(), 0, VOCAB) for n in (10, 20)]
    assert [slot.token for slot in bench.runner.outputs[number]] == expected


def test_fork_continues_from_the_shared_prefix(bench):
    parent = bench.create(prompt(10))
    bench.send(wire.Flush(parent, 0))
    child = bench.contexts = bench.contexts + 1
    bench.send(
        wire.Fork(child, parent, 0, 10, "p"), wire.Append(child, 0, [1, 2, 3]), wire.Append(parent, 0, [9, 8, 7])
    )
    runs = bench.open_run(parent, 5), bench.open_run(child, 5)
    bench.settle()
    assert bench.runner.tokens[runs[0]] == continuation([*prompt(10), 9, 8, 7], 5)
    assert bench.runner.tokens[runs[1]] == continuation([*prompt(10), 1, 2, 3], 5)


def test_fork_in_mid_run_acts_at_the_consumed_point(bench):
    parent = bench.create(prompt(6))
    run = bench.open_run(parent, 40, window=16)
    bench.settle()
    expected = continuation(prompt(6), 40)
    bench.send(wire.Consume(parent, run, 5))
    child = bench.contexts = bench.contexts + 1
    bench.send(wire.Fork(child, parent, 0, 11, "p"), wire.Append(child, 0, [1]))
    other = bench.open_run(child, 6)
    bench.send(wire.Consume(parent, run, 16))
    bench.settle()
    assert bench.runner.tokens[other] == continuation([*prompt(6), *expected[:5], 1], 6)
    assert bench.runner.tokens[run] == expected[:32]


def test_fork_waits_for_the_parents_pass(bench):
    parent = bench.create(prompt(3))
    bench.send(wire.Forward(parent, 0, prompt(40, 2), []))
    child = bench.contexts = bench.contexts + 1
    bench.send(wire.Fork(child, parent, 0, 43, "p"), wire.Drop(parent))
    run = bench.open_run(child, 3)
    bench.settle()
    assert bench.runner.tokens[run] == continuation([*prompt(3), *prompt(40, 2)], 3)


def test_prefix_is_found_before_prefill(bench):
    first = bench.create(prompt(40))
    bench.send(wire.Flush(first, 0))
    bench.settle()
    rows = bench.device.rows
    run = bench.open_run(bench.create(prompt(40)), 1)
    bench.settle()
    assert bench.device.rows == rows + 4
    assert bench.runner.ends[run].cached_tokens == 36
    assert bench.runner.tokens[run] == continuation(prompt(40), 1)


def test_full_prefix_hit_asks_only_and_writes_nothing(bench):
    first = bench.create(prompt(40))
    bench.send(wire.Forward(first, 0, [], []))
    bench.settle()
    owned = bench.owned()
    run = bench.open_run(bench.create(prompt(40)), 1)
    bench.settle()
    assert bench.owned() == owned
    assert bench.runner.ends[run].cached_tokens == 40
    assert bench.runner.tokens[run] == continuation(prompt(40), 1)


def test_equal_prompts_at_once_are_computed_once(bench):
    runs = [bench.open_run(bench.create(prompt(32)), 2) for _ in range(4)]
    bench.settle()
    assert bench.device.rows < 2 * 32
    assert all(bench.runner.tokens[run] == continuation(prompt(32), 2) for run in runs)


def test_waiter_takes_over_when_the_producer_is_dropped(benches):
    bench = benches(max_rows=16)
    producer = bench.create(prompt(100))
    bench.open_run(producer, 4)
    run = bench.open_run(bench.create(prompt(100)), 4)
    bench.step()
    bench.send(wire.Drop(producer))
    bench.settle()
    assert bench.runner.tokens[run] == continuation(prompt(100), 4)


def test_other_salt_shares_nothing(bench):
    bench.send(wire.Flush(bench.create(prompt(40), Account(salt=b"a")), 0))
    bench.settle()
    run = bench.open_run(bench.create(prompt(40), Account(salt=b"b")), 1)
    bench.settle()
    assert bench.runner.ends[run].cached_tokens == 0


def test_tokens_ahead_of_consumption_are_not_shared(bench):
    context = bench.create(prompt(4))
    run = bench.open_run(context, 24)
    bench.settle()
    known = [*prompt(4), *bench.runner.tokens[run]]
    other = bench.open_run(bench.create(known[:21]), 1)
    bench.settle()
    assert bench.runner.ends[other].cached_tokens == 4
    bench.send(wire.Consume(context, run, 17))
    third = bench.open_run(bench.create(known[:23]), 1)
    bench.settle()
    assert bench.runner.ends[third].cached_tokens == 20


def test_truncate_then_other_tokens(bench):
    context = bench.create(prompt(20))
    bench.send(wire.Flush(context, 0), wire.Truncate(context, 0, 10), wire.Append(context, 0, [1, 2, 3]))
    run = bench.open_run(context, 4)
    bench.settle()
    assert bench.runner.tokens[run] == continuation([*prompt(10), 1, 2, 3], 4)


def test_failed_operation_skips_what_was_sent_behind_it(bench):
    context = bench.create(prompt(5))
    bad = bench.send(wire.Append(context, 0, [VOCAB]))
    behind = bench.send(wire.Append(context, 0, [1]), wire.Flush(context, 0))
    bench.settle()
    assert bench.runner.failed[bad].code == "bad_field"
    assert bench.runner.failed[behind].code == "skipped"
    assert bench.runner.failed[behind].cause == "bad_field"
    generation = bench.runner.generations[context]
    run = bench.open_run(context, 3, generation=generation)
    bench.settle()
    assert bench.runner.tokens[run] == continuation(prompt(5), 3)


def test_dead_id_returns_the_root_cause(bench):
    parent = bench.create(prompt(5))
    fork = bench.send(wire.Fork(100, parent, 0, 6, "p"))
    behind = bench.send(wire.Append(100, 0, [1]))
    grandchild = bench.send(wire.Fork(101, 100, 0, 0, "p"))
    on_it = bench.send(wire.Flush(101, 0))
    bench.send(wire.Drop(100), wire.Drop(101), wire.Drop(101))
    bench.settle()
    codes = [bench.runner.failed[number].code for number in (fork, behind, grandchild, on_it)]
    assert codes == ["bad_field"] * 4
    assert bench.runner.acked == bench.runner.next_op - 1


@pytest.mark.parametrize(
    ("op", "code"),
    [
        (wire.Flush(77, 0), "not_found"),
        (wire.OpenRun(1, 0, 1, wire.SamplerSpec(float("nan")), 0, [], 5, 5), "bad_field"),
        (wire.OpenRun(1, 0, 1, wire.SamplerSpec(1.0, 0.0), 0, [], 5, 5), "bad_field"),
        (wire.OpenRun(1, 0, 1, wire.SamplerSpec(), 0, [], 0, 5), "bad_field"),
        (wire.OpenRun(1, 3, 1, wire.SamplerSpec(), 0, [], 5, 5), "bad_field"),
        (wire.Forward(1, 0, [1], [wire.Output(1)]), "bad_field"),
        (wire.Forward(1, 0, [-1], []), "bad_field"),
        (wire.Forward(1, 0, [1], [wire.Output(0, "top", top=0)]), "bad_field"),
        (wire.Append(1, 0, [1] * 5000), "too_large"),
        (wire.Append(1, 0, [1] * 300), "out_of_memory"),
        (wire.Truncate(1, 0, 6), "bad_field"),
    ],
)
def test_bad_input_is_refused_and_harms_nothing(bench, op, code):
    context = bench.create(prompt(5))
    number = bench.send(op)
    bench.settle()
    assert bench.runner.failed[number].code == code
    generation = bench.runner.generations[context] if op.context == context else 0
    run = bench.open_run(context, 3, generation=generation)
    bench.settle()
    assert bench.runner.tokens[run] == continuation(prompt(5), 3)


def test_empty_context_cannot_generate(bench):
    context = bench.create()
    number = bench.send(wire.OpenRun(context, 0, 1, wire.SamplerSpec(), 0, [], 5, 5))
    bench.settle()
    assert bench.runner.failed[number].code == "bad_request"


def test_run_ends_where_the_context_is_full(benches):
    bench = benches(pages=4)
    run = bench.open_run(bench.create(prompt(10)), 100)
    bench.settle()
    assert bench.runner.tokens[run] == continuation(prompt(10), 6)
    assert bench.runner.ends[run].reason == "length"


def test_device_failure_fails_the_requests_of_the_pass_only(bench):
    hit = bench.create(prompt(6))
    hit_run = bench.open_run(hit, 9, window=4)
    bystander = bench.open_run(bench.create(prompt(7)), 5, window=2)
    bench.settle()
    passing = bench.create(prompt(8))
    bench.send(wire.Consume(hit, hit_run, 4))
    forward = bench.send(wire.Forward(passing, 0, [1, 2], [wire.Output(1)]))
    bench.failing = RuntimeError("the device is on fire")
    bench.settle()
    assert bench.runner.ends[hit_run].reason == "error"
    assert bench.runner.ends[hit_run].error.code == "device_error"
    assert "on fire" in bench.runner.failed[forward].message
    assert bystander not in bench.runner.ends
    bench.send(wire.CloseRun(hit, hit_run, 4))
    runs = bench.open_run(hit, 3), bench.open_run(passing, 3, generation=bench.runner.generations[passing])
    bench.settle()
    assert bench.runner.tokens[runs[0]] == continuation([*prompt(6), *continuation(prompt(6), 4)], 3)
    assert bench.runner.tokens[runs[1]] == continuation(prompt(8), 3)


def test_death_of_a_runner_frees_everything(bench):
    other = bench.add_runner("r1")
    for i in range(5):
        bench.send(
            wire.Create(i, "p", "local", Account()),
            wire.Append(i, 0, prompt(20, i)),
            wire.OpenRun(i, 0, i, wire.SamplerSpec(), 0, [], 50, 50),
            runner=other,
        )
    run = bench.open_run(bench.create(prompt(6)), 10)
    for _ in range(3):
        bench.step()
    bench.remove_runner(other)
    bench.settle()
    bench.send(wire.Drop(1))
    bench.settle()
    assert bench.runner.tokens[run] == continuation(prompt(6), 10)
    assert bench.owned() == 0
    assert bench.core.stats()["contexts"] == 0


def test_drop_in_mid_run_frees_pages(bench):
    context = bench.create(prompt(20))
    run = bench.open_run(context, 50)
    for _ in range(5):
        bench.step()
    bench.send(wire.Drop(context))
    bench.settle()
    assert bench.owned() == 0
    assert bench.runner.ends[run].reason == "cancelled"


def test_consumption_is_acknowledged_with_what_comes_of_the_pass(bench):
    context = bench.create(prompt(6))
    run = bench.open_run(context, 4)
    bench.step()
    consumed = bench.send(wire.Consume(context, run, 1))
    bench.core.apply()
    bench.pump()
    assert bench.runner.acked == consumed - 1
    bench.step()
    assert bench.runner.acked == consumed


def test_consumption_is_acknowledged_when_there_is_no_pass(bench):
    context = bench.create(prompt(6))
    run = bench.open_run(context, 4)
    bench.settle()
    consumed = bench.send(wire.Consume(context, run, 4))
    bench.step()
    assert bench.runner.acked == consumed


def test_what_a_program_may_wait_for_is_acknowledged_before_the_pass(bench):
    context = bench.create(prompt(6))
    run = bench.open_run(context, 4)
    bench.step()
    appended = bench.send(wire.Consume(context, run, 1), wire.Create(99, "p", "local", Account()))
    bench.core.apply()
    bench.pump()
    assert bench.runner.acked == appended


@pytest.mark.parametrize("keeper", ["export", "pin"])
def test_a_run_cannot_be_closed_below_what_was_consumed(bench, keeper):
    """An export or a pin that is still being computed holds those tokens."""
    context, other = bench.create(prompt(6)), bench.create(prompt(30, 2))
    run = bench.open_run(context, 30)
    bench.settle()
    expected = continuation(prompt(6), 30)
    bench.send(wire.Suspend(context, 0))
    bench.settle()
    keep = wire.Export(context, 0) if keeper == "export" else wire.Pin(context, 0, "name", 60.0)
    kept = bench.send(wire.Consume(context, run, 18), keep)
    closed = bench.send(wire.CloseRun(context, run, 0))
    beside = bench.open_run(other, 4)
    bench.settle()
    assert bench.runner.acked >= kept
    assert kept not in bench.runner.failed
    assert bench.runner.failed[closed].code == "bad_field"
    assert bench.runner.tokens[beside] == continuation(prompt(30, 2), 4)
    again = bench.open_run(context, 4, generation=1)
    bench.settle()
    assert bench.runner.tokens[again] == continuation([*prompt(6), *expected[:18]], 4)
