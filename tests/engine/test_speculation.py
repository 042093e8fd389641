"""Prompt lookup inside runs: fewer steps, the same tokens, the same context."""

from __future__ import annotations

import pytest
from pie_engine.passes.outputs import Sampler
from pie_engine.runs.prompt_lookup import PromptLookup
from pie_engine.simulation.simulated import next_token, recall
from pie_wire.messages import engine as wire
from pie_wire.messages.common import Account

VOCAB = 97
HABIT = 16
LOOKUP = wire.Speculation(ngram=2, drafts=8)


def prompt(length: int, start: int = 1) -> list[int]:
    return [(start * 31 + 7 * i) % VOCAB for i in range(length)]


def continuation(tokens: list[int], count: int, sampler: Sampler | None = None) -> list[int]:
    known = list(tokens)
    for _ in range(count):
        known.append(next_token(recall(known, HABIT), sampler or Sampler(), len(known), VOCAB))
    return known[len(tokens) :]


@pytest.fixture
def habitual(benches):
    return benches(pages=256, habit=HABIT)


def test_the_device_repeats_itself_only_now_and_then():
    said = continuation(prompt(9), 200)
    assert 12 < len({tuple(said[i : i + 2]) for i in range(199)}) < 190


@pytest.mark.parametrize("drafts", [1, 3, 8])
def test_speculation_gives_the_same_tokens_in_fewer_steps(habitual, drafts):
    run = habitual.open_run(habitual.create(prompt(9)), 200, speculation=wire.Speculation(2, drafts))
    steps = habitual.settle()
    end = habitual.runner.ends[run]
    assert habitual.runner.tokens[run] == continuation(prompt(9), 200)
    assert end.reason == "length"
    assert end.drafted >= end.accepted > 0
    assert steps == 200 - end.accepted


@pytest.mark.parametrize("window", [1, 2, 5])
def test_drafts_stay_within_the_window(habitual, window):
    context = habitual.create(prompt(9))
    run = habitual.open_run(context, 60, window=window, speculation=LOOKUP)
    taken = 0
    while run not in habitual.runner.ends:
        habitual.step()
        got = len(habitual.runner.tokens.get(run, []))
        assert got - taken <= window
        taken = got
        habitual.send(wire.Consume(context, run, taken))
    assert habitual.runner.tokens[run] == continuation(prompt(9), 60)


def test_a_stop_id_among_drafts_ends_the_run_there(habitual):
    expected = continuation(prompt(9), 200)
    stop = expected[120]
    run = habitual.open_run(habitual.create(prompt(9)), 200, stop=[stop], speculation=LOOKUP)
    habitual.settle()
    assert habitual.runner.tokens[run] == expected[: expected.index(stop)]
    assert habitual.runner.ends[run].reason == "stop"


@pytest.mark.parametrize("kept", [0, 1, 37, 100])
def test_cancel_and_fork_restore_the_consumed_state(habitual, kept):
    context = habitual.create(prompt(9))
    run = habitual.open_run(context, 100, speculation=LOOKUP)
    for _ in range(4):
        habitual.step()
    got = len(habitual.runner.tokens[run])
    kept = min(kept, got)
    habitual.contexts += 1
    habitual.send(
        wire.Fork(habitual.contexts, context, 0, 9 + kept, "p"),
        wire.CloseRun(context, run, kept),
        wire.Append(context, 0, [5]),
    )
    again, child = habitual.open_run(context, 30), habitual.open_run(habitual.contexts, 30, speculation=LOOKUP)
    habitual.settle()
    known = prompt(9) + continuation(prompt(9), kept)
    assert habitual.runner.tokens[again] == continuation([*known, 5], 30)
    assert habitual.runner.tokens[child] == continuation(known, 30)
    assert not habitual.runner.failed


def test_drafts_never_cost_pages_that_others_need(benches):
    """A pool without a page to spare, and an account at its cap: the tokens come, drafted or not."""
    bench = benches(pages=30, habit=HABIT)
    account = Account(page_cap=6)
    runs = {bench.open_run(bench.create(prompt(9, i), account), 10, speculation=LOOKUP): i for i in range(1)}
    runs |= {bench.open_run(bench.create(prompt(9, i)), 60, speculation=LOOKUP): i for i in range(1, 4)}
    bench.settle()
    for run, i in runs.items():
        assert bench.runner.tokens[run] == continuation(prompt(9, i), 60 if i else 10)


def test_pause_holds_a_run_and_its_tokens(habitual):
    context = habitual.create(prompt(9))
    run = habitual.open_run(context, 40)
    for _ in range(5):
        habitual.step()
    habitual.send(wire.PauseRun(context, run))
    habitual.settle()
    assert len(habitual.runner.tokens[run]) == 5
    habitual.send(wire.Consume(context, run, 3), wire.PauseRun(context, 99))
    habitual.settle()
    assert len(habitual.runner.tokens[run]) == 5
    habitual.send(wire.ResumeRun(context, run))
    habitual.settle()
    assert habitual.runner.tokens[run] == continuation(prompt(9), 40)


def test_probes_come_with_every_token_also_of_drafts(habitual):
    probes = [wire.Output(0, "top", top=2), wire.Output(0, "logits")]
    run = habitual.open_run(habitual.create(prompt(9)), 60, window=60, probes=probes[:1], speculation=LOOKUP)
    raw = habitual.open_run(habitual.create(prompt(9)), 12, probes=probes)
    habitual.settle()
    assert habitual.runner.ends[run].accepted > 0
    slots = habitual.runner.probes[run]
    assert [slot.ids[0] for slot in slots] == habitual.runner.tokens[run] == continuation(prompt(9), 60)
    assert [slot.kind for slot in habitual.runner.probes[raw]] == ["top", "logits"] * 12


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"speculation": wire.Speculation(-1)}, "bad_field"),
        ({"speculation": wire.Speculation(99)}, "bad_field"),
        ({"speculation": wire.Speculation(2, 0)}, "bad_field"),
        ({"speculation": wire.Speculation(2, 1000)}, "bad_field"),
        ({"speculation": wire.Speculation(model=True)}, "unsupported"),
        ({"grammar": wire.Grammar("regex", "a")}, "unsupported"),
        ({"probes": [wire.Output(0)]}, "bad_field"),
        ({"probes": [wire.Output(0, "top", top=0)]}, "bad_field"),
        ({"probes": [wire.Output(0, "top", top=1)] * 99}, "too_large"),
        ({"probes": [wire.Output(0, "logits")]}, "too_large"),
    ],
)
def test_options_out_of_range_are_refused(bench, options, code):
    context = bench.create(prompt(9))
    bench.open_run(context, 100, **options)
    bench.settle()
    assert [error.code for error in bench.runner.failed.values()] == [code]
    again = bench.open_run(context, 3, generation=1)
    bench.settle()
    assert len(bench.runner.tokens[again]) == 3


def test_lookup_proposes_what_followed_the_latest_occurrence():
    lookup = PromptLookup(2)
    assert lookup.propose([1, 2, 3, 1, 2, 4, 5, 1, 2], 3) == [4, 5, 1]
    assert lookup.propose([1, 2, 3, 1, 2, 4, 5, 1, 2, 9, 9], 3) == []
    assert lookup.propose([], 3) == []
