"""Reservation, commitment, release, truncation across page borders, and tokens dropped from inside."""

from __future__ import annotations

import pytest
from pie_engine.passes.outputs import Sampler
from pie_engine.simulation.simulated import next_token
from pie_wire.messages import engine as wire
from pie_wire.messages.common import Account
from pie_wire.messages.engine import Mask, Output

VOCAB = 97
TOKENS = [(3 * i) % VOCAB for i in range(40)]


def answer(tokens, places):
    return next_token(tokens, Sampler(), places[-1] + 1, VOCAB, places)


def ask(bench, context, tokens=(), generation=0, mask=None):
    """What the last row of a pass says."""
    outputs = [Output(max(0, len(tokens) - 1))]
    number = bench.send(wire.Forward(context, generation, list(tokens), outputs, [], mask or Mask()))
    bench.settle()
    assert number not in bench.runner.failed, bench.runner.failed[number]
    return bench.runner.outputs[number][0].token


def refused(bench, op):
    """The code with which an operation fails."""
    number = bench.send(op)
    bench.settle()
    return bench.runner.failed[number].code


# -- tokens dropped from inside


def kept(length, *dropped):
    return [slot for slot in range(length) if not any(start <= slot < stop for start, stop in dropped)]


@pytest.mark.parametrize(("start", "stop"), [(0, 4), (4, 8), (3, 9), (5, 6), (0, 11), (1, 10)])
def test_dropped_tokens_are_seen_by_nobody(bench, start, stop):
    context = bench.create(TOKENS[:12])
    number = bench.send(wire.DropTokens(context, 0, start, stop))
    slots = kept(12, (start, stop))
    assert ask(bench, context) == answer([TOKENS[s] for s in slots], slots)
    assert number in bench.runner.flushed
    more = ask(bench, context, [90, 91])
    assert more == answer([*(TOKENS[s] for s in slots), 90, 91], [*slots, 12, 13])


def test_whole_pages_of_dropped_tokens_are_freed(bench):
    context = bench.create(TOKENS[:21])
    bench.send(wire.Flush(context, 0))
    bench.settle()
    assert bench.owned() == 5
    bench.send(wire.DropTokens(context, 0, 2, 14))
    bench.settle()
    assert bench.owned() == 3
    bench.send(wire.DropTokens(context, 0, 14, 20))
    bench.settle()
    assert bench.owned() == 1
    bench.send(wire.Drop(context))
    bench.settle()
    assert bench.owned() == 0


def test_a_context_that_forgets_outgrows_the_pool(benches):
    bench = benches(pages=8)
    context, length = bench.create(TOKENS[:20]), 20
    for i in range(30):
        bench.send(wire.DropTokens(context, 0, 4, length - 8))
        token = ask(bench, context, [i, i + 1, i + 2, i + 3])
        length += 4
    texts = [*TOKENS[:20], *(i + j for i in range(30) for j in range(4))]
    slots = [*range(4), *range(length - 12, length)]
    assert token == answer([texts[s] for s in slots], slots)
    assert bench.owned() <= 6
    assert bench.core.page_rows()[0].pages == bench.owned()


def test_rows_before_the_drop_keep_what_they_saw(bench):
    """The KV of tokens that stay was made while the dropped ones were seen; a fork has it too."""
    context = bench.create(TOKENS[:12])
    bench.send(wire.Append(context, 0, [50]))
    bench.send(wire.DropTokens(context, 0, 4, 8))
    bench.contexts += 1
    child = bench.contexts
    bench.send(wire.Fork(child, context, 0, 13, "p"))
    slots = kept(13, (4, 8))
    texts = [*TOKENS[:12], 50]
    expected = answer([texts[s] for s in slots], slots)
    assert ask(bench, context) == expected
    assert ask(bench, child) == expected
    assert bench.device.rows <= 12 + 1 + 1


def test_runs_go_on_after_a_drop(bench):
    context = bench.create(TOKENS[:12])
    bench.send(wire.DropTokens(context, 0, 2, 9))
    run = bench.open_run(context, 6)
    bench.settle()
    slots, texts = kept(12, (2, 9)), list(TOKENS[:12])
    for _ in range(6):
        texts.append(answer([texts[s] for s in slots], slots))
        slots.append(len(texts) - 1)
    assert bench.runner.tokens[run] == texts[12:]


