"""Which implementation of attention serves: the one place that decides.

| device | attention | name in status |
|---|---|---|
| cpu | the native kernels, where they are built and fit the heads | `native-avx512bf16`, `native-avx2` |
| cuda | FlashInfer, where it is installed; nobody has run it yet | `flashinfer (unverified)` |
| any | the torch twin | `torch` |

On cuda decodes are recorded and replayed besides, with the twin's arithmetic (`decode_graphs`): `+graphs (unverified)`.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from pie_engine.kernels import native
from pie_engine.kernels.attention import Attention
from pie_engine.kernels.flashinfer_attention import FlashInferAttention
from pie_engine.kernels.native_attention import DIM_MULTIPLE, NativeAttention
from pie_engine.kernels.torch_attention import TorchAttention


def choose_attention(device: str) -> Attention:
    """The fastest one for `device` ("cpu", "cuda"), before anything is known of the model."""
    return available_attentions(device)[0]


def available_attentions(device: str) -> list[Attention]:
    """All that run on `device`, best first."""
    found: list[Attention] = []
    if device == "cpu":
        kernels = native.load()
        if kernels is not None:
            found.append(NativeAttention(kernels))
    elif find_spec("flashinfer") is not None:
        wrapper = import_module("flashinfer").BatchPrefillWithPagedKVCacheWrapper
        found.append(FlashInferAttention(wrapper))
    return [*found, TorchAttention()]


def fitting(attention: Attention, head_dim: int) -> Attention:
    """`attention`, or the twin if it cannot do heads of `head_dim` numbers."""
    return TorchAttention() if isinstance(attention, NativeAttention) and head_dim % DIM_MULTIPLE else attention
