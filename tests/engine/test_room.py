"""Who gives up pages, in which order, and what programs say and hear about it."""

from __future__ import annotations

import pytest
from pie_engine.memory.pressure import PressureGauge
from pie_wire.hub import Answer
from pie_wire.messages import engine as wire
from pie_wire.messages.common import Account
from pie_wire.messages.runner import Pressure, Step
from test_pressure import continuation, prompt


def rest(bench, *contexts):
    """These contexts have all their KV, and have had nothing to do for a while."""
    bench.send(*[wire.Flush(context, 0) for context in contexts])
    bench.settle()
    other = bench.create([1, 2])
    run = bench.open_run(other, 8)
    bench.settle()
    bench.send(wire.CloseRun(other, run, 8), wire.Drop(other))
    bench.settle()


def pages(bench, context):
    return next(row.pages for row in bench.core.page_rows() if row.context == context)


def take(bench, length, account=None):
    """A request that needs pages for so many tokens."""
    context = bench.create(prompt(length, 50 + bench.contexts), account)
    bench.send(wire.Flush(context, 0))
    bench.settle()
    return context


def test_an_idle_scope_goes_before_contexts_with_nothing_to_do(benches):
    bench = benches(pages=16)
    first, second = bench.create(prompt(25, 1)), bench.create(prompt(25, 2))
    rest(bench, first, second)
    bench.send(wire.Idle(second, True))
    take(bench, 29)
    assert pages(bench, second) == 0
    assert pages(bench, first) > 0


def test_the_lowest_bid_goes_first(benches):
    bench = benches(pages=16)
    first, second = bench.create(prompt(25, 1)), bench.create(prompt(25, 2))
    rest(bench, first, second)
    bench.send(wire.Bid(first, 2.0), wire.Bid(second, 1.5))
    take(bench, 29)
    assert pages(bench, second) == 0
    assert pages(bench, first) > 0
    assert bench.core.stats()["price"] in {0.0, 1.5}


def test_among_equal_bids_the_youngest_request_gives_way(benches):
    bench = benches(pages=16)
    runs = [bench.open_run(bench.create(prompt(20, i)), 24) for i in range(2)]
    bench.settle()
    assert bench.core.stats()["evictions"] >= 1
    first, second = bench.core._table.contexts
    assert first.recomputed == 0
    assert [bench.runner.tokens[run] for run in runs] == [continuation(prompt(20, i), 24) for i in range(2)]
    assert list(bench.runner.ends) == runs
    assert second.length == 44


def test_a_higher_bid_displaces_an_older_request_which_still_ends(benches):
    bench = benches(pages=16)
    older = bench.open_run(bench.create(prompt(40, 1)), 20)
    bench.step()
    context = bench.create(prompt(30, 2))
    bench.send(wire.Bid(context, 5.0))
    richer = bench.open_run(context, 20)
    bench.settle()
    assert list(bench.runner.ends) == [richer, older]
    assert bench.runner.tokens[older] == continuation(prompt(40, 1), 20)


def test_no_bid_starves_anybody(benches):
    """New requests with high bids keep coming; the oldest becomes senior and ends."""
    bench = benches(pages=16)
    poor = bench.open_run(bench.create(prompt(40, 1)), 10)
    for number in range(400):
        context = bench.create(prompt(30, 2 + number))
        bench.send(wire.Bid(context, 5.0))
        run = bench.open_run(context, 8)
        for _ in range(4):
            bench.step()
        bench.send(wire.CloseRun(context, run, len(bench.runner.tokens.get(run, []))), wire.Drop(context))
        if poor in bench.runner.ends:
            break
    assert bench.runner.tokens[poor] == continuation(prompt(40, 1), 10)


