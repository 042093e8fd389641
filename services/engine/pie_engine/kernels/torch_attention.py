"""Paged attention in plain torch: the twin that every kernel is compared to, and what serves where none is built.

One-row segments (decodes) run together as padded gathers, grouped by context length so that padding at most doubles the
work; a segment of several rows (a prefill chunk) runs by itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pie_engine.kernels.kv_pool import KvPool
from pie_engine.passes.batch import Batch

_SMALLEST_GROUP_PAGES = 8


@dataclass(slots=True)
class _Group:
    """Segments of `per` rows each that run together: rows `[n * per]`."""

    rows: Tensor | slice
    per: int
    blocks: Tensor
    """`KvPool.block_rows` of the page table `[n, m]`"""
    row_slots: Tensor
    visible: Tensor
    """`[n, per, m * page_size]` bool"""
    unseen: tuple[Tensor, Tensor]
    """Segments and slots that no row of the segment sees: whoever had the page before may have left there what is no
    number, and a weight of 0 does not make that 0."""
    causal: bool
    masks: dict[tuple[int | None, int], Tensor] = field(default_factory=dict[tuple[int | None, int], Tensor])

    def mask(self, window: int | None, share: int) -> Tensor:
        """`[n, 1, share * per, m * page_size]` bool, with a sliding window applied when the layer has one."""
        found = self.masks.get((window, share))
        if found is None:
            found = self.visible
            if window:
                found = found & (
                    torch.arange(found.shape[-1], device=found.device) > self.row_slots[..., None] - window
                )
            found = found[:, None].expand(-1, share, -1, -1).reshape(len(found), 1, share * self.per, -1)
            self.masks[window, share] = found
        return found

    def blind(self, window: int | None, share: int) -> Tensor | None:
        """`[n, 1, share * per, 1]` bool: rows that see nothing, whose softmax is no number; None if there are none."""
        if self.causal:
            return None
        found = ~self.mask(window, share).any(dim=-1, keepdim=True)
        return found if bool(found.any()) else None


class TorchAttention:
    """`Attention` by gather and scaled_dot_product_attention."""

    name = "torch"

    def begin(self, batch: Batch, pool: KvPool) -> TorchAttentionPass:
        return TorchAttentionPass(batch, pool)


class TorchAttentionPass:
    """`AttentionPass` of `TorchAttention`."""

    def __init__(self, batch: Batch, pool: KvPool) -> None:
        self._pool = pool
        slots = torch.from_numpy(batch.write_slots).long().to(pool.device)
        self._write_pages = slots // batch.page_size
        self._write_offsets = slots % batch.page_size
        self._groups = _groups(batch, pool)

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
        self.store(layer, key, value)
        output = torch.empty_like(query)
        for group in self._groups:
            output[group.rows] = self._attend(layer, group, query[group.rows], scale, window, softcap, sinks)
        return output

    def store(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Keep the keys and values of all rows in their pages."""
        keys, values = self._pool.keys(layer), self._pool.values(layer)
        keys[self._write_pages, :, self._write_offsets] = key.to(keys.dtype)
        values[self._write_pages, :, self._write_offsets] = value.to(values.dtype)

    def _attend(
        self,
        layer: int,
        group: _Group,
        query: Tensor,
        scale: float,
        window: int | None,
        softcap: float | None,
        sinks: Tensor | None,
    ) -> Tensor:
        key, value = self._pool.gather(layer, group.blocks)
        # They are copies of what is in the pool.
        segments, slots = group.unseen
        key[segments, :, slots] = 0
        value[segments, :, slots] = 0
        count, kv_heads, _, dim = key.shape
        heads = query.shape[1]
        share = heads // kv_heads
        # The query heads of one KV head become rows of one matrix: GQA without repeating keys.
        grouped = query.reshape(count, group.per, kv_heads, share, dim).permute(0, 2, 3, 1, 4)
        grouped = grouped.reshape(count, kv_heads, share * group.per, dim)
        mask = group.mask(window, share)
        if softcap is None and sinks is None:
            attended = functional.scaled_dot_product_attention(grouped, key, value, attn_mask=mask, scale=scale)
        else:
            attended = written_out(grouped, key, value, mask, scale, softcap, sinks)
        blind = group.blind(window, share)
        if blind is not None:
            attended = attended.masked_fill(blind, 0.0)
        attended = attended.view(count, kv_heads, share, group.per, dim).permute(0, 3, 1, 2, 4)
        return attended.reshape(count * group.per, heads, dim)


def written_out(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float, softcap: float | None, sinks: Tensor | None
) -> Tensor:
    """Scores written out in float32, for what scaled_dot_product_attention cannot express."""
    scores = query.float() @ key.float().transpose(-1, -2) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~mask, float("-inf"))
    if sinks is not None:
        count, kv_heads, rows, _ = scores.shape
        share = sinks.numel() // kv_heads
        extra = sinks.float().view(1, kv_heads, share, 1, 1).expand(count, -1, -1, rows // share, -1)
        scores = torch.cat([scores, extra.reshape(count, kv_heads, rows, 1)], dim=-1)
    weights = torch.softmax(scores, dim=-1)[..., : key.shape[2]]
    return (weights @ value.float()).to(query.dtype)


def _groups(batch: Batch, pool: KvPool) -> list[_Group]:
    sizes = np.diff(batch.segment_rows)
    widths = np.diff(batch.page_ptr)
    single: dict[int, list[int]] = {}
    groups: list[_Group] = []
    for segment in range(batch.segments):
        if sizes[segment] == 1:
            bucket = max(_SMALLEST_GROUP_PAGES, 1 << int(widths[segment] - 1).bit_length())
            single.setdefault(bucket, []).append(segment)
        else:
            groups.append(_group(batch, pool, [segment], int(sizes[segment])))
    groups += [_group(batch, pool, segments, 1) for segments in single.values()]
    return groups


def _group(batch: Batch, pool: KvPool, segments: list[int], per: int) -> _Group:
    width = max(int(batch.page_ptr[s + 1] - batch.page_ptr[s]) for s in segments)
    pages = np.zeros((len(segments), width), dtype=np.int64)
    for index, segment in enumerate(segments):
        table = batch.pages[batch.page_ptr[segment] : batch.page_ptr[segment + 1]]
        pages[index, : len(table)] = table
    first_rows = batch.segment_rows[segments]
    rows = (first_rows[:, None] + np.arange(per)).reshape(-1)
    row_slots = batch.row_slots[rows]
    slots = np.arange(width * batch.page_size)
    if batch.causal:
        visible = slots <= row_slots[:, None]
    else:
        visible = np.zeros((len(rows), len(slots)), dtype=bool)
        for index, row in enumerate(rows):
            for start, end in batch.intervals[batch.interval_ptr[row] : batch.interval_ptr[row + 1]]:
                visible[index, start:end] = True

    unseen = np.nonzero(~visible.reshape(len(segments), per, -1).any(axis=1))

    def on_device(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).long().to(pool.device)

    contiguous = bool((np.diff(rows) == 1).all())
    return _Group(
        rows=slice(int(rows[0]), int(rows[-1]) + 1) if contiguous else on_device(rows),
        per=per,
        blocks=pool.block_rows(on_device(pages)),
        row_slots=on_device(row_slots).view(len(segments), per),
        visible=torch.from_numpy(visible).to(pool.device).view(len(segments), per, -1),
        unseen=(on_device(unseen[0]), on_device(unseen[1])),
        causal=batch.causal,
    )
