"""The KV of all contexts: one page-major tensor."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pie_engine.passes.outputs import Int32Array


class KvPool:
    """`[pages + 1, layers, 2, kv_heads, page_size * head_dim]`; the extra last page is scratch and never read.

    Page-major, so that a page is one contiguous block to copy, swap or send.
    """

    def __init__(
        self,
        pages: int,
        layers: int,
        kv_heads: int,
        head_dim: int,
        page_size: int,
        dtype: torch.dtype,
        device: torch.device | None = None,
    ) -> None:
        self.page_size = page_size
        self.scratch_page = pages
        self.device = device or torch.device("cpu")
        self.kv_heads = kv_heads
        self.head_dim = head_dim
        shape = (pages + 1, layers, 2, kv_heads, page_size * head_dim)
        # Zeros, because a masked slot still takes part in products, with weight zero. The operating system gives
        # numpy's at first touch, so a large pool costs no memory until it is used.
        if self.device.type == "cpu":
            blank = torch.from_numpy(np.zeros(prod(shape) * dtype.itemsize, dtype=np.uint8))
            self._tensor = blank.view(dtype).view(shape)
        else:
            self._tensor = torch.zeros(shape, dtype=dtype, device=self.device)
        self.layers = layers
        self.dtype = dtype
        self._blocks = self._tensor.view(-1, page_size * head_dim)
        slots = self._tensor.view(pages + 1, layers, 2, kv_heads, page_size, head_dim)
        self._keys = [slots[:, layer, 0] for layer in range(layers)]
        self._values = [slots[:, layer, 1] for layer in range(layers)]

    @property
    def tensor(self) -> Tensor:
        """All of it, as the class describes it; valid as long as the pool."""
        return self._tensor

    def keys(self, layer: int) -> Tensor:
        """View `[pages + 1, kv_heads, page_size, head_dim]`, valid as long as the pool."""
        return self._keys[layer]

    def values(self, layer: int) -> Tensor:
        """View `[pages + 1, kv_heads, page_size, head_dim]`, valid as long as the pool."""
        return self._values[layer]

    def block_rows(self, pages: Tensor) -> Tensor:
        """Where the blocks of `pages` `[n, m]` lie for layer 0: `[2, n, kv_heads, m]`, keys before values."""
        halves = torch.arange(2, device=self.device).view(2, 1, 1, 1) * self.kv_heads
        heads = torch.arange(self.kv_heads, device=self.device).view(1, 1, -1, 1)
        return pages.view(1, len(pages), 1, -1) * (self.layers * 2 * self.kv_heads) + halves + heads

    def gather(self, layer: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values `[n, kv_heads, m * page_size, head_dim]` of the pages that `block_rows` was made for.

        One copy for both: a block, the slots of one page and head, is contiguous in the pool and in the result.
        """
        _, count, heads, width = rows.shape
        found = self._blocks.index_select(0, (rows + layer * 2 * self.kv_heads).view(-1))
        found = found.view(2, count, heads, width * self.page_size, self.head_dim)
        return found[0], found[1]

    def copy_pages(self, copies: Int32Array) -> None:
        """Copy whole pages, all layers; `copies` is `[n, 2]` of (source, destination), no page on both sides."""
        if len(copies):
            pairs = torch.from_numpy(copies).long().to(self.device)
            self._tensor[pairs[:, 1]] = self._tensor[pairs[:, 0]]

    @property
    def slot_bytes(self) -> int:
        """Bytes of one slot in one block, which holds the slots of one page, layer and head, keys or values."""
        return self.head_dim * self._tensor.itemsize

    def read_pages(self, pages: Sequence[int]) -> NDArray[np.uint8]:
        """Whole pages as bytes `[n, page_bytes]`, all layers; a copy in host memory."""
        index = torch.tensor(list(pages), device=self.device)
        found = self._tensor.view(len(self._tensor), -1).index_select(0, index)
        return found.view(torch.uint8).cpu().numpy()

    def write_pages(self, pages: Sequence[int], blocks: NDArray[np.uint8]) -> None:
        """The reverse of `read_pages`."""
        index = torch.tensor(list(pages), device=self.device)
        flat = self._tensor.view(len(self._tensor), -1)
        flat.index_copy_(0, index, torch.from_numpy(blocks).view(self._tensor.dtype).to(self.device))

    def move(self, slots: Int32Array) -> None:
        """Copy the KV of single slots, all layers; `slots` is `[n, 2]` of physical (source, destination)."""
        pairs = torch.from_numpy(slots).long().to(self.device)
        pages, offsets = pairs // self.page_size, pairs % self.page_size
        for layer in range(self.layers):
            for side in (self._keys[layer], self._values[layer]):
                side[pages[:, 1], :, offsets[:, 1]] = side[pages[:, 0], :, offsets[:, 0]]

    def erase(self, slots: Int32Array) -> None:
        """Zero the KV of physical slots, all layers: what a failed pass wrote may not be a number."""
        where = torch.from_numpy(slots).long().to(self.device)
        pages, offsets = where // self.page_size, where % self.page_size
        for layer in range(self.layers):
            self._keys[layer][pages, :, offsets] = 0
            self._values[layer][pages, :, offsets] = 0


def page_bytes(layers: int, kv_heads: int, head_dim: int, page_size: int, itemsize: int) -> int:
    """Bytes of one page over all layers, keys and values."""
    return layers * 2 * kv_heads * page_size * head_dim * itemsize