def test_cutting_back_behind_a_drop_and_before_it(bench):
    context = bench.create(TOKENS[:20])
    bench.send(wire.DropTokens(context, 0, 4, 8), wire.Truncate(context, 0, 11))
    slots = kept(11, (4, 8))
    assert ask(bench, context) == answer([TOKENS[s] for s in slots], slots)
    bench.send(wire.Truncate(context, 0, 3))
    assert ask(bench, context) == answer(TOKENS[:3], range(3))
    assert not bench.runner.failed


@pytest.mark.parametrize("length", [5, 6, 8])
def test_neither_truncation_nor_fork_ends_in_dropped_tokens(bench, length):
    context = bench.create(TOKENS[:20])
    bench.send(wire.DropTokens(context, 0, 4, 8))
    bench.contexts += 1
    assert refused(bench, wire.Fork(bench.contexts, context, 0, length, "p")) == "bad_request"
    assert refused(bench, wire.Truncate(context, 0, length)) == "bad_request"


def test_a_forgetful_context_is_not_computed_again_but_others_are(benches):
    bench = benches(pages=12)
    forgetful = bench.create(TOKENS[:20])
    bench.send(wire.DropTokens(forgetful, 0, 2, 14))
    bench.settle()
    before = bench.device.rows
    run = bench.open_run(bench.create([9] * 30), 4)
    bench.settle()
    assert bench.runner.ends[run].reason == "length"
    slots = kept(20, (2, 14))
    rows = bench.device.rows
    assert ask(bench, forgetful) == answer([TOKENS[s] for s in slots], slots)
    assert (bench.device.rows - rows, rows - before) == (1, 33)


def test_a_failed_pass_harms_no_forgetful_context(bench):
    context = bench.create(TOKENS[:18])
    bench.send(wire.DropTokens(context, 0, 4, 12))
    bench.contexts += 1
    child = bench.contexts
    bench.send(wire.Fork(child, context, 0, 18, "p"))
    bench.settle()
    bench.failing = RuntimeError("device")
    bench.send(wire.Forward(child, 0, [1], []), wire.Forward(context, 0, [2], []))
    bench.settle()
    slots = kept(18, (4, 12))
    expected = answer([*(TOKENS[s] for s in slots), 7], [*slots, 18])
    assert ask(bench, child, [7], 1) == expected
    assert ask(bench, context, [7], 1) == expected


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (3, 3), (5, 4), (0, 12), (11, 12), (20, 30)])
def test_only_tokens_before_the_last_can_be_dropped(bench, start, stop):
    context = bench.create(TOKENS[:12])
    assert refused(bench, wire.DropTokens(context, 0, start, stop)) == "bad_field"
    assert ask(bench, context, generation=1) == answer(TOKENS[:12], range(12))


def test_dropped_stretches_are_bounded(benches):
    bench = benches(pages=256)
    context = bench.create([i % 97 for i in range(600)])
    for slot in range(1, 513, 2):
        bench.send(wire.DropTokens(context, 0, slot, slot + 1))
        bench.settle()
    assert not bench.runner.failed
    assert refused(bench, wire.DropTokens(context, 0, 520, 521)) == "too_large"
    bench.send(wire.DropTokens(context, 1, 1, 512), wire.DropTokens(context, 1, 520, 521))
    bench.settle()
    assert len(bench.runner.failed) == 1


def test_a_mask_must_not_show_dropped_tokens_alone(bench):
    context = bench.create(TOKENS[:12])
    bench.send(wire.DropTokens(context, 0, 4, 8))
    bad = wire.Forward(context, 0, [1], [Output(0)], [], Mask("runs", runs=[[4, 4]]))
    assert refused(bench, bad) == "bad_field"
    mask = Mask("runs", runs=[[3, 6]])
    assert ask(bench, context, [1], 1, mask) == answer([TOKENS[3], TOKENS[8]], [3, 8])


# -- reserve, commit, release


def test_a_context_with_a_reservation_stays_within_it(bench):
    context = bench.create(TOKENS[:6])
    bench.send(wire.Reserve(context, 0, 1))
    fits = bench.send(wire.Append(context, 0, TOKENS[6:12]))
    assert refused(bench, wire.Forward(context, 0, [1], [])) == "out_of_memory"
    assert fits not in bench.runner.failed
    bench.send(wire.Reserve(context, 1, 1))
    assert ask(bench, context, [1], 1) == answer([*TOKENS[:12], 1], range(13))


