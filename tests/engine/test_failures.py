"""A device that keeps failing, under pressure: every request ends once, and nothing that was given is ever wrong."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from pie_engine.models.base import ModelOutput
from pie_engine.models.model_device import ModelDevice
from pie_engine.passes.batch import Batch
from pie_engine.passes.outputs import Int32Array, Sampler
from pie_engine.simulation.simulated import next_token
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


class Poisoned:
    """A model whose KV of token 13 is no number, until it is erased."""

    def __init__(self) -> None:
        self.erased: list[int] = []
        self.broken = True

    def forward(self, batch: Batch) -> ModelOutput:
        logits = torch.zeros(len(batch.logit_rows), VOCAB)
        logits[:, 5] = 1.0
        for index, row in enumerate(batch.logit_rows):
            if self.broken and batch.tokens[row] == 13:
                logits[index] = float("nan")
        return ModelOutput(logits)

    def erase(self, slots: Int32Array) -> None:
        self.erased += slots.tolist()


def test_logits_that_are_no_numbers_fail_only_their_request(bench):
    model = Poisoned()
    bench.device = ModelDevice(model)
    sick, well = bench.create([1, 2, 13]), bench.create([1, 2, 3])
    runs = bench.open_run(sick, 4), bench.open_run(well, 4)
    bench.settle()
    assert bench.runner.ends[runs[0]].error.code == "device_error"
    assert bench.runner.tokens[runs[1]] == [5, 5, 5, 5]
    assert len(model.erased) == 3
    model.broken = False
    bench.send(wire.CloseRun(sick, runs[0], 0))
    again = bench.open_run(sick, 2)
    bench.settle()
    assert bench.runner.tokens[again] == [5, 5]


class Rotten:
    """A model whose KV is no number while it is broken, and whose logits are none where such KV is seen."""

    def __init__(self) -> None:
        self.rotten: set[int] = set()
        self.broken = True

    def forward(self, batch: Batch) -> ModelOutput:
        written = set(batch.write_slots.tolist())
        self.rotten = self.rotten | written if self.broken else self.rotten - written
        logits = torch.zeros(len(batch.logit_rows), VOCAB)
        logits[:, 5] = 1.0
        for index, row in enumerate(batch.logit_rows):
            segment = int(np.searchsorted(batch.segment_rows, row, side="right")) - 1
            pages = batch.pages[batch.page_ptr[segment] : batch.page_ptr[segment + 1]].tolist()
            slots = [page * batch.page_size + offset for page in pages for offset in range(batch.page_size)]
            if self.rotten.intersection(slots[: batch.row_slots[row] + 1]):
                logits[index] = float("nan")
        return ModelOutput(logits)

    def erase(self, slots: Int32Array) -> None:
        self.rotten -= set(slots.tolist())


def test_a_prefix_with_bad_kv_is_computed_again_by_all_who_share_it(bench):
    model = Rotten()
    bench.device = ModelDevice(model)
    prompt = list(range(1, 18))
    first, second = bench.create(prompt), bench.create(prompt)
    bench.send(wire.Flush(first, 0))
    bench.send(wire.Flush(second, 0))
    bench.settle()
    model.broken = False
    run = bench.open_run(first, 2)
    bench.settle()
    assert bench.runner.ends[run].error.code == "device_error"
    later = bench.open_run(bench.create(prompt), 2)
    bench.settle()
    assert bench.runner.tokens[later] == [5, 5]
    bench.send(wire.CloseRun(first, run, 0))
    again, other = bench.open_run(first, 2), bench.open_run(second, 2)
    bench.settle()
    assert bench.runner.tokens[again] == [5, 5]
    # The other has held the bad pages all along: it learns of them by its own failure.
    assert bench.runner.ends[other].error.code == "device_error"
    bench.send(wire.CloseRun(second, other, 0))
    other = bench.open_run(second, 2)
    bench.settle()
    assert bench.runner.tokens[other] == [5, 5]
    bench.core.check_integrity()


def test_a_failed_pass_fails_each_kind_of_work_in_it_with_the_cause(benches):
    """Runs with and without guesses, lockstep passes, flushes, checks of drafts, drops from inside, exports: each
    once, and whoever was not in the pass notices nothing."""
    bench = benches(pages=128)
    prompt = [3, 1, 4, 1, 5, 9, 2, 6]
    bystander = bench.create(prompt)
    waiting = bench.open_run(bystander, 9, window=2)
    bench.settle()
    contexts = [bench.create([*prompt, index]) for index in range(8)]
    runs = [bench.open_run(contexts[0], 4), bench.runs + 1]
    bench.runs += 1
    guessing = wire.Speculation(ngram=2)
    bench.send(wire.OpenRun(contexts[1], 0, runs[1], wire.SamplerSpec(), 0, [], 4, 9, guessing))
    numbers = [
        bench.send(wire.Forward(contexts[2], 0, [7], [wire.Output(0), wire.Output(0, "logits")])),
        bench.send(wire.Flush(contexts[3], 0)),
        bench.send(wire.Verify(contexts[4], 0, [1, 2], [-1, 0], wire.Output(0))),
        bench.send(wire.DropTokens(contexts[5], 0, 2, 5)),
        bench.send(wire.Export(contexts[6], 0)),
    ]
    free = bench.create(prompt[:2])
    bench.failing = RuntimeError("the device is on fire")
    bench.step()
    bench.settle()
    for run in runs:
        assert bench.runner.ends[run].error.code == "device_error"
        assert "on fire" in bench.runner.ends[run].error.message
    for number in numbers:
        assert bench.runner.failed[number].code == "device_error"
        assert "on fire" in bench.runner.failed[number].message
    assert waiting not in bench.runner.ends
    bench.send(wire.Consume(bystander, waiting, 2))
    after = bench.open_run(free, 3)
    for context, run in zip(contexts, runs, strict=False):
        bench.send(wire.CloseRun(context, run, 0))
    again = [
        bench.open_run(context, 3, generation=bench.runner.generations.get(context, 0)) for context in contexts[:7]
    ]
    bench.settle()
    assert bench.runner.tokens[waiting] == continuation(prompt, 4)
    assert bench.runner.tokens[after] == continuation(prompt[:2], 3)
    for index, run in enumerate(again):
        assert bench.runner.tokens[run] == continuation([*prompt, index], 3)
