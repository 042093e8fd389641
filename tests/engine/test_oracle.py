"""Greedy tokens of the real model through the whole core, equal to `transformers.generate` in float32, with every
attention that runs here."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest
import torch
from pie_engine.kernels.attention import Attention
from pie_engine.kernels.choice import available_attentions
from pie_engine.limits import Limits
from pie_engine.models.model_device import ModelDevice
from pie_engine.models.transformers_model import TransformersModel, load
from pie_wire.messages import engine as wire
from pie_wire.messages.common import Account
from pie_wire.messages.runner import Slot
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

PROMPTS = (
    "The capital of France is",
    "Once upon a time, in a village by the sea, there lived",
    "def fibonacci(n):\n    ",
    "Water boils at 100 degrees because",
    "List three colours and say why each is used in road signs:\n1.",
)
COUNT = 64
PAGES = 256


@dataclass
class Oracle:
    folder: Path
    attention: Attention
    device: str = "cpu"

    @cached_property
    def prompts(self) -> list[list[int]]:
        tokenizer = AutoTokenizer.from_pretrained(self.folder)
        return [tokenizer(text).input_ids for text in PROMPTS]

    @cached_property
    def expected(self) -> list[list[int]]:
        plain = AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32).eval()
        # Without an end token every prompt gives all of its tokens.
        plain.generation_config.eos_token_id = None
        # Two threads of one small product collapse on a busy machine, as each waits for the other.
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return [self._generate(plain, ids) for ids in self.prompts]
        finally:
            torch.set_num_threads(threads)

    def _generate(self, plain: PreTrainedModel, ids: list[int]) -> list[int]:
        mask = torch.ones(1, len(ids), dtype=torch.long)
        tokens = plain.generate(
            torch.tensor([ids]), attention_mask=mask, max_new_tokens=COUNT, do_sample=False, pad_token_id=0
        )
        return tokens[0, len(ids) :].tolist()

    @cached_property
    def model(self) -> TransformersModel:
        model = load(self.folder, self.attention, dtype="float32", device=self.device)
        model.allocate(PAGES, 16)
        return model


@pytest.fixture(
    scope="module",
    params=[
        ("cpu", 0),
        pytest.param(("cpu", 1), marks=pytest.mark.slow),
        pytest.param(("cuda", 0), marks=pytest.mark.gpu),
        pytest.param(("cuda", 1), marks=pytest.mark.gpu),
    ],
    ids=lambda param: f"{param[0]}-{param[1]}",
)
def oracle(request, smollm2: Path) -> Oracle:
    """With the best attention, and (slow) with the next; on a GPU, where there is one, with recorded decodes."""
    device, index = request.param
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    found = available_attentions(device)
    if index >= len(found):
        pytest.skip("only one attention runs here")
    return Oracle(smollm2, found[index], device)


@pytest.fixture
def real(oracle, bench):
    """A bench whose device is the real model."""
    info = oracle.model.info
    limits = Limits(PAGES, 16, info.max_context, info.vocab_size)
    return type(bench)(ModelDevice(oracle.model), limits)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_stream_alone(oracle, real):
    for ids, expected in zip(oracle.prompts, oracle.expected, strict=True):
        run = real.open_run(real.create(ids), COUNT)
        real.settle()
        assert real.runner.tokens[run] == expected


@pytest.mark.timeout(300)
@pytest.mark.slow
def test_stream_batched(oracle, real):
    runs = [real.open_run(real.create(ids), COUNT) for ids in oracle.prompts]
    real.settle()
    assert [real.runner.tokens[run] for run in runs] == oracle.expected


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_lockstep_batched(oracle, real):
    contexts = [real.create(ids) for ids in oracle.prompts]
    tokens: list[list[int]] = [[] for _ in contexts]
    for _ in range(COUNT):
        numbers = [
            real.send(wire.Forward(context, 0, said[-1:], [wire.Output(0)]))
            for context, said in zip(contexts, tokens, strict=True)
        ]
        real.settle()
        for said, number in zip(tokens, numbers, strict=True):
            said.append(real.runner.outputs[number][0].token)
    assert tokens == oracle.expected


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("swap", [0, 64])
def test_half_a_pool_gives_the_same_tokens(oracle, bench, swap):
    """A working set of twice the pool: contexts lose their KV, are computed again or swapped, and all end right."""
    info = oracle.model.info
    need = sum(-(-(len(ids) + COUNT) // 16) for ids in oracle.prompts)
    limits = Limits(need // 2, 16, info.max_context, info.vocab_size, swap_pages=swap)
    oracle.model.allocate(limits.pages, 16)
    real = type(bench)(ModelDevice(oracle.model), limits)
    runs = [real.open_run(real.create(ids), COUNT) for ids in oracle.prompts]
    real.settle()
    oracle.model.allocate(PAGES, 16)
    stats = real.core.stats()
    assert stats["evictions"] > 0
    assert stats["kills"] == 0
    assert stats["moved"] > 0 if swap else stats["recomputed"] > 0
    assert [real.runner.tokens[run] for run in runs] == oracle.expected


@pytest.mark.timeout(300)
def test_logits_of_a_pass_equal_the_plain_models(oracle, real):
    ids = oracle.prompts[1]
    number = real.send(
        wire.Create(1, "p", "local", Account()), wire.Forward(1, 0, ids, [wire.Output(len(ids) - 1, "logits")])
    )
    real.settle()
    ours = torch.frombuffer(bytearray(real.runner.buffers[number][0]), dtype=torch.float32)
    plain = AutoModelForCausalLM.from_pretrained(oracle.folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        theirs = plain(torch.tensor([ids])).logits[0, -1]
    assert torch.allclose(ours, theirs, atol=2e-3)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_bfloat16_is_close_to_float32(oracle, bench):
    """Packed bfloat16: the same most likely token wherever float32 is sure of it."""
    model = load(oracle.folder, oracle.attention, dtype="bfloat16")
    model.allocate(PAGES, 16)
    half = type(bench)(ModelDevice(model), Limits(PAGES, 16, model.info.max_context, model.info.vocab_size))
    whole = type(bench)(ModelDevice(oracle.model), Limits(PAGES, 16, model.info.max_context, model.info.vocab_size))
    for ids, expected in zip(oracle.prompts, oracle.expected, strict=True):
        outputs = [wire.Output(row, "top", top=2) for row in range(len(ids) - 1, len(ids) + COUNT - 1)]
        answers: list[list[Slot]] = []
        for side in (half, whole):
            number = side.send(wire.Forward(side.create(), 0, ids + expected[:-1], outputs))
            side.settle()
            answers.append(side.runner.outputs[number])
        for ours, reference in zip(*answers, strict=True):
            if reference.probs[0] > 2 * reference.probs[1]:
                assert ours.ids[0] == reference.ids[0]
