"""Guesses, trees and grammars with real logits: the small model in float32, and scripted distributions."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from pie_engine.bench.guessing import PROMPTS
from pie_engine.config import EngineConfig
from pie_engine.kernels.torch_attention import TorchAttention
from pie_engine.limits import Limits
from pie_engine.models.loading import ready_device
from pie_engine.models.model_device import ModelDevice
from pie_engine.models.scripted import Script, ScriptedModel
from pie_engine.models.transformers_model import TransformersModel, load
from pie_engine.passes.device import Device
from pie_engine.runs.drafting import DraftedDevice
from pie_engine.runs.grammar_compiler import GrammarCompiler
from pie_wire.messages import engine as wire
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

PAGES = 256
LOOKUP = wire.Speculation(ngram=2, drafts=8)
WARM = wire.SamplerSpec(0.8, 0.9)


def slow(value: object) -> Any:
    """A case for the slow tier: float32 on a busy machine takes its time."""
    return pytest.param(value, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def model(smollm2: Path) -> TransformersModel:
    loaded = load(smollm2, TorchAttention(), dtype="float32")
    loaded.allocate(PAGES, 16)
    return loaded


@pytest.fixture(scope="module")
def tokenizer(smollm2: Path) -> Tokenizer:
    return Tokenizer.from_file(str(smollm2 / "tokenizer.json"))


@pytest.fixture(scope="module")
def grammars(model: TransformersModel) -> Iterator[GrammarCompiler]:
    files, info = model.tokenizer_files(), model.info
    made = GrammarCompiler(files["tokenizer.json"], info.vocab_size, info.eos_ids, lambda: None)
    yield made
    made.close()


@pytest.fixture
def real(model, bench, grammars):
    info = model.info
    return type(bench)(ModelDevice(model), Limits(PAGES, 16, info.max_context, info.vocab_size), grammars)


def run(bench: Any, ids: list[int], count: int, **options: Any) -> list[int]:
    number = bench.open_run(bench.create(ids), count, **options)
    bench.settle()
    return bench.runner.tokens[number]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "sampler", [slow(each) for each in (wire.SamplerSpec(), WARM, wire.SamplerSpec(repetition_penalty=1.1))]
)
def test_guesses_from_the_context_change_no_token(real, tokenizer, sampler):
    ids = tokenizer.encode(PROMPTS["copy"]).ids
    plain = run(real, ids, 48, sampler=sampler, seed=5)
    steps = real.core.stats()["steps"]
    assert run(real, ids, 48, sampler=sampler, seed=5, speculation=LOOKUP) == plain
    if sampler == wire.SamplerSpec():
        assert real.core.stats()["steps"] - steps < 24


@pytest.mark.timeout(300)
@pytest.mark.parametrize("sampler", [wire.SamplerSpec(), slow(WARM)])
def test_the_drawn_path_of_a_tree_is_that_of_plain_decoding(real, tokenizer, sampler):
    ids = tokenizer.encode(PROMPTS["prose"]).ids
    a, b, c, *rest = run(real, ids, 12, sampler=sampler, seed=5)
    context = real.create(ids)
    tokens, parents = [11, a, 12, 13, b, 14, c], [-1, -1, 0, 1, 1, 4, 4]
    asked = wire.Output(0, "token", sampler, 5)
    number = real.send(wire.Verify(context, 0, tokens, parents, asked))
    real.settle()
    assert [slot.token for slot in real.runner.outputs[number]] == [a, b, c, rest[0]]
    again = real.open_run(context, 9, sampler=sampler, seed=5)
    real.settle()
    assert real.runner.tokens[again] == rest


@pytest.mark.timeout(300)
@pytest.mark.parametrize("sampler", [slow(each) for each in (wire.SamplerSpec(), WARM)])
def test_a_schema_holds_with_and_without_guesses(real, tokenizer, grammars, sampler):
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "ages": {"type": "array", "items": {"enum": [1, 2]}, "minItems": 3, "maxItems": 3},
        },
        "required": ["name", "ages"],
        "additionalProperties": False,
    }
    spec = wire.Grammar("json-schema", json.dumps(schema | {"x-guidance": {"whitespace_flexible": False}}))
    assert grammars.compile(spec).done.wait(60)
    ids = tokenizer.encode("A person as JSON: ").ids
    plain = run(real, ids, 64, sampler=sampler, seed=5, grammar=spec)
    assert run(real, ids, 64, sampler=sampler, seed=5, grammar=spec, speculation=LOOKUP) == plain
    said = json.loads(tokenizer.decode(plain))
    assert set(said) == {"name", "ages"}
    assert len(said["ages"]) == 3


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_model_that_drafts_for_itself_is_always_right(model, smollm2, bench, tokenizer):
    """But for the last token of a step, every token of a greedy run is one that was guessed."""
    draft = load(smollm2, TorchAttention(), dtype="float32")
    draft.allocate(PAGES, 16)
    info = model.info
    limits = Limits(PAGES, 16, info.max_context, info.vocab_size, draft_model=True)
    drafted = type(bench)(DraftedDevice(ModelDevice(model), ModelDevice(draft), scratch_page=PAGES), limits)
    plain = type(bench)(ModelDevice(model), limits)
    ids = tokenizer.encode(PROMPTS["prose"]).ids
    expected = run(plain, ids, 40, sampler=WARM, seed=5)
    number = drafted.open_run(
        drafted.create(ids), 40, sampler=WARM, seed=5, speculation=wire.Speculation(model=True, drafts=4)
    )
    drafted.settle()
    assert drafted.runner.tokens[number] == expected
    end = drafted.runner.ends[number]
    assert end.accepted == end.drafted >= 28


def dice(*rows: dict[str, float]) -> ScriptedModel:
    """A model that draws its tokens from given logits."""
    text = msgspec.json.encode({"rules": [{"replies": [{"logits": list(rows)}]}]})
    made = ScriptedModel(msgspec.json.decode(text, type=Script), "dice")
    made.allocate(4096, 4)
    return made


@pytest.mark.parametrize("speculation", [wire.Speculation(), wire.Speculation(model=True, drafts=2)])
def test_stochastic_output_keeps_its_distribution(bench, speculation):
    """Two tokens of 3,000 runs with seeds of their own, drafted by a model with other probabilities, against the exact
    joint distribution, in total variation."""
    main = dice({"65": 1.0, "66": 0.5, "67": 0.0}, {"68": 0.0, "69": 0.8})
    draft = dice({"65": 0.2, "66": 1.0, "67": 0.3}, {"68": 0.7, "69": 0.1})
    limits = Limits(4096, 4, 4096, main.info.vocab_size, draft_model=True)
    device = DraftedDevice(ModelDevice(main), ModelDevice(draft), scratch_page=4096)
    many = type(bench)(device, limits)
    count = 3000
    runs = [
        many.open_run(many.create([1]), 2, sampler=wire.SamplerSpec(1.0), seed=i, speculation=speculation)
        for i in range(count)
    ]
    many.settle()
    assert speculation.model == (sum(many.runner.ends[number].accepted for number in runs) > count // 4)
    drawn = Counter(tuple(many.runner.tokens[number]) for number in runs)

    def probabilities(tokens: list[int]) -> dict[int, float]:
        logits = main.next_logits(tokens)
        weights = np.exp(list(logits.values()))
        return dict(zip(logits, weights / weights.sum(), strict=True))

    exact = {
        (first, second): p * q
        for first, p in probabilities([1]).items()
        for second, q in probabilities([1, first]).items()
    }
    variation = sum(abs(drawn[pair] / count - p) for pair, p in exact.items()) / 2
    assert set(drawn) <= set(exact)
    assert variation < 0.03


# -- a second, different model of the same tokenizer


def save_llama(folder: Path, tokenizer_of: Path, seed: int, layers: int, hidden: int) -> Path:
    """A tiny random Llama that reads the other folder's tokens."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=json.loads((tokenizer_of / "config.json").read_text())["vocab_size"],
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    for file in tokenizer_of.glob("tokenizer*"):
        shutil.copy(file, folder)
    return folder


