"""Operations that wait behind others of their context, and ids and numbers that a runner may not use."""

from __future__ import annotations

import pytest
from pie_wire.messages import engine as wire
from pie_wire.messages.common import Account

MANY = 5_000


def fork(child: int, parent: int, length: int = 8) -> wire.Fork:
    return wire.Fork(child, parent, 0, length, "p")


def test_many_operations_behind_one_are_done_when_it_is(benches):
    bench = benches(queue=MANY + 1)
    context = bench.create(list(range(1, 9)))
    last = bench.send(*[wire.Flush(context, 0)] * (MANY + 1))
    bench.settle()
    assert bench.runner.acked == last
    assert len(bench.runner.flushed) == MANY + 1


def test_a_long_line_of_forks_behind_one_operation_is_born_when_it_is_done(bench):
    context = bench.create(list(range(1, 9)))
    forks = [fork(context + 1 + n, context + n) for n in range(MANY)]
    last = bench.send(wire.Flush(context, 0), *forks, wire.Flush(context + MANY, 0))
    bench.settle()
    assert bench.runner.acked == last
    assert not bench.runner.failed
    assert last in bench.runner.flushed
    assert bench.core.stats()["contexts"] == MANY + 1


def test_a_long_line_of_forks_that_cannot_be_made_dies_at_once(bench):
    context = bench.create(list(range(1, 9)))
    forks = [fork(context + 1 + n, context + n, length=9) for n in range(MANY)]
    last = bench.send(wire.Flush(context, 0), *forks, wire.Flush(context + MANY, 0))
    bench.settle()
    assert bench.runner.acked == last
    assert bench.runner.failed[last].code == "bad_field"


def test_a_fork_refused_by_a_full_queue_is_a_dead_id_and_its_parent_goes_on(benches):
    bench = benches(queue=2)
    context = bench.create(list(range(1, 9)))
    child, grandchild = context + 1, context + 2
    kept = bench.send(*[wire.Flush(context, 0)] * 3)
    refused = bench.send(fork(child, context))
    later = bench.send(wire.Append(child, 0, [1]), fork(grandchild, child), wire.Flush(grandchild, 0))
    bench.settle()
    assert bench.runner.acked == later
    assert kept in bench.runner.flushed
    assert [bench.runner.failed[number].code for number in range(refused, later + 1)] == ["overloaded"] * 4
    after = bench.send(wire.Append(context, 0, [9]), wire.Flush(context, 0))
    bench.settle()
    assert after in bench.runner.flushed


# -- ids and numbers


@pytest.mark.parametrize("number", [-1, -(1 << 40), 1 << 63])
def test_an_id_that_no_context_can_have_is_refused(bench, number):
    context = bench.create(list(range(1, 9)))
    first = bench.send(wire.Create(number, "p", "local", Account()))
    bench.send(fork(number, context), wire.Import(number, "p", "local", Account(), 0, 1), buffers=[b""])
    bench.settle()
    assert [bench.runner.failed[first + n].code for n in range(3)] == ["bad_field"] * 3
    assert bench.runner.acked == first + 2
    assert bench.core.stats()["contexts"] == 1


def test_a_prefetch_is_no_context_of_its_runner(bench):
    number = bench.send(wire.Prefetch("p", "local", Account(), list(range(1, 30))))
    refused = bench.send(wire.Append(-number, 0, [1]), wire.Drop(-number), fork(5, -number)) - 2
    bench.core.apply()
    assert bench.core.stats()["contexts"] == 2
    bench.step()
    assert bench.runner.failed[refused].code == "not_found"
    bench.send(wire.Drop(5))
    bench.settle()
    assert bench.core.stats()["contexts"] == bench.owned() == 0


@pytest.mark.parametrize("first", [0, 1, 3, -5, 1 << 60])
def test_a_link_whose_numbers_do_not_follow_is_given_up(bench, first):
    other = bench.add_runner("r1")
    prefetch = wire.Prefetch("p", "local", Account(), list(range(1, 30)))
    bench.send(prefetch, runner=other)
    other.next_op = first
    bench.send(prefetch, runner=other)
    bench.send(prefetch, runner=other)
    bench.core.apply()
    assert [peer.name for peer in bench.hub.peers()] == ["r0"]
    del bench.runners[b"r1"]
    bench.settle()
    assert bench.core.stats()["contexts"] == bench.owned() == 0
