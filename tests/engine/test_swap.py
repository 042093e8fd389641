"""Contexts leave the pool for host memory and come back; receipts say so, and both accounts of pages stay right."""

from __future__ import annotations

import random

import pytest
from pie_wire.messages import engine as wire
from pie_wire.messages.runner import Receipt, Step
from test_page_operations import answer
from test_pressure import continuation, prompt, run_all


@pytest.fixture
def receipts(benches):
    """Make a bench that keeps the receipts its runner gets, in `bench.receipts`."""

    def make(**limits):
        bench = benches(**limits)
        bench.receipts = []
        collect = bench.runner.receive

        def receive(incoming):
            bench.receipts += incoming.message.receipts
            collect(incoming)

        bench.runner.hub.on(Step, receive)
        return bench

    return make


def kinds(bench, context):
    return [(r.kind, r.reason, r.how) for r in bench.receipts if r.context == context]


@pytest.mark.parametrize("count", [4, 8, 20])
def test_a_working_set_beyond_the_pool_is_moved_and_not_computed_again(benches, count):
    bench = benches(pages=16, swap_pages=400)
    run_all(bench, count, 20, 24)
    stats = bench.core.stats()
    assert stats["moved"] > 0
    assert stats["recomputed"] == 0


def test_a_small_tier_helps_some_and_the_others_are_computed_again(benches):
    bench = benches(pages=16, swap_pages=9)
    run_all(bench, 12, 20, 24)
    stats = bench.core.stats()
    assert stats["moved"] > 0
    assert stats["recomputed"] > 0


def test_what_is_cheap_to_compute_is_not_copied(benches):
    bench = benches(pages=16, swap_pages=400)
    bench.core._eviction.copied(1, 60.0)
    run_all(bench, 6, 20, 24)
    assert bench.core.stats()["moved"] == 0
    assert bench.core.stats()["recomputed"] > 0


def test_a_suspended_context_is_out_until_something_is_asked_of_it(receipts):
    bench = receipts(pages=16, swap_pages=16)
    context = bench.create(prompt(22, 1))
    bench.send(wire.Flush(context, 0), wire.Suspend(context, 0))
    bench.settle()
    assert bench.owned() == 0
    assert bench.core.stats()["swap_owned"] == 6
    run = bench.open_run(context, 5)
    bench.settle()
    assert bench.runner.tokens[run] == continuation(prompt(22, 1), 5)
    assert kinds(bench, context) == [("evicted", "suspend", "swapped"), ("restored", "suspend", "swapped")]
    assert bench.receipts[0] == Receipt(context, "evicted", "suspend", "swapped", 21, 6)
    assert bench.receipts[1].pages >= 1
    assert bench.core.stats()["recomputed"] == 0


def test_suspension_pauses_a_run_and_consumption_resumes_it(benches):
    bench = benches(pages=16, swap_pages=16)
    context = bench.create(prompt(10, 1))
    run = bench.open_run(context, 8, window=4)
    bench.step()
    bench.send(wire.Suspend(context, 0))
    bench.settle()
    before = len(bench.runner.tokens[run])
    assert before < 4
    assert bench.owned() == 0
    bench.send(wire.Consume(context, run, before))
    bench.settle()
    bench.send(wire.Consume(context, run, 8))
    bench.settle()
    assert bench.runner.tokens[run] == continuation(prompt(10, 1), 8)


def test_forks_and_truncations_of_a_context_that_is_away(benches):
    bench = benches(pages=16, swap_pages=16)
    context = bench.create(prompt(22, 1))
    child = bench.contexts = bench.contexts + 1
    bench.send(wire.Flush(context, 0), wire.Suspend(context, 0))
    bench.settle()
    bench.send(wire.Fork(child, context, 0, 13, "p"), wire.Truncate(context, 0, 18))
    bench.settle()
    runs = [bench.open_run(context, 4), bench.open_run(child, 4)]
    bench.settle()
    assert [bench.runner.tokens[run] for run in runs] == [
        continuation(prompt(22, 1)[:18], 4),
        continuation(prompt(22, 1)[:13], 4),
    ]
    bench.send(wire.Drop(context), wire.Drop(child))
    bench.settle()
    assert bench.core.stats()["swap_owned"] == 0


def test_a_prefix_that_many_share_is_kept_once(benches):
    bench = benches(pages=64, swap_pages=64)
    contexts = [bench.create([*prompt(32, 1), number]) for number in range(6)]
    bench.send(*[op for c in contexts for op in (wire.Flush(c, 0), wire.Suspend(c, 0))])
    bench.settle()
    assert bench.core.stats()["swap_owned"] == 8
    runs = [bench.open_run(context, 3) for context in contexts]
    bench.settle()
    assert [bench.runner.tokens[run] for run in runs] == [continuation([*prompt(32, 1), n], 3) for n in range(6)]


