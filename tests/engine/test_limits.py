"""How many contexts may be open, and how much may wait behind an unfinished operation."""

from __future__ import annotations

import pytest
from pie_engine.contexts import births, line, lines
from pie_wire.messages import engine as wire
from pie_wire.messages.common import Account


def fork(child: int, parent: int, length: int = 3) -> wire.Fork:
    return wire.Fork(child, parent, 0, length, "p")


@pytest.mark.parametrize("setting", ["max_contexts", "max_account_contexts"])
def test_contexts_beyond_the_limit_are_refused_by_its_name(benches, setting):
    bench = benches(**{setting: 3})
    first = [bench.create([1, 2, 3]) for _ in range(3)]
    fourth = bench.create([1, 2, 3])
    created = bench.runner.next_op - 2
    child = bench.send(fork(77, first[0]))
    later = bench.send(wire.Flush(fourth, 0))
    bench.settle()
    assert {bench.runner.failed[number].code for number in (created, child, later)} == {"limit_exceeded"}
    assert setting in bench.runner.failed[later].message
    run = bench.open_run(first[0], 4)
    bench.send(wire.Drop(first[1]), wire.Drop(77), wire.Drop(fourth))
    again = bench.open_run(bench.create([4, 5]), 4)
    bench.settle()
    assert len(bench.runner.tokens[run]) == len(bench.runner.tokens[again]) == 4
    assert bench.core.stats()["contexts"] == 3


def test_other_runners_and_accounts_have_limits_of_their_own(benches):
    bench = benches(max_contexts=3, max_account_contexts=2)
    other = bench.add_runner("r1")
    mine, yours = Account(salt=b"m"), Account(salt=b"y")
    numbers = [bench.send(wire.Create(n, "p", "local", account)) for n, account in enumerate((mine, mine, yours), 1)]
    bench.send(wire.Create(1, "p", "local", yours), wire.Create(2, "p", "local", yours), runner=other)
    bench.settle()
    assert not bench.runner.failed
    # Of the other runner's two contexts one is beyond what the account may have.
    assert [error.code for error in other.failed.values()] == ["limit_exceeded"]
    assert bench.runner.acked == numbers[-1]


def test_dead_ids_of_refused_contexts_are_bounded_too(benches, monkeypatch):
    monkeypatch.setattr(births, "MOST_REFUSED", 5)
    bench = benches(max_contexts=2)
    contexts = [bench.create([1, 2, 3]) for _ in range(20)]
    last = bench.send(fork(99, contexts[0]), wire.Import(98, "p", "local", Account(), 0, 1), buffers=[b""])
    bench.settle()
    assert bench.core.stats()["contexts"] == 7
    assert {bench.runner.failed[number].code for number in (last - 1, last)} == {"limit_exceeded"}
    bench.send(*[wire.Drop(context) for context in contexts])
    bench.settle()
    assert bench.core.stats()["contexts"] == 0


def test_repeated_drops_behind_a_waiting_fork_are_one(bench):
    context = bench.create(list(range(1, 9)))
    bench.send(wire.Flush(context, 0), fork(context + 1, context, 8))
    last = bench.send(*[wire.Drop(context)] * 50)
    bench.core.apply()
    assert len(next(iter(bench.core._table.contexts)).queue) == 2
    bench.settle()
    assert bench.runner.acked == last
    assert not bench.runner.failed
    run = bench.open_run(context + 1, 3)
    bench.settle()
    assert len(bench.runner.tokens[run]) == 3
    assert bench.core.stats()["contexts"] == 1


