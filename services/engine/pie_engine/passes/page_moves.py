"""What a pass does with whole pages before its rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Buffer: TypeAlias = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class PageLoad:
    """Pages to write from bytes, and their content: buffers with whole pages, in this order."""

    pages: Sequence[int]
    data: Sequence[Buffer]

    def parts(self) -> Iterator[tuple[Sequence[int], NDArray[np.uint8]]]:
        """Pages with their content `[n, page_bytes]`, buffer by buffer."""
        size = sum(map(len, self.data)) // max(1, len(self.pages))
        at = 0
        for part in self.data:
            # Tensors want memory that may be written to, and a message's may not.
            blocks = np.frombuffer(bytearray(part), dtype=np.uint8).reshape(-1, size)
            yield self.pages[at : at + len(blocks)], blocks
            at += len(blocks)


@dataclass(slots=True)
class Moves:
    """Copies between pool and host memory, made ahead of everything else in a pass: `out` are (page, slot) in order,
    then `back` are (slot, page). The device notes what they took, and that they are done."""

    out: Sequence[tuple[int, int]]
    back: Sequence[tuple[int, int]]
    seconds: float = 0.0
    done: bool = False
