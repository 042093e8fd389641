"""The tokens of a context as an array that grows with it, so that penalties cost a view per token drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pie_engine.passes.outputs import Int32Array

_SPARE = 256


class TokenLog:
    """Follows one list of tokens that only grows."""

    def __init__(self) -> None:
        self._array: Int32Array = np.empty(0, dtype=np.int32)
        self._length = 0

    def with_drafts(self, tokens: Sequence[int], drafts: Sequence[int] = ()) -> Int32Array:
        """The list's tokens and, behind them, drafts, which are not kept. A view: until the next call."""
        known, length = self._length, len(tokens)
        end = length + len(drafts)
        if end > len(self._array):
            grown = np.empty(end + end // 2 + _SPARE, dtype=np.int32)
            grown[:known] = self._array[:known]
            self._array = grown
        self._array[known:length] = tokens[known:]
        self._array[length:end] = drafts
        self._length = length
        return self._array[:end]
