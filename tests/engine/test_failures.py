"""A device that keeps failing, under pressure: every request ends once, and nothing that was given is ever wrong."""

from __future__ import annotations

import random

import pytest
from pie_engine.batch import Sampler
from pie_engine.simulated import next_token
from pie_wire.messages import engine as wire

VOCAB = 97
LENGTH = 40


def continuation(tokens: list[int], count: int) -> list[int]:
    known = list(tokens)
    for _ in range(count):
        known.append(next_token(known, Sampler(), len(known), VOCAB))
    return known[len(tokens) :]


@pytest.mark.parametrize("pages", [14, 24, 64])
def test_runs_reopened_after_each_failure_give_the_right_tokens(benches, pages):
    chance = random.Random(pages)
    bench = benches(pages=pages, max_rows=16)
    prompts = {bench.create(ids): ids for ids in ([(i * 31 + 7 * k) % VOCAB for k in range(5 + i)] for i in range(6))}
    known = {context: list(ids) for context, ids in prompts.items()}
    runs = {context: bench.open_run(context, LENGTH - len(ids)) for context, ids in known.items()}
    errors = 0
    for _ in range(5000):
        if chance.random() < 0.15:
            bench.failing = RuntimeError("flaky device")
        bench.step()
        for context, run in list(runs.items()):
            end = bench.runner.ends.get(run)
            if end is None:
                continue
            said = bench.runner.tokens.get(run, [])
            known[context] += said
            del runs[context]
            bench.send(wire.CloseRun(context, run, len(said)))
            if end.reason == "error":
                errors += 1
                runs[context] = bench.open_run(context, LENGTH - len(known[context]))
        if not runs:
            break
    assert errors > 3
    for context, ids in prompts.items():
        assert known[context] == ids + continuation(ids, LENGTH - len(ids))


def test_failed_passes_leave_the_context_as_it_was(benches):
    chance = random.Random(1)
    bench = benches(pages=16)
    context = bench.create([1, 2, 3])
    known, generation = [1, 2, 3], 0
    failures = 0
    while len(known) < 40:
        fed = [chance.randrange(VOCAB) for _ in range(chance.randrange(1, 6))]
        if chance.random() < 0.4:
            bench.failing = RuntimeError("flaky device")
        number = bench.send(wire.Forward(context, generation, fed, [wire.Output(len(fed) - 1)]))
        bench.settle()
        if number in bench.runner.failed:
            failures += 1
            assert bench.runner.failed[number].code == "device_error"
            generation = bench.runner.generations[context]
        else:
            known += fed
            assert bench.runner.outputs[number][0].token == next_token(known, Sampler(), 0, VOCAB)
    assert failures > 2
