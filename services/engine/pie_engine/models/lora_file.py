"""LoRA adapters in PEFT's format, read from a folder: `adapter_config.json` and `adapter_model.safetensors`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import structlog
import torch
from pie_wire.errors import BadField, NotFound, OutOfMemory, Unsupported
from safetensors import SafetensorError
from torch import Tensor

from pie_engine.models.lora_config import LoraConfig, read_config
from pie_engine.passes.device import AdapterFacts

FILE = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_HEADER = 1 << 20
_ITEM = 4
"""Bytes of a number as held: float32, whose small products are several times faster on a CPU than bfloat16's."""

log = structlog.get_logger("pie.engine")


@dataclass(frozen=True, slots=True)
class Adaptable:
    """What of a model adapters may change: `linears` has (inputs, outputs) of linear layers by full name, `others` the
    names of the layers that are there and cannot be adapted."""

    model: str
    linears: Mapping[str, tuple[int, int]]
    others: frozenset[str]


@dataclass(frozen=True, slots=True)
class LoraLayer:
    """What is added to one linear layer: `inputs @ a.T @ b`. `a` is `[rank, in]`, `b` `[rank, out]` with the scaling
    in it; float32, contiguous."""

    a: Tensor
    b: Tensor


@dataclass(frozen=True, slots=True)
class LoraAdapter:
    """A `LoadedAdapter`: layers by the full name of the linear layer. `width`: most inputs and outputs of one."""

    facts: AdapterFacts
    layers: Mapping[str, LoraLayer]
    width: int


def read_adapter(folder: Path, adaptable: Adaptable, most: int, device: torch.device | None = None) -> LoraAdapter:
    """Read and check against the model. Raises NotFound, Unsupported, OutOfMemory (more than `most` bytes) or BadField,
    each saying what is wrong.

    A base model of another name is only a warning: names and shapes of the layers decide, all of them.
    """
    config = read_config(folder)
    pairs = _pair(_read_tensors(folder, most), folder)
    _check_modules(pairs, config, adaptable, folder)
    size = sum(_ITEM * (a.numel() + b.numel()) for a, b in pairs.values())
    if size > most:
        raise OutOfMemory(
            f"the adapter in {folder} takes {size} bytes and {most} are left for adapters: unload another, or raise "
            "adapter_memory"
        )
    base = config.base_model_name_or_path
    if base and Path(base).name.lower() != adaptable.model.lower():
        log.warning("the adapter names another base model; its layers fit", adapter=str(folder), base=base)
    layers = {name: _layer(name, *pair, config, adaptable) for name, pair in sorted(pairs.items())}
    digest = hashlib.blake2b(digest_size=16)
    for name, layer in layers.items():
        digest.update(f"{name} {tuple(layer.a.shape)} {tuple(layer.b.shape)}".encode())
        digest.update(layer.a.numpy().data)
        digest.update(layer.b.numpy().data)
    facts = AdapterFacts(digest.digest(), size, max(layer.a.shape[0] for layer in layers.values()), len(layers))
    if device is not None and device.type != "cpu":
        layers = {name: LoraLayer(layer.a.to(device), layer.b.to(device)) for name, layer in layers.items()}
    return LoraAdapter(facts, layers, max(layer.a.shape[1] + layer.b.shape[1] for layer in layers.values()))


def _read_tensors(folder: Path, most: int) -> dict[str, Tensor]:
    path = folder / FILE
    try:
        # No number format is wider than twice ours.
        if path.stat().st_size > 2 * most + _HEADER:
            raise OutOfMemory(f"{path} is larger than the {most} bytes that are left for adapters")
        return safetensors.torch.load(path.read_bytes())
    except OSError as exc:
        if (folder / "adapter_model.bin").is_file():
            raise Unsupported(
                f"{folder} has its tensors in adapter_model.bin, a pickle, which is not opened here: save it again "
                "with safe_serialization=True"
            ) from exc
        raise NotFound(f"{path} cannot be read: {exc.strerror}") from exc
    except (SafetensorError, ValueError, KeyError, RuntimeError) as exc:
        raise BadField(f"{path} is damaged or no safetensors file: {exc}") from exc


def _pair(tensors: Mapping[str, Tensor], folder: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """(A, B) by module."""
    halves: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, half = key.removeprefix(_PREFIX).rpartition(".lora_")
        if not key.startswith(_PREFIX) or half not in ("A.weight", "B.weight"):
            why = "DoRA is not computed here" if "magnitude" in key else "only lora_A and lora_B of linear layers are"
            raise Unsupported(f"{folder}: tensor {key[:200]!r} cannot be used: {why}")
        halves.setdefault(name, {})[half] = tensor
    if not halves:
        raise BadField(f"{folder / FILE} has no tensors")
    for name, found in halves.items():
        if len(found) != 2:
            raise BadField(f"{folder}: {name} has {' and '.join(found)} only: the file is incomplete")
    return {name: (found["A.weight"], found["B.weight"]) for name, found in halves.items()}


def _check_modules(
    pairs: Mapping[str, tuple[Tensor, Tensor]], config: LoraConfig, adaptable: Adaptable, folder: Path
) -> None:
    for name in pairs:
        if name in adaptable.others:
            raise Unsupported(f"{folder}: {name} cannot be adapted here; linear layers inside of decoder layers can")
        if name not in adaptable.linears:
            raise BadField(
                f"{folder}: model {adaptable.model} has no linear layer {name[:200]}: the adapter is for another model "
                f"({config.base_model_name_or_path or 'it names none'})"
            )
    missing = [name for name in adaptable.linears if name not in pairs and config.targets(name)]
    if missing:
        raise BadField(f"{folder}: tensors of {len(missing)} target modules are missing, as of {missing[0]}")


def _layer(name: str, a: Tensor, b: Tensor, config: LoraConfig, adaptable: Adaptable) -> LoraLayer:
    inputs, outputs = adaptable.linears[name]
    rank = config.rank(name)
    for tensor, shape, which in ((a, (rank, inputs), "lora_A"), (b, (outputs, rank), "lora_B")):
        if tuple(tensor.shape) != shape:
            raise BadField(
                f"{which} of {name} has shape {tuple(tensor.shape)} where this model and the configured rank need "
                f"{shape}: the adapter is for another model, or its configuration of another file"
            )
        if not tensor.is_floating_point():
            raise BadField(f"{which} of {name} has numbers of type {tensor.dtype}: floating point is needed")
    held = LoraLayer(a.float().contiguous(), (b.float() * config.scaling(name)).t().contiguous())
    if not (bool(held.a.isfinite().all()) and bool(held.b.isfinite().all())):
        raise BadField(f"{name} of the adapter has values that are not finite numbers: the file is damaged")
    return held
