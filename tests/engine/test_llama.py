"""The native Llama pass computes what transformers' model does, whatever the family adds, and fails as it would."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
import transformers
from pie_engine.kernels import native
from pie_engine.kernels.attention import Attention
from pie_engine.kernels.native_attention import NativeAttention
from pie_engine.kernels.native_build import find_compiler
from pie_engine.kernels.torch_attention import TorchAttention
from pie_engine.models import packed_linear
from pie_engine.models.base import ModelOutput
from pie_engine.models.family_check import check_family
from pie_engine.models.transformers_model import TransformersModel
from pie_engine.passes.batch import Batch
from pie_engine.passes.build import build
from pie_engine.passes.outputs import HiddenProbe, LogitsProbe, Output
from pie_engine.passes.segment import Segment
from pie_wire.errors import BadRequest
from transformers import AutoModelForCausalLM

ISAS = [isa for isa in ("avx2", "avx512bf16") if isa in {native.best_isa(native._processor_flags(), isa)}]

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32}

FAMILIES = {
    "llama": ("LlamaConfig", {}),
    "llama with biases": ("LlamaConfig", {"attention_bias": True, "mlp_bias": True}),
    "llama 3": ("LlamaConfig", {"rope_parameters": LLAMA3}),
    "llama with yarn": ("LlamaConfig", {"rope_parameters": YARN}),
    "mistral": ("MistralConfig", {"sliding_window": 16, "head_dim": 32}),
    "qwen 2": ("Qwen2Config", {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}),
    "qwen 3": ("Qwen3Config", {"head_dim": 64}),
}


@pytest.fixture(params=ISAS)
def kernels(request, monkeypatch) -> native.Native:
    """One level of kernels, used by every model that is made."""
    if find_compiler() is None:
        pytest.skip("no C++ compiler")
    found = native.load_from(native.pie_home() / "native", request.param)
    monkeypatch.setattr(packed_linear, "load", lambda: found)
    # Not measured: a slow moment would leave the passes of more rows to the plain model.
    monkeypatch.setattr(packed_linear, "_measure", lambda native: None)
    return found


def tiny(family: str = "llama", **more: object):
    name, values = FAMILIES[family]
    sizes = {
        "hidden_size": 96,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 3 if family != "mistral" else 4,
        "num_key_value_heads": 1,
        "vocab_size": 300,
        "max_position_embeddings": 256,
        "initializer_range": 0.2,
    }
    return getattr(transformers, name)(**(sizes | values | more))


def paged(config, dtype: torch.dtype = torch.float32, attention: Attention | None = None) -> TransformersModel:
    torch.manual_seed(0)
    plain = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model = TransformersModel(plain, attention or TorchAttention(), name="tiny")
    model.allocate(16, 16)
    return model


def ask(tokens: Sequence[int], rows: Sequence[int], page: int = 0) -> Segment:
    outputs = tuple(Output(row, row + 1, LogitsProbe()) for row in rows)
    return Segment(tokens, range(len(tokens)), 0, [page, page + 1, page + 2, page + 3], outputs=outputs)


def batch(*segments: Segment) -> Batch:
    return build(segments, page_size=16, scratch_page=16)


def plainly(model: TransformersModel, of: Batch) -> ModelOutput:
    """By transformers' model code."""
    passes, model._passes = model._passes, None
    try:
        return model.forward(of)
    finally:
        model._passes = passes


@pytest.mark.parametrize("attends", ["natively", pytest.param("in Python", marks=pytest.mark.slow)])
@pytest.mark.parametrize("family", FAMILIES)
def test_families_are_served_natively(kernels, family, attends):
    attention = NativeAttention(kernels) if attends == "natively" else TorchAttention()
    made: list[TransformersModel] = []

    def make(plain: transformers.PreTrainedModel) -> TransformersModel:
        made.append(TransformersModel(plain, attention, name="check"))
        return made[-1]

    check_family(tiny(family), make)

    assert made[0].info.backend == f"{attention.name}+native-llama+native-{kernels.isa}"


