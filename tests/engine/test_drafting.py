"""A draft model beside the model: its guesses change the number of steps and nothing else."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import structlog.testing
from pie_engine.limits import Limits
from pie_engine.models.draft_model import check_draft
from pie_engine.passes.batch import Batch
from pie_engine.passes.build import build
from pie_engine.passes.device import Result
from pie_engine.passes.outputs import Output, Sampler
from pie_engine.passes.page_moves import Moves
from pie_engine.passes.segment import Segment
from pie_engine.runs.drafting import DraftedDevice, known_part
from pie_engine.simulation.simulated import SimulatedDevice, next_token, recall
from pie_wire.errors import Unsupported
from pie_wire.messages import engine as wire
from pie_wire.messages.common import Account

VOCAB = 97
PAGES = 128
HABIT = 16
BY_MODEL = wire.Speculation(model=True, drafts=6)


def prompt(length: int, start: int = 1) -> list[int]:
    return [(start * 31 + 7 * i) % VOCAB for i in range(length)]


def continuation(tokens: list[int], count: int, sampler: Sampler | None = None) -> list[int]:
    known = list(tokens)
    for _ in range(count):
        known.append(next_token(recall(known, HABIT), sampler or Sampler(), len(known), VOCAB))
    return known[len(tokens) :]


@pytest.fixture
def drafted(bench):
    """A draft model that agrees with the model except where that looks at all tokens."""
    device = SimulatedDevice(PAGES, 4, VOCAB, habit=HABIT)
    draft = SimulatedDevice(PAGES, 4, VOCAB, habit=1 << 60)
    limits = Limits(PAGES, 4, 4096, VOCAB, draft_model=True)
    return type(bench)(DraftedDevice(device, draft, scratch_page=PAGES), limits)


@pytest.mark.parametrize("spec", [wire.SamplerSpec(), wire.SamplerSpec(1.0)])
def test_the_tokens_are_those_of_the_model_alone(drafted, spec):
    sampler = Sampler(spec.temperature, seed=7)
    runs = {
        drafted.open_run(drafted.create(prompt(9, i)), 80, sampler=spec, seed=7, speculation=BY_MODEL): i
        for i in range(3)
    }
    steps = drafted.settle()
    for run, i in runs.items():
        assert drafted.runner.tokens[run] == continuation(prompt(9, i), 80, sampler)
        assert drafted.runner.ends[run].accepted > 40
    assert steps < 60


def test_forks_and_found_prefixes_have_the_draft_models_kv_too(drafted):
    first = drafted.create(prompt(32), Account(salt=b"s"))
    drafted.send(wire.Flush(first, 0))
    drafted.settle()
    drafted.contexts += 1
    child = drafted.contexts
    drafted.send(wire.Fork(child, first, 0, 30, "p"))
    again = drafted.create(prompt(32), Account(salt=b"s"))
    runs = [drafted.open_run(context, 40, speculation=BY_MODEL) for context in (child, again)]
    drafted.settle()
    assert [drafted.runner.tokens[run] for run in runs] == [
        continuation(prompt(30), 40),
        continuation(prompt(32), 40),
    ]
    assert all(drafted.runner.ends[run].accepted > 10 for run in runs)


def test_penalties_keep_the_draft_model_out(drafted):
    spec = wire.SamplerSpec(frequency_penalty=1.0)
    run = drafted.open_run(drafted.create(prompt(9)), 20, sampler=spec, speculation=BY_MODEL)
    drafted.settle()
    assert len(drafted.runner.tokens[run]) == 20
    assert drafted.runner.ends[run].drafted == 0


def test_the_known_part_is_the_batch_that_would_have_been_built_without_open_rows():
    def segments(open_rows: int) -> list[Segment]:
        asked = Output(2, 9, Sampler(seed=4))
        return [
            Segment([1, 2], [0, 1], 0, [5], masks=[[(0, 1)], [(0, 2)]]),
            Segment([3, 4, 5] + [0] * open_rows, range(6, 9 + open_rows), 6, [1, 2, 3], (asked,), open_rows=open_rows),
            Segment([6], [3], 3, [7], (Output(0, 4, Sampler()),)),
        ]

    whole = build(segments(2), page_size=4, scratch_page=9)
    expected = build(segments(0), page_size=4, scratch_page=9)
    part = known_part(whole)
    for name in ("tokens", "positions", "row_slots", "write_slots", "interval_ptr", "intervals", "segment_rows"):
        np.testing.assert_array_equal(getattr(part, name), getattr(expected, name), name)
    assert part.outputs == (expected.outputs[0],)
    assert part.logit_rows.tolist() == [4]


def model(vocab: int = 10, context: int = 64, tokenizer: dict[str, object] | None = None):
    text = json.dumps({"model": {"vocab": {}}, **(tokenizer or {})}).encode()
    info = SimpleNamespace(name="m", vocab_size=vocab, max_context=context)
    return SimpleNamespace(info=info, tokenizer_files=lambda: {"tokenizer.json": text})


def test_a_draft_model_of_the_same_family_is_taken():
    check_draft(model(), model(context=128))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("draft", "reason"),
    [
        (model(vocab=11), "has 11 tokens"),
        (model(context=32), "reads 32 tokens"),
        (model(tokenizer={"added_tokens": [1]}), "added_tokens differ"),
    ],
)
def test_another_tokenizer_is_refused_with_a_sentence(draft, reason):
    with pytest.raises(Unsupported, match=reason):
        check_draft(model(), draft)


class Failing:
    """A draft model that makes the moves of a pass and then fails, when told to."""

    def __init__(self, device: SimulatedDevice) -> None:
        self._device = device
        self.failing = False

    def execute(self, batch: Batch) -> list[Result]:
        results = self._device.execute(batch)
        if self.failing:
            raise RuntimeError("the draft model is on fire")
        return results


def test_a_failing_draft_model_costs_guesses_and_no_pass(bench):
    draft = Failing(SimulatedDevice(PAGES, 4, VOCAB, habit=1 << 60))
    device = DraftedDevice(SimulatedDevice(PAGES, 4, VOCAB, habit=HABIT), draft, scratch_page=PAGES, clock=lambda: 0.0)  # type: ignore[arg-type]
    drafted = type(bench)(device, Limits(PAGES, 4, 4096, VOCAB, draft_model=True))
    draft.failing = True
    with structlog.testing.capture_logs() as logs:
        run = drafted.open_run(drafted.create(prompt(9)), 20, speculation=BY_MODEL)
        drafted.settle()
    assert drafted.runner.tokens[run] == continuation(prompt(9), 20)
    assert drafted.runner.ends[run].reason == "length"
    assert len(logs) == 1


def test_moves_that_only_the_draft_model_has_made_are_not_done():
    """Else pages that never came back would be taken for good ones."""
    draft = Failing(SimulatedDevice(PAGES, 4, VOCAB))
    device = SimulatedDevice(PAGES, 4, VOCAB)
    moves = Moves([(0, 0)], [(0, 1)])
    batch = build([Segment([1], [0], 0, [1])], page_size=4, scratch_page=PAGES, moves=moves)

    def fail(_: Batch) -> list[Result]:
        raise RuntimeError("before its moves")

    device.execute = fail  # type: ignore[method-assign]
    with pytest.raises(RuntimeError):
        DraftedDevice(device, draft, scratch_page=PAGES).execute(batch)  # type: ignore[arg-type]
    assert not moves.done
    assert known_part(batch).moves is not moves
