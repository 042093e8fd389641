"""Paged attention on CUDA by FlashInfer, where it is installed (docs.flashinfer.ai/api/prefill.html).

Unverified: nobody has run this on a GPU yet. Only the arrays handed to FlashInfer are tested; the tests that compare
results are marked `gpu`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from pie_engine.kernels.kv_pool import KvPool
from pie_engine.kernels.torch_attention import TorchAttention, TorchAttentionPass
from pie_engine.passes.batch import Batch
from pie_engine.passes.outputs import Int32Array

_WORKSPACE: Final = 128 * 2**20
_DIMS: Final = (64, 128, 256)

Wrapper = Callable[[Tensor, str], Any]
"""`flashinfer.BatchPrefillWithPagedKVCacheWrapper`: workspace and layout in, an object with `plan` and `run` out."""


class FlashInferAttention:
    """`Attention` of causal passes in 16 bits; masks, sinks and other formats go to the twin."""

    name = "flashinfer (unverified)"

    def __init__(self, wrapper: Wrapper) -> None:
        self._wrapper = wrapper
        self._made: Any = None

    def begin(self, batch: Batch, pool: KvPool) -> TorchAttentionPass:
        twin = TorchAttention().begin(batch, pool)
        if not batch.causal or pool.dtype.itemsize != 2 or pool.head_dim not in _DIMS:
            return twin
        if self._made is None:
            # Pages are [kv_heads, page_size, head_dim] inside, which FlashInfer calls HND.
            self._made = self._wrapper(torch.empty(_WORKSPACE, dtype=torch.uint8, device=pool.device), "HND")
        return FlashInferPass(batch, pool, self._made)


class FlashInferPass(TorchAttentionPass):
    """`AttentionPass` of `FlashInferAttention`: keys and values are stored as in the twin."""

    def __init__(self, batch: Batch, pool: KvPool, wrapper: Any) -> None:
        super().__init__(batch, pool)
        self._wrapper = wrapper
        self._arrays = [torch.from_numpy(array).to(pool.device) for array in tables(batch)]
        self._planned: tuple[object, ...] | None = None

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        scale: float,
        window: int | None = None,
        softcap: float | None = None,
        sinks: Tensor | None = None,
    ) -> Tensor:
        if sinks is not None:
            return super().attend(layer, query, key, value, scale=scale, window=window, softcap=softcap, sinks=sinks)
        self.store(layer, key, value)
        pool = self._pool
        asked = (query.shape[1], scale, window, softcap)
        if asked != self._planned:
            self._wrapper.plan(
                *self._arrays,
                query.shape[1],
                pool.kv_heads,
                pool.head_dim,
                pool.page_size,
                causal=True,
                sm_scale=scale,
                window_left=window - 1 if window else -1,
                logits_soft_cap=softcap,
                q_data_type=pool.dtype,
                kv_data_type=pool.dtype,
            )
            self._planned = asked
        return self._wrapper.run(query.to(pool.dtype).contiguous(), (pool.keys(layer), pool.values(layer)))


def tables(batch: Batch) -> tuple[Int32Array, Int32Array, Int32Array, Int32Array]:
    """Row pointers, page pointers, pages and filled slots of the last page, as FlashInfer takes them.

    A segment's last row is the last slot of its context, so pages behind it are left out.
    """
    lengths = batch.row_slots[batch.segment_rows[1:] - 1] + 1
    used = -(-lengths // batch.page_size)
    indptr = np.concatenate([[0], np.cumsum(used)]).astype(np.int32)
    pages = np.concatenate([batch.pages[at : at + n] for at, n in zip(batch.page_ptr[:-1], used, strict=True)])
    last = (lengths - (used - 1) * batch.page_size).astype(np.int32)
    return batch.segment_rows, indptr, pages, last