def test_a_run_ends_where_the_reservation_does(bench):
    context = bench.create(TOKENS[:6])
    bench.send(wire.Reserve(context, 0, 1))
    run = bench.open_run(context, 50)
    bench.settle()
    assert len(bench.runner.tokens[run]) == 6
    assert bench.runner.ends[run].reason == "length"


def test_reserving_takes_no_page(bench):
    context = bench.create([])
    bench.send(wire.Reserve(context, 0, 60))
    bench.settle()
    assert bench.owned() == 0


@pytest.mark.parametrize(
    ("pages", "cap", "code"), [(0, 0, "bad_field"), (65, 0, "out_of_memory"), (5, 4, "out_of_memory")]
)
def test_reservations_that_cannot_be_kept_are_refused(bench, pages, cap, code):
    context = bench.create([], Account(page_cap=cap))
    assert refused(bench, wire.Reserve(context, 0, pages)) == code
    assert ask(bench, context, [1], 1) == answer([1], [0])


def test_committed_pages_have_kv_and_are_not_cut(bench):
    context = bench.create(TOKENS[:10])
    number = bench.send(wire.Commit(context, 0, 2))
    bench.settle()
    assert number in bench.runner.flushed
    assert bench.device.rows == 8
    assert refused(bench, wire.Truncate(context, 0, 7)) == "bad_request"
    bench.send(wire.Truncate(context, 1, 8))
    assert ask(bench, context, [1], 1) == answer([*TOKENS[:8], 1], range(9))


def test_a_full_last_page_can_be_committed(bench):
    context = bench.create(TOKENS[:8])
    bench.send(wire.Commit(context, 0, 2))
    bench.settle()
    assert ask(bench, context) == answer(TOKENS[:8], range(8))
    assert bench.device.rows == 9


@pytest.mark.parametrize(("pages", "code"), [(0, "bad_field"), (4, "bad_field"), (3, "bad_request")])
def test_only_full_working_pages_are_committed(bench, pages, code):
    context = bench.create(TOKENS[:10])
    assert refused(bench, wire.Commit(context, 0, pages)) == code


def test_committed_positions_ascend(bench):
    context = bench.create(TOKENS[:4])
    bench.send(wire.Forward(context, 0, TOKENS[4:8], [], [4, 9, 9, 10]))
    bench.send(wire.Commit(context, 0, 1))
    assert refused(bench, wire.Commit(context, 0, 1)) == "bad_request"


def test_release_takes_the_tokens_that_no_longer_fit(bench):
    context = bench.create(TOKENS[:10])
    bench.send(wire.Reserve(context, 0, 2), wire.Commit(context, 0, 1), wire.Release(context, 0, 2))
    assert ask(bench, context) == answer(TOKENS[:10], range(10))
    bench.send(wire.Release(context, 0, 1))
    assert ask(bench, context) == answer(TOKENS[:8], range(8))
    assert refused(bench, wire.Release(context, 0, 2)) == "bad_field"
    assert refused(bench, wire.Append(context, 1, [1])) == "out_of_memory"


def test_release_without_a_reservation_only_cuts(bench):
    context = bench.create(TOKENS[:10])
    bench.send(wire.Release(context, 0, 1), wire.Append(context, 0, TOKENS[8:12]))
    assert ask(bench, context) == answer(TOKENS[:12], range(12))


def test_a_fork_has_its_parents_room(bench):
    context = bench.create(TOKENS[:10])
    bench.send(wire.Reserve(context, 0, 1), wire.Commit(context, 0, 2))
    bench.contexts += 1
    child = bench.contexts
    bench.send(wire.Fork(child, context, 0, 6, "p"))
    assert refused(bench, wire.Truncate(child, 0, 3)) == "bad_request"
    assert refused(bench, wire.Append(child, 1, [1] * 11)) == "out_of_memory"
    assert ask(bench, child, [1] * 10, 2) == answer([*TOKENS[:6], *[1] * 10], range(16))


@pytest.mark.parametrize("length", [1, 3, 4, 5, 8, 9, 15, 16])
def test_truncation_across_page_borders(bench, length):
    context = bench.create(TOKENS[:16])
    ask(bench, context)
    bench.send(wire.Truncate(context, 0, length))
    assert ask(bench, context, [60, 61]) == answer([*TOKENS[:length], 60, 61], range(length + 2))
