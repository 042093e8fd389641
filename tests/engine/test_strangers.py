"""What one runner names is its own: ids of another's contexts, runs and accounts reach nothing."""

from __future__ import annotations

import pytest
from pie_wire.messages import engine as wire
from pie_wire.messages.common import Account
from test_core import continuation

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6]
MINE = Account(salt=b"mine")


@pytest.fixture
def stranger(bench):
    """Another runner, and in the bench context 1 with a run that has given two tokens of eight."""
    bench.create(PROMPT, MINE)
    bench.open_run(1, 8, window=2)
    bench.settle()
    return bench.add_runner("stranger")


def goes_on(bench) -> bool:
    """Context 1 is as it was."""
    while len(bench.runner.tokens[1]) < 8:
        bench.send(wire.Consume(1, 1, len(bench.runner.tokens[1])))
        bench.settle()
    return bench.runner.tokens[1] == continuation(PROMPT, 8) and not bench.runner.failed


@pytest.mark.parametrize(
    "op",
    [
        wire.Append(1, 0, [7]),
        wire.Truncate(1, 0, 2),
        wire.Forward(1, 0, [7], [wire.Output(0)]),
        wire.Verify(1, 0, [7], [-1], wire.Output(0)),
        wire.OpenRun(1, 0, 9, wire.SamplerSpec(), 0, [], 4, 4),
        wire.Flush(1, 0),
        wire.Fork(2, 1, 0, 4, "p"),
        wire.DropTokens(1, 0, 1, 3),
        wire.Reserve(1, 0, 1),
        wire.Commit(1, 0, 1),
        wire.Release(1, 0, 1),
        wire.SetAdapters(1, 0, []),
        wire.Export(1, 0),
        wire.Pin(1, 0, "x", 5.0),
        wire.Suspend(1, 0),
    ],
    ids=lambda op: type(op).__name__,
)
def test_another_runners_context_does_not_exist(bench, stranger, op):
    number = bench.send(op, runner=stranger)
    bench.settle()
    assert stranger.failed[number].code == "not_found"
    assert not stranger.exports
    assert goes_on(bench)


@pytest.mark.parametrize(
    "op",
    [
        wire.Drop(1),
        wire.Idle(1, True),
        wire.Bid(1, 0.0),
        wire.Consume(1, 1, 2),
        wire.CloseRun(1, 1, 0),
        wire.PauseRun(1, 1),
    ],
    ids=lambda op: type(op).__name__,
)
def test_what_never_fails_does_nothing_to_another_runners_context(bench, stranger, op):
    number = bench.send(op, runner=stranger)
    bench.settle()
    assert stranger.acked == number
    assert len(bench.runner.tokens[1]) == 2
    assert goes_on(bench)


def test_another_runners_standing_is_not_told(bench, stranger):
    answers = []
    stranger.hub.request(stranger.hub.peer("engine"), wire.GetStanding([1]), answers.append, timeout=100.0)
    bench.pump()
    bench.step()
    bench.step()
    assert answers[0].error.code == "not_found"


def test_pins_are_those_of_an_account(bench, stranger):
    context = bench.create([9] * 9, MINE)
    pinned = bench.send(wire.Pin(context, 0, "kept", 60.0))
    bench.settle()
    assert pinned in bench.runner.flushed
    held = bench.core.stats()["pages_pinned"]
    bench.send(wire.Unpin(Account(salt=b"other"), "kept"), runner=stranger)
    bench.settle()
    assert bench.core.stats()["pages_pinned"] == held > 0
    bench.send(wire.Unpin(MINE, "kept"))
    bench.settle()
    assert bench.core.stats()["pages_pinned"] == 0


def test_equal_ids_of_two_runners_are_two_contexts(bench, stranger):
    bench.send(
        wire.Create(1, "p", "local", Account(salt=b"other")),
        wire.Append(1, 0, PROMPT[:3]),
        wire.OpenRun(1, 0, 1, wire.SamplerSpec(), 0, [], 4, 9),
        runner=stranger,
    )
    bench.settle()
    assert stranger.tokens[1] == continuation(PROMPT[:3], 4)
    bench.send(wire.Drop(1), runner=stranger)
    bench.settle()
    assert goes_on(bench)
