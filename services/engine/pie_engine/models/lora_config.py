"""`adapter_config.json` of PEFT: what of it decides the result, and what we refuse.

Names and meanings: https://huggingface.co/docs/peft/package_reference/lora, class LoraConfig.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isfinite, sqrt
from pathlib import Path
from typing import TypeVar

import msgspec
from pie_wire.errors import BadField, NotFound, Unsupported

Number = TypeVar("Number", int, float)

FILE = "adapter_config.json"
_MAX_BYTES = 4 << 20


class LoraConfig(msgspec.Struct, frozen=True):
    """The fields that matter here; others only tell how the adapter was trained."""

    peft_type: str = ""
    base_model_name_or_path: str | None = None
    r: int = 8
    lora_alpha: float = 8
    target_modules: str | list[str] | None = None
    exclude_modules: str | list[str] | None = None
    layers_to_transform: int | list[int] | None = None
    rank_pattern: dict[str, int] | None = None
    alpha_pattern: dict[str, float] | None = None
    use_rslora: bool = False
    bias: str = "none"
    use_dora: bool = False
    use_qalora: bool = False
    lora_bias: bool = False
    fan_in_fan_out: bool = False
    modules_to_save: list[str] | None = None
    target_parameters: list[str] | None = None
    trainable_token_indices: list[int] | dict[str, list[int]] | None = None
    layer_replication: list[list[int]] | None = None
    alora_invocation_tokens: list[int] | None = None

    def rank(self, module: str) -> int:
        """Of a module by its full name."""
        return _by_pattern(self.rank_pattern, module, self.r)

    def scaling(self, module: str) -> float:
        """The factor of `B @ A`: alpha / r, or alpha / sqrt(r) for rank-stabilised LoRA (Kalajdzievski, 2023)."""
        alpha, rank = _by_pattern(self.alpha_pattern, module, self.lora_alpha), self.rank(module)
        return alpha / sqrt(rank) if self.use_rslora else alpha / rank

    def targets(self, module: str) -> bool:
        """Whether the configuration names this module; False for all when it names none."""
        if not _names(self.target_modules, module) or _names(self.exclude_modules, module):
            return False
        if self.layers_to_transform is None:
            return True
        layers = self.layers_to_transform
        index = next((int(part) for part in module.split(".") if part.isdecimal()), None)
        return index in (layers if isinstance(layers, list) else [layers])


def read_config(folder: Path) -> LoraConfig:
    """Read and check. Raises NotFound, BadField, or Unsupported for what changes the result and is not computed
    here."""
    path = folder / FILE
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise BadField(f"{path} has more than {_MAX_BYTES} bytes: it is no adapter's configuration")
        config = msgspec.json.decode(path.read_bytes(), type=LoraConfig)
    except (OSError, ValueError) as exc:
        if isinstance(exc, msgspec.MsgspecError | UnicodeDecodeError):
            raise BadField(f"{path} cannot be read as a LoRA configuration of PEFT: {exc}") from exc
        raise NotFound(f"{folder} has no readable {FILE}: give the folder that PEFT's save_pretrained wrote") from exc
    if config.peft_type.upper() != "LORA":
        raise Unsupported(f"{path}: adapters of type {config.peft_type!r} are not computed here, LORA is")
    for what, refused in _refused(config).items():
        if refused:
            raise Unsupported(f"{path}: {what}")
    _check_numbers(config, path)
    return config


def _refused(config: LoraConfig) -> Mapping[str, bool]:
    return {
        "DoRA rescales weights by their norms, which is not computed here: train plain LoRA (use_dora false)": (
            config.use_dora
        ),
        f'biases are not adapted here: train with bias "none", not {config.bias!r}': config.bias != "none",
        "biases of the adapter's own layers (lora_bias) are not computed here": config.lora_bias,
        "QA-LoRA pools its inputs, which is not computed here": config.use_qalora,
        "transposed weights (fan_in_fan_out) are not adapted here": config.fan_in_fan_out,
        "whole modules beside the adapter (modules_to_save) are not exchanged here": bool(config.modules_to_save),
        "bare parameters (target_parameters) are not adapted here, linear layers are": bool(config.target_parameters),
        "new token embeddings (trainable_token_indices) are not exchanged here": bool(config.trainable_token_indices),
        "replicated layers (layer_replication) make another model: merge them": bool(config.layer_replication),
        "activated LoRA is off until its invocation tokens: load it without alora_invocation_tokens and set it on the "
        "context behind the prompt": bool(config.alora_invocation_tokens),
    }


def _check_numbers(config: LoraConfig, path: Path) -> None:
    ranks = [config.r, *(config.rank_pattern or {}).values()]
    if min(ranks) < 1:
        raise BadField(f"{path}: a rank must be at least 1, not {min(ranks)}")
    alphas = [config.lora_alpha, *(config.alpha_pattern or {}).values()]
    if not all(isfinite(alpha) for alpha in alphas):
        raise BadField(f"{path}: lora_alpha must be a number")
    patterns = [*(config.rank_pattern or {}), *(config.alpha_pattern or {})]
    patterns += [p for p in (config.target_modules, config.exclude_modules) if isinstance(p, str)]
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as exc:
            raise BadField(f"{path}: {pattern!r} is no regular expression: {exc}") from exc


def _by_pattern(patterns: Mapping[str, Number] | None, module: str, default: Number) -> Number:
    """The first pattern that matches the end of the name, at a dot."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def _names(wanted: str | list[str] | None, module: str) -> bool:
    """PEFT's rule: a string is a regular expression of the whole name, a list has names or their ends."""
    if wanted is None:
        return False
    if isinstance(wanted, str):
        return wanted == "all-linear" or re.fullmatch(wanted, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in wanted)