def test_a_row_alone_and_among_others_is_the_same_to_the_bit(kernels):
    model = paged(tiny(), attention=NativeAttention(kernels))
    mine = ask(range(20, 40), [19])
    others = [ask(range(30), [29], page=4), ask([8], [0], page=8)]

    alone = model.forward(batch(mine)).logits
    among = model.forward(batch(*others, mine)).logits

    assert torch.equal(among[2:], alone)


@pytest.mark.parametrize("family", ["llama", "qwen 3"])
def test_bfloat16_is_close(kernels, family):
    model = paged(tiny(family), torch.bfloat16)
    whole = batch(ask(range(1, 38), [36]), ask(range(50, 53), [0, 2], page=8))

    ours, theirs = model.forward(whole).logits, plainly(model, whole).logits.float()

    assert torch.allclose(ours, theirs, atol=0.05 * float(theirs.abs().max()))


def test_logits_and_hidden_states_of_the_rows_asked(kernels):
    model = paged(tiny())
    hidden = Segment([3, 2], range(2), 0, [4], outputs=(Output(0, 1, HiddenProbe()), Output(1, 2, LogitsProbe())))
    asked = batch(ask([5, 6, 7], [2, 0, 2]), hidden, ask([9, 8], [1], page=8), ask([1], [], page=12))

    ours, theirs = model.forward(asked), plainly(model, asked)

    assert ours.logits.shape == (4, 300)
    assert torch.allclose(ours.logits, theirs.logits, atol=1e-3)
    assert ours.hidden is not None
    assert theirs.hidden is not None
    assert torch.allclose(ours.hidden, theirs.hidden, atol=1e-4)
    assert model.forward(batch(ask([4], []))).logits.shape == (0, 300)


def test_many_rows(kernels):
    model = paged(tiny(max_position_embeddings=1024))
    model.allocate(64, 16)
    tokens = [(7 * i) % 300 for i in range(600)]
    outputs = (Output(599, 600, LogitsProbe()), Output(17, 18, LogitsProbe()))
    whole = build([Segment(tokens, range(600), 0, range(40), outputs=outputs)], page_size=16, scratch_page=64)

    assert torch.allclose(model.forward(whole).logits, plainly(model, whole).logits, atol=2e-3)


def test_a_token_outside_of_the_vocabulary_is_refused(kernels):
    model = paged(tiny())

    for token in (300, -1):
        with pytest.raises(BadRequest, match="vocabulary"):
            model.forward(batch(ask([1, token], [1])))


def test_an_error_of_attention_is_raised(kernels, monkeypatch):
    model = paged(tiny())
    begun = model._attention.begin

    def begin(of, pool):
        attention = begun(of, pool)
        monkeypatch.setattr(attention, "attend", lambda *given, **options: 1 / 0)
        return attention

    monkeypatch.setattr(model._attention, "begin", begin)

    with pytest.raises(ZeroDivisionError):
        model.forward(batch(ask([1, 2], [1])))


@pytest.mark.parametrize(
    "config",
    [
        tiny(hidden_act="gelu"),
        tiny(hidden_size=90, head_dim=32),
        tiny(intermediate_size=100),
        tiny(head_dim=24),
        transformers.GPTNeoXConfig(hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2),
    ],
)
def test_what_does_not_fit_is_left_to_transformers(kernels, config):
    assert paged(config)._passes is None


def test_without_kernels_transformers_serves(monkeypatch):
    monkeypatch.setattr(packed_linear, "load", lambda: None)

    assert paged(tiny()).info.backend == "torch"


def test_passes_of_many_rows_are_left_to_onednn(kernels, monkeypatch):
    if not packed_linear._has_onednn():
        pytest.skip("torch has no oneDNN for bfloat16")
    monkeypatch.setattr(packed_linear, "_measure", lambda native: 8)
    model = paged(tiny(), torch.bfloat16)
    few, many = batch(ask(range(7), [6])), batch(ask(range(8), [7]))

    assert model._is_ours(few)
    assert not model._is_ours(many)
    assert torch.equal(model.forward(many).logits, plainly(model, many).logits)
