"""Adapters as PEFT writes them, made of random numbers; and models with adapters merged into their weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
ALL = (*ATTENTION, "gate_proj", "up_proj", "down_proj")


def write_adapter(
    folder: Path,
    model: PreTrainedModel,
    *,
    seed: int = 0,
    rank: int = 4,
    targets: Sequence[str] = ALL,
    size: float = 0.1,
    dtype: torch.dtype = torch.float32,
    **config: Any,
) -> Path:
    """A folder as `save_pretrained` writes it, with an effect of about `size` times what the weights have."""
    generator = torch.Generator().manual_seed(seed)
    ranks: dict[str, int] = config.get("rank_pattern") or {}
    tensors: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in targets:
            r = next((value for key, value in ranks.items() if name.endswith(key)), rank)
            a = torch.randn(r, module.in_features, generator=generator) * module.in_features**-0.5
            b = torch.randn(module.out_features, r, generator=generator)
            b *= size * float(module.weight.detach().float().std()) * module.in_features**0.5 * r**-0.5
            tensors[f"base_model.model.{name}.lora_A.weight"] = a.to(dtype)
            tensors[f"base_model.model.{name}.lora_B.weight"] = b.to(dtype)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "adapter_model.safetensors")
    fields = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "org/tiny",
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": list(targets),
        "bias": "none",
        "lora_dropout": 0.05,
    }
    (folder / "adapter_config.json").write_text(json.dumps(fields | config))
    return folder


@torch.no_grad()
def merge(model: PreTrainedModel, folder: Path, scaling: float, weight: float = 1.0, **own: float) -> None:
    """Add an adapter to the weights: W + weight * scaling * B @ A, `own` scalings by the end of a module's name."""
    tensors = load_file(folder / "adapter_model.safetensors")
    for name, module in model.named_modules():
        a = tensors.get(f"base_model.model.{name}.lora_A.weight")
        if a is not None and isinstance(module, nn.Linear):
            b = tensors[f"base_model.model.{name}.lora_B.weight"]
            factor = next((value for key, value in own.items() if name.endswith(key)), scaling)
            module.weight += (weight * factor * (b.double() @ a.double())).to(module.weight.dtype)
