"""A decode of a fixed size through transformers' model: everything it reads lies in buffers that stay where they are,
and no shape depends on what is in them, so that a GPU can record it
(docs.pytorch.org/docs/stable/notes/cuda.html, CUDA graphs)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from pie_engine.kernels.decode_graphs import DecodeArrays
from pie_engine.kernels.kv_pool import KvPool
from pie_engine.kernels.torch_attention import written_out
from pie_engine.models.paged_attention import attending

_WARM_UPS = 2
"""Passes before recording: libraries choose their kernels at first use."""


class DecodePass:
    """`AttentionPass` and the pass around it, for `rows` contexts of `width` pages each."""

    def __init__(self, model: PreTrainedModel, pool: KvPool, rows: int, width: int, scratch_page: int) -> None:
        """Until `load` every row is padding: it reads and writes the scratch page."""
        self._model: Any = model
        self._pool = pool

        def buffer(*shape: int, value: int = 0) -> Tensor:
            return torch.full(shape, value, dtype=torch.long, device=pool.device)

        self._tokens, self._positions, self._row_slots = buffer(1, rows), buffer(1, rows), buffer(rows)
        self._write_slots = buffer(rows, value=scratch_page * pool.page_size)
        self._pages = buffer(rows, width, value=scratch_page)
        self._slots = torch.arange(width * pool.page_size, device=pool.device)

    def load(self, arrays: DecodeArrays) -> None:
        """The next `compute` is about these."""
        self._tokens[0].copy_(torch.from_numpy(arrays.tokens))
        self._positions[0].copy_(torch.from_numpy(arrays.positions))
        self._row_slots.copy_(torch.from_numpy(arrays.row_slots))
        self._write_slots.copy_(torch.from_numpy(arrays.write_slots))
        self._pages.copy_(torch.from_numpy(arrays.pages))

    def compute(self) -> Tensor:
        """Logits `[rows, vocab]`; stores the KV of all rows."""
        with attending(self):
            return self._model(input_ids=self._tokens, position_ids=self._positions, use_cache=False).logits[0]

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
        """See `AttentionPass`. A row always sees its own slot."""
        pool = self._pool
        pages, offsets = self._write_slots // pool.page_size, self._write_slots % pool.page_size
        keys, values = pool.keys(layer), pool.values(layer)
        keys[pages, :, offsets] = key.to(keys.dtype)
        values[pages, :, offsets] = value.to(values.dtype)
        visible = self._slots <= self._row_slots[:, None]
        if window:
            visible = visible & (self._slots > self._row_slots[:, None] - window)
        # What others left in slots that are not seen may be no number, and a weight of 0 does not make that 0.
        unseen = ~visible[:, None, :, None]
        key, value = (found.masked_fill(unseen, 0.0) for found in pool.gather(layer, pool.block_rows(self._pages)))
        rows, heads, dim = query.shape
        # The query heads of one KV head become rows of one matrix: GQA without repeating keys.
        grouped = query.reshape(rows, pool.kv_heads, heads // pool.kv_heads, dim)
        mask = visible[:, None, None, :].expand(-1, -1, heads // pool.kv_heads, -1)
        if softcap is None and sinks is None:
            attended = functional.scaled_dot_product_attention(grouped, key, value, attn_mask=mask, scale=scale)
        else:
            attended = written_out(grouped, key, value, mask, scale, softcap, sinks)
        return attended.reshape(rows, heads, dim)


class Unrecorded:
    """`Graph` that computes every time: what a recorded one must equal."""

    def __init__(self, decode: DecodePass) -> None:
        self._decode = decode

    def replay(self, arrays: DecodeArrays) -> Tensor:
        self._decode.load(arrays)
        return self._decode.compute()


class CudaGraph:
    """`Graph` recorded by CUDA. Unverified: nobody has run this on a GPU yet."""

    def __init__(self, decode: DecodePass, memory: Any) -> None:
        """`memory`: a pool that all graphs share, as no two run at once."""
        self._decode = decode
        stream: Any = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                decode.compute()
        torch.cuda.current_stream().wait_stream(stream)
        self._graph: Any = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=memory):
            self._logits = decode.compute()

    def replay(self, arrays: DecodeArrays) -> Tensor:
        self._decode.load(arrays)
        self._graph.replay()
        return self._logits
