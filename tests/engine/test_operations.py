"""Operations that wait behind others of their context: however many, and however they end."""

from __future__ import annotations

from pie_wire.messages import engine as wire

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
