"""Linear layers whose weights are laid out once, instead of at every call: for our kernel, for oneDNN, or for both.

oneDNN is faster for many rows where the processor has matrix units (AMX), ours for few rows and without such units.
Which it is, is measured when a model is loaded.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog
import torch
from torch import Tensor, nn

from pie_engine.kernels.linear import LinearKernel, NativeLinear, WeightMemory
from pie_engine.kernels.native import Native, load

_ROWS_HINT: Final = 16
_PROBED_ROWS: Final = (16, 64, 256)
_PROBE_SIZE: Final = 1024
_REPETITIONS: Final = 7
_CLEARLY: Final = 0.85
"""oneDNN's copy of the weights doubles their memory, so it must be worth it."""

log = structlog.get_logger("pie.engine")


@dataclass(frozen=True, slots=True)
class LinearRoute:
    """Who computes a product: our kernel, and oneDNN for `onednn_from` rows and more. At least one of them is there."""

    native: Native | None
    onednn_from: int | None

    @property
    def name(self) -> str:
        """For status."""
        if self.native is None:
            return "onednn"
        ours = f"native-{self.native.isa}"
        return ours if self.onednn_from is None else f"{ours}+onednn"


class PackedLinear(nn.Module):
    """Same result as the `nn.Linear` it replaces (inference only); keeps only packed copies of the weight."""

    def __init__(self, linear: nn.Linear, route: LinearRoute, memory: WeightMemory) -> None:
        super().__init__()
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        self.bias = linear.bias
        self._onednn_from = route.onednn_from
        self.ours: NativeLinear | None = None
        if route.native is not None:
            self.ours = LinearKernel(route.native).prepare(linear.weight, linear.bias, memory)
        if route.onednn_from is not None:
            weight = linear.weight.detach().contiguous()
            self._packed = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS_HINT)

    def forward(self, rows: Tensor) -> Tensor:
        """`[..., in_features]` to `[..., out_features]`."""
        limit = self._onednn_from
        if self.ours is not None and (limit is None or rows.numel() < limit * self.in_features):
            return self.ours(rows, torch.get_num_threads())
        return torch.ops.mkldnn._linear_pointwise(rows, self._packed, self.bias, "none", [], "")


def linear_route(dtype: torch.dtype) -> LinearRoute | None:
    """The fastest way there is for weights of this format, measured; None where torch's own is all there is.

    In float32, the reference mode, our kernel computes everything: its results do not depend on the batch.
    """
    native = load()
    if dtype == torch.float32:
        return LinearRoute(native, None) if native is not None else None
    if dtype != torch.bfloat16:
        return None
    if not _has_onednn():
        return LinearRoute(native, None) if native is not None else None
    if native is None:
        return LinearRoute(None, 0)
    return LinearRoute(native, _measure(native))


def pack_linears(model: nn.Module, route: LinearRoute) -> int:
    """Replace every plain `nn.Linear` inside `model`; returns how many."""
    replaced = 0
    memory = WeightMemory()
    # Weights of layers that follow each other lie beside each other.
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                setattr(parent, name, PackedLinear(child, route, memory))
                replaced += 1
    return replaced


def _has_onednn() -> bool:
    """True where oneDNN is there and a packed product of bfloat16 equals the plain one."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return False
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    probe = nn.Linear(64, 48, dtype=torch.bfloat16)
    rows = torch.randn(3, 64, dtype=torch.bfloat16)
    with torch.inference_mode():
        packed = PackedLinear(probe, LinearRoute(None, 0), WeightMemory())
        return bool(torch.allclose(packed(rows), probe(rows), atol=3e-2))


def _measure(native: Native) -> int | None:
    """The number of rows from which oneDNN is clearly faster than our kernel, at this and all larger numbers probed."""
    memory = WeightMemory()
    probe = nn.Linear(_PROBE_SIZE, _PROBE_SIZE, bias=False, dtype=torch.bfloat16)
    ours = PackedLinear(probe, LinearRoute(native, None), memory)
    theirs = PackedLinear(probe, LinearRoute(None, 0), memory)
    found: int | None = None
    shares: dict[int, float] = {}
    with torch.inference_mode():
        for count in reversed(_PROBED_ROWS):
            rows = torch.randn(count, _PROBE_SIZE).bfloat16()
            shares[count] = round(_share(theirs, ours, rows), 2)
            if shares[count] > _CLEARLY:
                break
            found = count
    log.info("linear layers measured", isa=native.isa, onednn_over_ours=shares, onednn_from_rows=found)
    return found


def _share(one: Callable[[Tensor], Tensor], other: Callable[[Tensor], Tensor], rows: Tensor) -> float:
    """The time of `one` over that of `other`, by pairs of calls one after the other."""
    shares: list[float] = []
    for _ in range(_REPETITIONS):
        start = time.perf_counter()
        one(rows)
        middle = time.perf_counter()
        other(rows)
        shares.append((middle - start) / max(time.perf_counter() - middle, 1e-9))
    return statistics.median(shares)