@pytest.fixture(scope="module")
def pair(smollm2: Path, tmp_path_factory) -> tuple[TransformersModel, Device, Device]:
    """A model, its device, and the same with a smaller model that guesses."""
    folder = tmp_path_factory.mktemp("llamas")
    large = save_llama(folder / "large", smollm2, seed=1, layers=2, hidden=64)
    small = save_llama(folder / "small", smollm2, seed=2, layers=1, hidden=32)
    config = EngineConfig(model=str(large), dtype="float32", kv_memory="64MiB", draft_model=str(small))
    model, drafted, pages = ready_device(config)
    assert pages > PAGES
    return model, ModelDevice(model), drafted


def bench_of(bench: Any, model: TransformersModel, device: Device) -> Any:
    limits = Limits(PAGES, 16, model.info.max_context, model.info.vocab_size, draft_model=True)
    return type(bench)(device, limits)


@pytest.mark.parametrize("sampler", [wire.SamplerSpec(), wire.SamplerSpec(0.7, top_k=3)])
def test_a_different_models_guesses_change_no_token(pair, bench, tokenizer, sampler):
    model, plain, drafted = pair
    prompts = [tokenizer.encode(text).ids for text in PROMPTS.values()]
    by_model = wire.Speculation(model=True, drafts=4)
    expected = [run(bench_of(bench, model, plain), ids, 40, sampler=sampler, seed=5) for ids in prompts]
    guessed = bench_of(bench, model, drafted)
    runs = [guessed.open_run(guessed.create(ids), 40, sampler=sampler, seed=5, speculation=by_model) for ids in prompts]
    guessed.settle()
    assert [guessed.runner.tokens[number] for number in runs] == expected
    ends = [guessed.runner.ends[number] for number in runs]
    assert all(end.drafted > end.accepted for end in ends)


def test_a_different_models_guesses_keep_the_distribution(pair, bench, tokenizer):
    """Two tokens of 500 runs with seeds of their own against the exact joint distribution, in total variation."""
    model, plain, drafted = pair
    ids = tokenizer.encode(PROMPTS["prose"]).ids[:6]
    sampler = wire.SamplerSpec(1.0, top_k=3)

    def likeliest(tokens: list[int]) -> dict[int, float]:
        asked = bench_of(bench, model, plain)
        number = asked.send(wire.Forward(asked.create(tokens), 0, [], [wire.Output(0, "top", top=3)]))
        asked.settle()
        (slot,) = asked.runner.outputs[number]
        return {token: share / sum(slot.probs) for token, share in zip(slot.ids, slot.probs, strict=True)}

    exact = {(a, b): share * then for a, share in likeliest(ids).items() for b, then in likeliest([*ids, a]).items()}
    many = bench_of(bench, model, drafted)
    count, by_model = 500, wire.Speculation(model=True, drafts=2)
    context = many.create(ids)
    many.send(wire.Flush(context, 0))
    forks = range(context + 1, context + 1 + count)
    many.send(*[wire.Fork(child, context, 0, len(ids), "p") for child in forks])
    runs = [many.open_run(child, 2, sampler=sampler, seed=child, speculation=by_model) for child in forks]
    many.settle()
    seen = Counter(tuple(many.runner.tokens[number]) for number in runs)
    assert set(seen) <= set(exact)
    assert sum(abs(seen[both] / count - share) for both, share in exact.items()) / 2 < 0.08
