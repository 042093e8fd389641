"""What the engine needs of a model, whatever computes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pie_engine.passes.batch import Batch
from pie_engine.passes.device import LoadedAdapter
from pie_engine.passes.outputs import Int32Array

TOKENIZER_FILES: Final = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Facts of a loaded model. `fingerprint` names everything that decides its KV: weights' identity and number
    format."""

    name: str
    fingerprint: str
    architecture: str
    dtype: str
    vocab_size: int
    max_context: int
    layers: int
    kv_heads: int
    head_dim: int
    eos_ids: tuple[int, ...]
    backend: str
    """Kernels in use, for status."""


@dataclass(frozen=True, slots=True)
class ModelOutput:
    """What a pass gives. `hidden` is None when the batch asks for none."""

    logits: Tensor
    """`[U, vocab]`, of the batch's `logit_rows`."""
    hidden: Tensor | None = None
    """`[H, hidden size]`, of its `hidden_rows`: what the output layer reads."""


class Model(Protocol):
    """A loaded model with its KV pool."""

    @property
    def info(self) -> ModelInfo: ...

    def allocate(self, pages: int, page_size: int) -> None:
        """Make the KV pool. Called once, before the first pass."""
        ...

    def page_bytes(self, page_size: int) -> int:
        """Bytes one page takes."""
        ...

    def forward(self, batch: Batch) -> ModelOutput:
        """Copy pages, feed all rows, keep their KV; returns what the batch's outputs need.

        Raises whatever the device raises; pages of the batch's own rows are then undefined beyond what was there
        before.
        """
        ...

    def read_pages(self, pages: Sequence[int]) -> NDArray[np.uint8]:
        """The KV of whole pages as bytes, `[n, page_bytes]`; a copy."""
        ...

    @property
    def slot_bytes(self) -> int:
        """A page's bytes are blocks of `page_size` cells; a cell, so many bytes, belongs to one slot."""
        ...

    def write_pages(self, pages: Sequence[int], blocks: NDArray[np.uint8]) -> None:
        """Put what `read_pages` gave into these pages."""
        ...

    def move(self, slots: Int32Array) -> None:
        """Copy the KV of physical slots, `[n, 2]` of (source, destination); all sources are read first."""
        ...

    def erase(self, slots: Int32Array) -> None:
        """Forget the KV of physical slots that a failed pass may have written."""
        ...

    def read_adapter(self, folder: str, most: int) -> LoadedAdapter:
        """See `AdapterHost`. Raises Unsupported where the model has nothing to adapt."""
        ...

    def keep_adapter(self, slot: int, adapter: LoadedAdapter) -> None: ...

    def drop_adapter(self, slot: int) -> None: ...

    def tokenizer_files(self) -> dict[str, bytes]:
        """Tokenizer and template files by name, as the runners need them."""
        ...


def read_tokenizer_files(folder: Path) -> dict[str, bytes]:
    """Those of TOKENIZER_FILES that a model folder has."""
    paths = {name: folder / name for name in TOKENIZER_FILES}
    return {name: path.read_bytes() for name, path in paths.items() if path.is_file()}