def test_what_one_runner_has_waiting_in_all_its_contexts_is_bounded(bench, monkeypatch):
    monkeypatch.setattr(lines, "MOST_WAITING", 40)
    other = bench.add_runner("r1")
    bench.send(wire.Create(1, "p", "local", Account()), wire.Append(1, 0, [1, 2, 3]), runner=other)
    contexts = [bench.create(list(range(1, 9))) for _ in range(4)]
    for context in contexts:
        bench.send(*[wire.Flush(context, 0)] * 15)
    modest = bench.send(wire.Flush(1, 0), wire.Flush(1, 0), runner=other)
    bench.core.apply()
    link = next(c.link for c in bench.core._table.contexts if c.link.peer.name == "r0")
    assert link.waiting == sum(len(context.queue) for context in link.contexts.values()) == 40
    bench.settle()
    assert link.waiting == 0
    assert "overloaded" in {error.code for error in bench.runner.failed.values()} <= {"overloaded", "skipped"}
    assert bench.runner.acked == bench.runner.next_op - 1
    assert modest in other.flushed


def test_tokens_that_wait_count_as_operations_do(bench, monkeypatch):
    monkeypatch.setattr(lines, "MOST_WAITING", 40)
    context = bench.create(list(range(1, 9)))
    bench.send(wire.Flush(context, 0))
    numbers = [bench.send(wire.Append(context, 0, [1] * 60 * line.TOKENS)) for _ in range(2)]
    bench.settle()
    assert [bench.runner.failed[number].code for number in numbers] == ["overloaded", "overloaded"]


BIASED = wire.SamplerSpec(bias_ids=list(range(90)), bias=[1.0] * 90)


@pytest.mark.parametrize(
    "heavy",
    [
        wire.Forward(1, 0, [1], [], mask=wire.Mask("runs", runs=[[0, 1] * 400])),
        wire.Forward(1, 0, [1] * 400, [], positions=list(range(400))),
        wire.Forward(1, 0, [], [wire.Output(0)] * 200),
        wire.Forward(1, 0, [], [wire.Output(0, "token", BIASED, stop=[1] * 20)] * 4),
        wire.Forward(1, 0, [], [wire.Output(0, "logprobs", ids=list(range(90)))] * 8),
        wire.Verify(1, 0, [1] * 400, [-1] * 400, wire.Output(0)),
        wire.OpenRun(1, 0, 1, wire.SamplerSpec(mask=bytes(4000)), 0, [], 1, 1),
        wire.OpenRun(1, 0, 1, wire.SamplerSpec(mask=[1] * 800), 0, [], 1, 1),
        wire.OpenRun(1, 0, 1, wire.SamplerSpec(), 0, [1] * 800, 1, 1),
        wire.OpenRun(1, 0, 1, wire.SamplerSpec(), 0, [], 1, 1, probes=[wire.Output(0)] * 200),
        wire.OpenRun(1, 0, 1, wire.SamplerSpec(), 0, [], 1, 1, grammar=wire.Grammar("regex", "a" * 4000)),
        wire.SetAdapters(1, 0, [wire.AdapterUse("a")] * 200),
    ],
)
def test_all_that_an_operation_holds_counts_while_it_waits(heavy):
    assert line.weight(heavy) >= 40
    assert line.weight(wire.Forward(1, 0, [1], [wire.Output(0)])) == 1
    assert line.weight(wire.OpenRun(1, 0, 1, wire.SamplerSpec(), 0, [1, 2], 1, 1)) == 1


def test_bytes_of_imports_that_wait_for_pages_are_bounded(benches, monkeypatch):
    bench = benches(pages=8)
    source = bench.create([3] * 13)
    exported = bench.send(wire.Export(source, 0))
    bench.settle()
    data = bench.runner.exports[exported]
    bench.send(wire.Drop(source))
    monkeypatch.setattr(births, "MOST_IMPORTED", 2 * sum(map(len, data[1:])) + sum(map(len, data)))
    imports = [wire.Import(100 + n, "p", "local", Account(), 0, len(data)) for n in range(5)]
    numbers = [bench.send(op, buffers=data) for op in imports]
    bench.settle()
    assert set(numbers) & set(bench.runner.failed) == set(numbers[3:])
    assert {bench.runner.failed[number].code for number in numbers[3:]} == {"overloaded"}
    again = bench.send(wire.Import(200, "p", "local", Account(), 0, len(data)), buffers=data)
    bench.settle()
    assert again not in bench.runner.failed