def impure(bench, number, length=23):
    """A context that has dropped tokens, with the tokens a row of it still sees and their positions."""
    tokens = prompt(length, number)
    context = bench.create(tokens)
    bench.send(wire.Flush(context, 0), wire.DropTokens(context, 0, 4, 9))
    bench.settle()
    slots = [slot for slot in range(length) if not 4 <= slot < 9]
    return context, [tokens[slot] for slot in slots], slots


def test_impure_contexts_are_swapped_and_never_computed_again(benches):
    bench = benches(pages=16, swap_pages=32)
    context, tokens, slots = impure(bench, 3)
    bench.send(wire.Idle(context, True))
    run_all(bench, 4, 20, 20)
    assert bench.core.stats()["moved"] > 0
    before = bench.core.stats()["recomputed"]
    number = bench.send(wire.Forward(context, 0, [], [wire.Output(0, "top", top=1)]))
    bench.settle()
    assert bench.runner.outputs[number][0].ids[0] == answer(tokens, slots)
    assert bench.core.stats()["recomputed"] == before


def test_with_every_tier_full_the_lowest_bid_ends(benches):
    bench = benches(pages=16, swap_pages=0)
    poor, *_ = impure(bench, 1)
    rich, tokens, slots = impure(bench, 2)
    bench.send(wire.Bid(poor, 0.5), wire.Bid(rich, 2.0))
    run = bench.open_run(bench.create(prompt(24, 5)), 4)
    bench.settle()
    assert bench.runner.tokens[run] == continuation(prompt(24, 5), 4)
    assert bench.core.stats()["kills"] == 1
    failed = bench.send(wire.Append(poor, 0, [1]))
    number = bench.send(wire.Forward(rich, 0, [], [wire.Output(0, "top", top=1)]))
    bench.settle()
    assert bench.runner.failed[failed].code == "out_of_memory"
    assert bench.runner.outputs[number][0].ids[0] == answer(tokens, slots)


def test_copies_that_were_not_made_cost_only_time(benches):
    """A device that fails before it has moved anything leaves pages that nobody may trust."""
    bench = benches(pages=16, swap_pages=64)
    runs = {bench.open_run(bench.create(prompt(20, i)), 16): i for i in range(6)}
    while not bench.core.stats()["moved"]:
        bench.step()
    bench.failing = RuntimeError("gone")
    bench.step()
    bench.settle()
    for run, i in runs.items():
        said, whole = bench.runner.tokens[run], continuation(prompt(20, i), 16)
        assert said == whole if bench.runner.ends[run].reason == "length" else whole[: len(said)]
    assert any(end.reason == "length" for end in bench.runner.ends.values())


def test_receipts_tell_how_long(receipts):
    bench = receipts(pages=12, swap_pages=0)
    run_all(bench, 3, 20, 20)
    returned = [r for r in bench.receipts if r.kind == "restored"]
    assert returned
    assert all(r.seconds > 0 and r.how == "recomputed" and r.tokens > 0 for r in returned)
    assert bench.core.stats()["recomputed"] == sum(r.tokens for r in returned)
    assert all(replace_seconds(r).reason == "pressure" for r in bench.receipts)


def replace_seconds(receipt):
    return Receipt(*(getattr(receipt, name) for name in ("context", "kind", "reason", "how", "tokens", "pages")))


@pytest.mark.parametrize("seed", range(6))
def test_impure_contexts_in_any_order(benches, seed):
    """Many contexts with dropped tokens beside ordinary ones, in a pool for a few of them."""
    chance = random.Random(seed)
    bench = benches(pages=24, swap_pages=200)
    known = {}
    for number in range(10):
        context, tokens, slots = impure(bench, number, chance.randrange(12, 30))
        known[context] = (tokens, slots)
    runs = {}
    for number in range(60):
        context = chance.choice(list(known))
        match chance.randrange(4):
            case 0:
                bench.send(wire.Suspend(context, 0))
            case 1:
                bench.send(wire.Idle(context, chance.random() < 0.5), wire.Bid(context, chance.choice([0.0, 1.0, 2.0])))
            case 2:
                runs[bench.open_run(bench.create(prompt(20, 40 + number)), 6)] = number
                bench.step()
            case _:
                asked = bench.send(wire.Forward(context, 0, [], [wire.Output(0, "top", top=1)]))
                bench.settle()
                assert bench.runner.outputs[asked][0].ids[0] == answer(*known[context])
    bench.settle()
    for run, number in runs.items():
        assert bench.runner.tokens[run] == continuation(prompt(20, 40 + number), 6)
    assert bench.core.stats()["kills"] == 0
    assert bench.core.stats()["moved"] > 0
