"""Families of transformers run packed and paged as they run plainly; one that would not is refused."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import transformers
from pie_engine.batch import Batch
from pie_engine.kernels.kv_pool import KvPool
from pie_engine.kernels.torch_attention import TorchAttention
from pie_engine.models.family_check import check_family
from pie_engine.models.transformers_model import TransformersModel, load
from pie_wire.errors import BadRequest, NotFound, Unsupported

FAMILIES = {
    "LlamaConfig": {},
    "MistralConfig": {"sliding_window": 4096},
    "Qwen2Config": {},
    "Qwen3Config": {},
    "Gemma2Config": {},
    "Gemma3TextConfig": {},
    "Phi3Config": {},
    "Olmo2Config": {},
    "GptOssConfig": {"num_local_experts": 4},
    "GraniteConfig": {"attention_multiplier": 0.1, "logits_scaling": 2.0},
    "SmolLM3Config": {},
    "GPTNeoXConfig": {},
}


def check(config, attention) -> None:
    check_family(config, lambda model: TransformersModel(model, attention, name="check", pack=False))


QUICK = ("LlamaConfig", "MistralConfig", "Qwen3Config", "Gemma2Config")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]
)
def test_family_is_served(name):
    check(getattr(transformers, name)(**FAMILIES[name]), TorchAttention())


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


@pytest.mark.parametrize(
    ("name", "forgets"),
    [
        ("MistralConfig", "window"),
        ("Gemma2Config", "softcap"),
        pytest.param("GptOssConfig", "sinks", marks=pytest.mark.slow),
    ],
)
def test_unfaithful_attention_is_refused(name, forgets):
    config = getattr(transformers, name)(**FAMILIES[name])
    with pytest.raises(Unsupported, match="choose another model"):
        check(config, Forgetful(forgets))


def test_recurrent_family_is_refused():
    with pytest.raises(Unsupported, match="choose another model"):
        check(transformers.MambaConfig(), TorchAttention())


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
