"""Linear layers whose weights oneDNN has laid out once, instead of at every call."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_ROWS_HINT = 16


class PackedLinear(nn.Module):
    """Same result as the `nn.Linear` it replaces (inference only); keeps only the packed copy of the weight."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        self.bias = linear.bias
        weight = linear.weight.detach().contiguous()
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS_HINT)

    def forward(self, rows: Tensor) -> Tensor:
        """`[..., in_features]` to `[..., out_features]`."""
        return torch.ops.mkldnn._linear_pointwise(rows, self._packed, self.bias, "none", [], "")


def can_pack(dtype: torch.dtype) -> bool:
    """True where oneDNN is there and a packed product of this type equals the plain one."""
    if dtype != torch.bfloat16 or not torch.backends.mkldnn.is_available():
        return False
    if not hasattr(torch.ops.mkldnn, "_reorder_linear_weight") or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    probe = nn.Linear(64, 48, dtype=dtype)
    rows = torch.randn(3, 64, dtype=dtype)
    with torch.inference_mode():
        return bool(torch.allclose(PackedLinear(probe)(rows), probe(rows), atol=3e-2))


def pack_linears(model: nn.Module) -> int:
    """Replace every plain `nn.Linear` inside `model`; returns how many."""
    replaced = 0
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                setattr(parent, name, PackedLinear(child))
                replaced += 1
    return replaced
