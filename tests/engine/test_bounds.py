"""What one runner may have waiting in an engine, and an engine underway to one runner."""

from __future__ import annotations

import pytest
from pie_engine.links import answer_budget, inbox
from pie_engine.links.inbox import Inbox
from pie_engine.passes.outputs import EntropyProbe
from pie_engine.schedule import draft
from pie_wire.errors import Overloaded
from pie_wire.hub import Peer
from pie_wire.messages import engine as wire
from pie_wire.messages.link import Identity


def peer(name: str) -> Peer:
    return Peer(Identity("runner", name, 1), "runners", name.encode(), 1)


def test_messages_come_out_in_the_order_of_arrival():
    box: Inbox[str] = Inbox()
    first, second = peer("a"), peer("b")
    box.put(first, "1", operations=1, size=10)
    box.put(second, "2", operations=1, size=10)
    box.ended(first)
    assert list(box.drain()) == [(first, "1"), (second, "2"), (first, None)]
    assert not box


@pytest.mark.parametrize(
    ("operations", "size", "why"),
    [(inbox.MOST_OPERATIONS, 0, "operations wait"), (0, inbox.MOST_BYTES, "64 MiB wait")],
)
def test_one_peer_cannot_fill_it(operations, size, why):
    box: Inbox[str] = Inbox()
    greedy, modest = peer("a"), peer("b")
    box.put(greedy, "much", operations=operations, size=size)
    with pytest.raises(Overloaded, match=why):
        box.put(greedy, "more", operations=1, size=1)
    box.put(modest, "little", operations=1, size=1)
    assert [message for _, message in box.drain()] == ["much", "little"]
    box.put(greedy, "again", operations=operations, size=size)


def test_a_runner_that_sends_too_much_between_two_steps_is_given_up(bench, monkeypatch):
    monkeypatch.setattr(inbox, "MOST_BYTES", 2_000)
    other = bench.add_runner("r1")
    kept = bench.create([1, 2, 3])
    bench.send(wire.Create(7, "p", "local", wire.Account()), wire.Append(7, 0, [1] * 300), runner=other)
    assert len(bench.hub.peers()) == 2
    for _ in range(6):
        bench.send(wire.Append(7, 0, [1] * 600), runner=other)
    assert [p.name for p in bench.hub.peers()] == ["r0"]
    del bench.runners[b"r1"]
    run = bench.open_run(kept, 4)
    bench.settle()
    assert len(bench.runner.tokens[run]) == 4
    assert bench.core.stats()["contexts"] == 1


def asks(bench, context: int, rows: int = 4) -> int:
    outputs = [wire.Output(row, "logits") for row in range(rows)]
    return bench.send(wire.Forward(context, 0, list(range(1, rows + 1)), outputs))


def test_raw_logits_of_a_step_are_bounded_per_runner(bench, monkeypatch):
    """Two passes of 4 rows fit; the others wait for the next step, and requests for tokens do not."""
    row = 4 * bench.limits.vocab
    monkeypatch.setattr(answer_budget, "MOST_BYTES", 9 * row)
    passes = [asks(bench, bench.create([5])) for _ in range(5)]
    run = bench.open_run(bench.create([1, 2]), 1)
    rows = []
    execute = bench.device.execute
    monkeypatch.setattr(bench.device, "execute", lambda batch: rows.append(len(batch.outputs)) or execute(batch))
    bench.settle()
    assert rows == [9, 8, 4]
    assert len(bench.runner.tokens[run]) == 1
    assert all(len(bench.runner.outputs[number]) == 4 for number in passes)


def test_a_pass_beyond_the_bound_goes_alone(bench, monkeypatch):
    monkeypatch.setattr(answer_budget, "MOST_BYTES", 10)
    passes = [asks(bench, bench.create([5])) for _ in range(3)]
    assert bench.settle() == 3
    assert all(number in bench.runner.outputs for number in passes)


def test_raw_logits_wait_for_a_runner_that_does_not_take_them(bench, monkeypatch):
    monkeypatch.setattr(answer_budget, "MOST_BYTES", 5 * 4 * bench.limits.vocab)
    monkeypatch.setattr(answer_budget, "SLIGHT_BYTES", 500)
    first, second = asks(bench, bench.create([5])), asks(bench, bench.create([6]))
    bench.core.apply()
    batch = bench.core.plan()
    assert len(batch.outputs) == 4
    bench.core.finish(bench.device.execute(batch), 0.01)
    assert bench.core.plan() is None
    for _ in range(300):
        bench.step()
    assert first in bench.runner.outputs
    assert second in bench.runner.outputs


def test_outputs_other_than_tokens_are_bounded_per_row(bench):
    context = bench.create([5])
    fine = bench.send(wire.Forward(context, 0, [1, 2], [wire.Output(i % 2, "entropy") for i in range(128)]))
    bench.settle()
    assert len(bench.runner.outputs[fine]) == 128
    many = bench.send(wire.Forward(context, 0, [1, 2], [wire.Output(1, "entropy")] * 65))
    bench.settle()
    assert bench.runner.failed[many].code == "too_large"
    assert "row 1 is asked 65 things" in bench.runner.failed[many].message


def test_probes_of_a_step_are_bounded_and_tokens_do_not_wait(bench, monkeypatch):
    monkeypatch.setattr(draft, "MOST_PROBES", 20)
    passes = [
        bench.send(wire.Forward(bench.create([5 + i]), 0, [], [wire.Output(0, "entropy")] * 10)) for i in range(5)
    ]
    prompts = [
        bench.send(wire.Forward(bench.create([5 + i]), 0, [1, 2, 3], [wire.Output(2, "entropy")] * 10))
        for i in range(3)
    ]
    run = bench.open_run(bench.create([1, 2]), 1)
    outputs = []
    execute = bench.device.execute

    def watched(batch):
        outputs.append((sum(isinstance(o.spec, EntropyProbe) for o in batch.outputs), len(batch.outputs)))
        return execute(batch)

    monkeypatch.setattr(bench.device, "execute", watched)
    bench.settle()
    assert max(probes for probes, _ in outputs) <= 20
    assert sum(probes for probes, _ in outputs) == 80
    assert outputs[0] == (20, 21)
    assert len(bench.runner.tokens[run]) == 1
    assert all(number in bench.runner.outputs for number in passes + prompts)


def test_lists_of_probabilities_of_a_step_are_bounded_per_runner(bench, monkeypatch):
    """As raw logits are: two runs' lists fit into a step."""
    monkeypatch.setattr(answer_budget, "MOST_BYTES", 2 * 16 * (80 + 16 * 90))
    probes = [wire.Output(0, "top", top=90)] * 16
    runs = [bench.open_run(bench.create([5, number]), 3, probes=probes) for number in range(5)]
    rows = []
    execute = bench.device.execute
    monkeypatch.setattr(bench.device, "execute", lambda batch: rows.append(len(batch.outputs)) or execute(batch))
    bench.settle()
    assert max(rows) == 2 * 17
    assert all(len(bench.runner.probes[run]) == 3 * 16 for run in runs)


def test_a_run_is_not_far_ahead_with_lists_of_probabilities(bench):
    probes = [wire.Output(0, "top", top=90)] * 16
    run = bench.open_run(bench.create([5, 6]), 2_000, probes=probes)
    bench.settle()
    assert run not in bench.runner.tokens
    assert [error.code for error in bench.runner.failed.values()] == ["too_large"]
