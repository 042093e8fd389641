"""Families of transformers run packed and paged as they run plainly; one that would not is refused."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pytest
import transformers
from families import DOCUMENT, FAMILIES, REFUSED, attentions, check, configuration, render
from pie_engine.kernels.kv_pool import KvPool
from pie_engine.kernels.torch_attention import TorchAttention
from pie_engine.models.family_check import check_family
from pie_engine.models.transformers_model import TransformersModel, load
from pie_engine.passes.batch import Batch
from pie_wire.errors import BadRequest, NotFound, Unsupported

QUICK = ("GPTNeoX", "Gemma2", "GptOss", "Llama", "Mistral", "Qwen3", "Qwen3Moe")


def tiered(names: Iterable[str]) -> list[Any]:
    """Those not in QUICK belong to the slower tier."""
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("attention", attentions(), ids=lambda attention: attention.name)
@pytest.mark.parametrize("name", tiered(FAMILIES))
def test_family_is_served(name, attention):
    check(configuration(name), attention)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("DeepseekV3", "latent attention"),
        ("FalconH1", "layers of kind"),
        ("Gemma4Text", "does not run"),
        ("Lfm2", "layers of kind conv"),
        ("Llama4Text", "chunked_attention"),
        ("Mamba", "no attention heads"),
        ("Qwen3_5Text", "linear_attention"),
    ],
)
def test_family_is_refused_with_the_reason(name, why):
    with pytest.raises(Unsupported, match=f"{why}.*choose another model"):
        check(configuration(name), TorchAttention())


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSED)
def test_family_is_refused(name):
    with pytest.raises(Unsupported, match="choose another model"):
        check(configuration(name), TorchAttention())


def test_the_document_lists_the_families():
    text = DOCUMENT.read_text()
    table = text.partition("<!-- table: families -->")[2].partition("<!-- end -->")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == sorted(
        configuration(name).model_type for name in FAMILIES
    ), "run python tests/engine/families.py"
    assert len(FAMILIES) >= 25


@pytest.mark.slow
def test_the_document_says_what_the_check_found():
    text = DOCUMENT.read_text()
    assert render(text) == text, "run python tests/engine/families.py"


@pytest.mark.parametrize(("kind", "longest"), [("longrope", 4096), ("default", 131_072)])
def test_a_rotation_that_depends_on_the_pass_limits_the_context(kind, longest):
    rope = {"rope_type": kind, "rope_theta": 1e4, "factor": 32.0, "original_max_position_embeddings": 4096}
    if kind == "longrope":
        rope |= {"short_factor": [1.0] * 48, "long_factor": [4.0] * 48}
    config = transformers.Phi3Config(
        max_position_embeddings=131_072, original_max_position_embeddings=4096, rope_parameters=rope
    )
    made: list[TransformersModel] = []

    def paged(model):
        made.append(TransformersModel(model, TorchAttention(), name="check", pack=False))
        return made[0]

    check_family(config, paged)
    assert made[0].info.max_context == longest


@dataclass
class Forgetful:
    """Attention that does not do what a family needs."""

    forgets: str
    name: str = "forgetful"

    def begin(self, batch: Batch, pool: KvPool) -> Forgetful:
        self.real = TorchAttention().begin(batch, pool)
        return self

    def attend(self, *tensors, **options):
        return self.real.attend(*tensors, **(options | {self.forgets: None}))


@pytest.mark.parametrize(("name", "forgets"), [("Mistral", "window"), ("Gemma2", "softcap"), ("GptOss", "sinks")])
def test_unfaithful_attention_is_refused(name, forgets):
    with pytest.raises(Unsupported, match="choose another model"):
        check(configuration(name), Forgetful(forgets))


def test_unreadable_folders_are_refused(tmp_path):
    with pytest.raises(NotFound):
        load(tmp_path, TorchAttention())
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BadRequest, match=r"config\.json"):
        load(tmp_path, TorchAttention())
    transformers.LlamaConfig(hidden_size=64, num_attention_heads=2, num_hidden_layers=1).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(BadRequest, match="weights"):
        load(tmp_path, TorchAttention())
