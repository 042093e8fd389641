"""In bfloat16 the order of additions shows: two paths give the same tokens up to a step at which the two likeliest were
closer to each other than `EPSILON`, which docs/runs.md states."""

from __future__ import annotations

from math import log
from pathlib import Path
from typing import Any

import pytest
from pie_engine.kernels.choice import available_attentions
from pie_engine.limits import Limits
from pie_engine.models.model_device import ModelDevice
from pie_engine.models.transformers_model import TransformersModel, load
from pie_wire.messages import engine as wire
from test_oracle import PROMPTS
from tokenizers import Tokenizer

EPSILON = 0.25
"""Of logits."""
COUNT = 40
PAGES = 256

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def model(smollm2: Path) -> TransformersModel:
    loaded = load(smollm2, available_attentions("cpu")[0], dtype="bfloat16")
    loaded.allocate(PAGES, 16)
    return loaded


@pytest.fixture(scope="module")
def prompts(smollm2: Path) -> list[list[int]]:
    tokenizer = Tokenizer.from_file(str(smollm2 / "tokenizer.json"))
    return [tokenizer.encode(text).ids for text in PROMPTS[:3]]


@pytest.fixture
def benches_of(model, bench):
    def make(pages: int = PAGES, **limits: Any) -> Any:
        info = model.info
        model.allocate(pages, 16)
        return type(bench)(ModelDevice(model), Limits(pages, 16, info.max_context, info.vocab_size, **limits))

    yield make
    model.allocate(PAGES, 16)


def lockstep(bench: Any, context: int, count: int) -> list[int]:
    """One pass per token."""
    said: list[int] = []
    for _ in range(count):
        number = bench.send(wire.Forward(context, 0, said[-1:], [wire.Output(0)]))
        bench.settle()
        said.append(bench.runner.outputs[number][0].token)
    return said


@pytest.fixture(scope="module")
def found() -> list[tuple[list[int], list[float]]]:
    return []


@pytest.fixture
def alone(benches_of, prompts, found) -> list[tuple[list[int], list[float]]]:
    """Tokens of each prompt by itself, and how far ahead of the second each was, in logits."""
    bench = benches_of()
    for ids in prompts[len(found) :]:
        run = bench.open_run(bench.create(ids), COUNT, probes=[wire.Output(0, "top", top=2)])
        bench.settle()
        ahead = [log(slot.probs[0] / slot.probs[1]) for slot in bench.runner.probes[run]]
        found.append((bench.runner.tokens[run], ahead))
    return found


@pytest.mark.parametrize("path", ["together", "guessed", "lockstep", "in chunks", "recomputed"])
def test_paths_differ_only_where_two_tokens_were_nearly_equal(benches_of, prompts, alone, path):
    need = sum(-(-(len(ids) + COUNT) // 16) for ids in prompts)
    bench = benches_of(need // 2) if path == "recomputed" else benches_of(max_rows=7 if path == "in chunks" else 2048)
    contexts = [bench.create(ids) for ids in prompts]
    if path == "lockstep":
        got = [lockstep(bench, context, COUNT) for context in contexts]
    else:
        speculation = wire.Speculation(ngram=1 if path == "guessed" else 0)
        runs = [bench.open_run(context, COUNT, speculation=speculation) for context in contexts]
        bench.settle()
        got = [bench.runner.tokens[run] for run in runs]
    assert path != "recomputed" or bench.core.stats()["recomputed"] > 0
    for (right, ahead), tokens in zip(alone, got, strict=True):
        differing = [step for step, (one, other) in enumerate(zip(right, tokens, strict=True)) if one != other]
        assert not differing or ahead[differing[0]] < EPSILON
