"""Adapter folders that must be refused, each with its error; and what decides a digest."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
import transformers
from hypothesis import given, settings
from lora_files import write_adapter
from pie_engine.models.lora_file import Adaptable, LoraAdapter, read_adapter
from pie_engine.models.lora_hooks import adaptable_of
from pie_wire.errors import PieError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

MOST = 1 << 24
Q0 = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=48, num_attention_heads=2, num_hidden_layers=2, vocab_size=64
    )
    return AutoModelForCausalLM.from_config(config)


@pytest.fixture(scope="module")
def adaptable(model) -> Adaptable:
    return adaptable_of(model, "tiny")


@pytest.fixture
def folder(model, tmp_path) -> Path:
    return write_adapter(tmp_path / "adapter", model)


def with_config(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def with_tensors(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def test_a_good_one(folder, adaptable):
    adapter = read_adapter(folder, adaptable, MOST)
    assert adapter.facts.modules == 14
    assert adapter.facts.rank == 4
    assert adapter.facts.size == sum(4 * (x.a.numel() + x.b.numel()) for x in adapter.layers.values())
    assert set(adapter.layers) == set(adaptable.linears)


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({"peft_type": "IA3"}, "unsupported", "IA3"),
        ({"use_dora": True}, "unsupported", "DoRA"),
        ({"bias": "all"}, "unsupported", "bias"),
        ({"lora_bias": True}, "unsupported", "lora_bias"),
        ({"fan_in_fan_out": True}, "unsupported", "transposed"),
        ({"modules_to_save": ["lm_head"]}, "unsupported", "modules_to_save"),
        ({"target_parameters": ["experts.w1"]}, "unsupported", "target_parameters"),
        ({"trainable_token_indices": [1]}, "unsupported", "token"),
        ({"layer_replication": [[0, 1]]}, "unsupported", "replicated"),
        ({"alora_invocation_tokens": [1]}, "unsupported", "invocation"),
        ({"use_qalora": True}, "unsupported", "QA-LoRA"),
        ({"r": 0}, "bad_field", "rank"),
        ({"r": "many"}, "bad_field", "LoRA configuration"),
        ({"r": 8}, "bad_field", "shape"),
        ({"rank_pattern": {"q_proj": -1}}, "bad_field", "rank"),
        ({"rank_pattern": {"q_proj": 2}}, "bad_field", "shape"),
        ({"rank_pattern": {"(": 2}}, "bad_field", "regular expression"),
        ({"target_modules": "("}, "bad_field", "regular expression"),
        ({"lora_alpha": 1e42}, "bad_field", "not finite"),
    ],
)
def test_configurations_that_are_refused(folder, adaptable, changes, code, says):
    with_config(folder, **changes)
    with pytest.raises(PieError, match=says) as caught:
        read_adapter(folder, adaptable, MOST)
    assert caught.value.code == code


def _set(name: str, tensor: Tensor) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: tensors.update({name: tensor})


def _nan(tensors: dict[str, Tensor]) -> None:
    tensors[f"{Q0}.lora_A.weight"][1, 2] = float("nan")


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        (_nan, "bad_field", "not finite"),
        (_set(f"{Q0}.lora_B.weight", torch.full((32, 4), float("inf"))), "bad_field", "not finite"),
        (_set(f"{Q0}.lora_A.weight", torch.zeros(4, 64)), "bad_field", "shape"),
        (_set(f"{Q0}.lora_B.weight", torch.zeros(4, 32)), "bad_field", "shape"),
        (_set(f"{Q0}.lora_B.weight", torch.zeros(32, 4, dtype=torch.int32)), "bad_field", "floating point"),
        (lambda tensors: tensors.pop(f"{Q0}.lora_B.weight"), "bad_field", "incomplete"),
        (
            lambda tensors: [tensors.pop(f"{Q0}.lora_{half}.weight") for half in "AB"],
            "bad_field",
            "1 target modules are missing",
        ),
        (lambda tensors: tensors.clear(), "bad_field", "no tensors"),
        (_set(f"{Q0}.lora_magnitude_vector", torch.ones(32)), "unsupported", "DoRA"),
        (_set("base_model.model.model.embed_tokens.lora_embedding_A", torch.ones(4, 64)), "unsupported", "linear"),
        (_set("model.layers.0.self_attn.q_proj.weight", torch.ones(32, 32)), "unsupported", "lora_A and lora_B"),
    ],
)
def test_tensors_that_are_refused(folder, adaptable, change, code, says):
    with_tensors(folder, change)
    with pytest.raises(PieError, match=says) as caught:
        read_adapter(folder, adaptable, MOST)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("module", "code"),
    [("lm_head", "unsupported"), ("model.layers.2.self_attn.q_proj", "bad_field"), ("", "bad_field")],
)
def test_modules_that_cannot_be_adapted(folder, adaptable, module, code):
    for half, shape in (("A", (4, 32)), ("B", (32, 4))):
        with_tensors(folder, _set(f"base_model.model.{module}.lora_{half}.weight", torch.zeros(shape)))
    with pytest.raises(PieError) as caught:
        read_adapter(folder, adaptable, MOST)
    assert caught.value.code == code


def test_folders_that_are_none(folder, adaptable, tmp_path):
    def code(path: Path) -> str:
        with pytest.raises(PieError) as caught:
            read_adapter(path, adaptable, MOST)
        return caught.value.code

    assert code(tmp_path / "nowhere") == "not_found"
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    assert code(folder) == "unsupported"
    (folder / "adapter_model.bin").unlink()
    assert code(folder) == "not_found"
    (folder / "adapter_config.json").write_text("[]")
    assert code(folder) == "bad_field"
    (folder / "adapter_config.json").unlink()
    assert code(folder) == "not_found"


def test_one_that_does_not_fit(folder, adaptable):
    size = read_adapter(folder, adaptable, MOST).facts.size
    read_adapter(folder, adaptable, size)
    for most in (size - 1, 0):
        with pytest.raises(PieError, match=r"adapter_memory|left for adapters") as caught:
            read_adapter(folder, adaptable, most)
        assert caught.value.code == "out_of_memory"


@settings(max_examples=40)
@given(data=st.data())
def test_damaged_files_give_typed_errors(tmp_path_factory, model, adaptable, data):
    """Whatever is cut or changed: a typed error, or an adapter whose numbers are finite."""
    folder = write_adapter(tmp_path_factory.getbasetemp() / "damaged", model)
    name = data.draw(st.sampled_from(["adapter_model.safetensors", "adapter_config.json"]))
    whole = (folder / name).read_bytes()
    if data.draw(st.booleans()):
        damaged = bytearray(whole[: data.draw(st.integers(0, len(whole) - 1))])
    else:
        damaged = bytearray(whole)
        for at in data.draw(st.lists(st.integers(0, min(len(whole), 4000) - 1), min_size=1, max_size=8)):
            damaged[at] = data.draw(st.integers(0, 255))
    (folder / name).write_bytes(damaged)
    try:
        adapter = read_adapter(folder, adaptable, MOST)
    except PieError:
        return
    assert isinstance(adapter, LoraAdapter)
    assert all(bool(x.a.isfinite().all() and x.b.isfinite().all()) for x in adapter.layers.values())


def test_the_digest_is_that_of_what_is_computed(folder, adaptable):
    first = read_adapter(folder, adaptable, MOST).facts.digest
    with_config(folder, lora_dropout=0.5, base_model_name_or_path="other/name", inference_mode=True)
    assert read_adapter(folder, adaptable, MOST).facts.digest == first
    with_config(folder, lora_alpha=9)
    second = read_adapter(folder, adaptable, MOST).facts.digest
    with_config(folder, use_rslora=True)
    assert len({first, second, read_adapter(folder, adaptable, MOST).facts.digest}) == 3