def test_between_accounts_the_heavier_user_per_weight_gives_way(benches):
    bench = benches(pages=24)
    light, heavy = Account(salt=b"l", weight=4.0), Account(salt=b"h", weight=1.0)
    hogs = [bench.create(prompt(36, i), heavy) for i in range(2)]
    runs = [bench.open_run(hog, 30, window=100) for hog in hogs]
    bench.step()
    bench.step()
    late = bench.open_run(bench.create(prompt(24, 7), light), 4)
    bench.settle()
    assert next(iter(bench.runner.ends)) == late
    assert all(len(bench.runner.tokens[run]) == 30 for run in runs)


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_a_bid_that_is_none_is_refused_and_harms_nothing(bench, value):
    context = bench.create(prompt(5, 1))
    number = bench.send(wire.Bid(context, value))
    run = bench.open_run(context, 3)
    bench.settle()
    assert bench.runner.failed[number].code == "bad_field"
    assert bench.runner.tokens[run] == continuation(prompt(5, 1), 3)


def test_an_idle_scope_pauses_a_run_and_gives_the_same_tokens(bench):
    context = bench.create(prompt(9, 1))
    run = bench.open_run(context, 10)
    bench.step()
    bench.send(wire.Idle(context, True))
    bench.settle()
    assert len(bench.runner.tokens[run]) < 10
    bench.send(wire.Idle(context, False))
    bench.settle()
    assert bench.runner.tokens[run] == continuation(prompt(9, 1), 10)


def test_a_pool_that_cannot_serve_is_not_asked_again_until_there_is_news(benches):
    bench = benches(pages=8)
    pinned = bench.create(prompt(17, 1))
    bench.send(wire.Pin(pinned, 0, "kept", 60.0), wire.Drop(pinned))
    bench.settle()
    bench.open_run(bench.create(prompt(16, 2)), 1)
    bench.send(wire.Append(bench.contexts, 0, prompt(1, 3)))
    bench.settle()
    assert not bench.core.has_work


def test_pressure_does_not_flicker():
    gauge = PressureGauge()
    changes = [(demand, gauge.update(demand, 0, 100, 1.0), gauge.level) for demand in (50, 85, 79, 75, 69, 110, 95, 89)]
    assert [(demand, level) for demand, changed, level in changes if changed] == [
        (85, "medium"),
        (69, "low"),
        (110, "high"),
        (89, "medium"),
    ]
    assert gauge.price == 1.0


def test_runners_hear_when_pages_become_short_and_when_no_longer(benches):
    bench = benches(pages=16)
    heard: list[Pressure] = []
    collect = bench.runner.receive

    def receive(incoming):
        if incoming.message.pressure is not None:
            heard.append(incoming.message.pressure)
        collect(incoming)

    bench.runner.hub.on(Step, receive)
    contexts = [bench.create(prompt(20, i)) for i in range(4)]
    for context in contexts:
        bench.open_run(context, 20)
    bench.settle()
    bench.send(*[wire.Drop(context) for context in contexts])
    bench.settle()
    bench.step()
    assert heard[0].level in {"medium", "high"}
    assert max(pressure.demand for pressure in heard) > 1.0
    assert heard[-1].level == "low"


def test_what_a_context_costs_and_may_still_take_can_be_asked(benches):
    bench = benches(pages=16)
    mine, other = Account(salt=b"m", weight=3.0), Account(salt=b"o", weight=1.0)
    context, foreign = bench.create(prompt(9, 1), mine), bench.create(prompt(21, 2), other)
    rest(bench, context, foreign)
    answers: list[Answer[wire.Standing]] = []
    peer = bench.runner.hub.peer("engine")
    bench.runner.hub.request(peer, wire.GetStanding([context, foreign]), answers.append, timeout=5.0)
    bench.runner.hub.request(peer, wire.GetStanding([99]), answers.append, timeout=5.0)
    bench.pump()
    bench.settle()
    bench.pump()
    standing = answers[0].message
    assert standing.rents == [0.0, 0.0]
    assert standing.balances[0] > 0 > standing.balances[1]
    assert standing.pressure.level == "low"
    assert answers[1].error.code == "not_found"
