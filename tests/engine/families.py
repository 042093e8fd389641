"""The families of docs/models.md, and what writes them there: `python tests/engine/families.py`.

A family is listed when a tiny random model of its configuration gives the same logits plainly and through the engine's
pages, with every implementation of attention that this machine has.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import transformers
from pie_engine.kernels.attention import Attention, AttentionPass
from pie_engine.kernels.choice import available_attentions
from pie_engine.kernels.kv_pool import KvPool
from pie_engine.kernels.torch_attention import TorchAttention
from pie_engine.models.family_check import check_family
from pie_engine.models.transformers_model import TransformersModel
from pie_engine.passes.batch import Batch
from torch import Tensor
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

DOCUMENT = Path(__file__).parents[2] / "docs" / "models.md"

FAMILIES: dict[str, dict[str, Any]] = {
    "Afmoe": {},
    "Apertus": {},
    "Arcee": {},
    "BitNet": {},
    "Cohere": {},
    "Cohere2": {},
    "Cwm": {},
    "Ernie4_5": {},
    "Ernie4_5_Moe": {},
    "Exaone4": {},
    "FlexOlmo": {},
    "GPT2": {},
    "GPTBigCode": {},
    "GPTNeoX": {},
    "Gemma": {},
    "Gemma2": {},
    "Gemma3Text": {},
    "Glm": {},
    "Glm4": {},
    "Glm4Moe": {},
    "GptOss": {},
    "Granite": {"attention_multiplier": 0.1, "logits_scaling": 2.0},
    "GraniteMoe": {},
    "Helium": {},
    "HunYuanDenseV1": {"head_dim": 128},
    "HunYuanMoEV1": {"head_dim": 128},
    "Jais2": {},
    "Llama": {},
    "Ministral": {"head_dim": 128},
    "Ministral3": {},
    "Mistral": {"sliding_window": 4096},
    "Mixtral": {},
    "NanoChat": {},
    "OPT": {},
    "Olmo": {},
    "Olmo2": {},
    "Olmo3": {},
    "Olmoe": {},
    "Persimmon": {},
    "Phi": {},
    "Phi3": {"sliding_window": 2048},
    "Phimoe": {},
    "Qwen2": {},
    "Qwen2Moe": {},
    "Qwen3": {},
    "Qwen3Moe": {},
    "SeedOss": {},
    "SmolLM3": {},
    "StableLm": {},
    "Starcoder2": {},
    "VaultGemma": {},
}
"""By the name of the configuration class without `Config`, with what a real model of the family would set."""

REFUSED: dict[str, dict[str, Any]] = {
    "DeepseekV3": {},
    "DiffLlama": {},
    "Doge": {},
    "Falcon": {},
    "FalconH1": {},
    "Gemma4Text": {},
    "Jamba": {},
    "Lfm2": {"layer_types": ["conv", "full_attention"] * 16},
    "Llama4Text": {},
    "Mamba": {},
    "MiniMax": {},
    "Qwen3Next": {},
    "Qwen3_5Text": {},
    "XGLM": {},
}


def attentions() -> list[Attention]:
    """What this machine can attend with."""
    return available_attentions("cpu")


def configuration(name: str) -> transformers.PreTrainedConfig:
    options = FAMILIES.get(name, REFUSED.get(name, {}))
    return getattr(transformers, f"{name}Config")(**options)


def check(config: transformers.PreTrainedConfig, attention: Attention) -> None:
    """Raises Unsupported when the family is not served faithfully."""
    check_family(config, lambda model: TransformersModel(model, attention, name="check", pack=False))


@dataclass
class Observed:
    """Attention that remembers what it was asked for beside keys and values."""

    real: Attention
    asked: set[str] = field(default_factory=set)
    name: str = "observed"

    def begin(self, batch: Batch, pool: KvPool) -> AttentionPass:
        self._pass = self.real.begin(batch, pool)
        return self

    def attend(self, layer: int, *tensors: Tensor, **options: Any) -> Tensor:
        self.asked |= {name for name in ("window", "softcap", "sinks") if options.get(name) is not None}
        return self._pass.attend(layer, *tensors, **options)


def _rows() -> Iterator[str]:
    yield "| family | class | of attention beyond the plain |"
    yield "|---|---|---|"
    for name in sorted(FAMILIES, key=str.lower):
        config = configuration(name)
        seen = Observed(TorchAttention())
        check(config, seen)
        for attention in attentions():
            check(config, attention)
        words = {"window": "window", "softcap": "soft cap", "sinks": "sinks"}
        asked = ", ".join(words[each] for each in words if each in seen.asked)
        yield f"| `{config.model_type}` | {MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config.model_type]} | {asked or '-'} |"


_PART = re.compile(r"(<!-- table: families -->\n).*?(<!-- end -->)", re.DOTALL)


def render(text: str, rows: Callable[[], Iterator[str]] = _rows) -> str:
    """The document with its table as it should be."""
    return _PART.sub(lambda part: part[1] + "\n" + "\n".join(rows()) + "\n\n" + part[2], text)


if __name__ == "__main__":
    DOCUMENT.write_text(render(DOCUMENT.read_text()))
