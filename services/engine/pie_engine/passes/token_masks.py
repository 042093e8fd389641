"""Sets of allowed tokens, from the two forms they have on the wire to the one that devices read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pie_wire.errors import BadField


@dataclass(frozen=True, eq=False, slots=True)
class PackedMask:
    """`Mask` of words that are there already."""

    words: NDArray[np.uint32]

    def bits(self) -> NDArray[np.uint32]:
        return self.words


def read_mask(mask: bytes | Sequence[int], vocab: int) -> PackedMask:
    """A wire mask: packed bits (bit `i % 8` of byte `i // 8` allows token i), or run lengths that alternate between
    forbidden and allowed tokens, beginning with forbidden ones.

    Raises BadField if it does not cover exactly the vocabulary, or allows nothing.
    """
    words = _from_bytes(mask, vocab) if isinstance(mask, bytes) else _from_runs(mask, vocab)
    if not words.any():
        raise BadField("the mask allows no token")
    return PackedMask(words)


def allowed(bits: NDArray[np.uint32], vocab: int) -> NDArray[np.bool_]:
    """`[vocab]` of a mask's words."""
    return np.unpackbits(bits.astype("<u4", copy=False).view(np.uint8), count=vocab, bitorder="little").astype(np.bool_)


def _from_bytes(packed: bytes, vocab: int) -> NDArray[np.uint32]:
    size = -(-vocab // 32) * 4
    if len(packed) != size:
        raise BadField(f"a mask of packed bits has {size} bytes for a vocabulary of {vocab}, not {len(packed)}")
    words = np.frombuffer(packed, dtype="<u4").astype(np.uint32)
    if vocab % 32:
        words[-1] &= np.uint32((1 << vocab % 32) - 1)
    return words


def _from_runs(runs: Sequence[int], vocab: int) -> NDArray[np.uint32]:
    if min(runs, default=0) < 0 or sum(runs) != vocab or len(runs) > vocab + 1:
        raise BadField(
            f"the run lengths of a mask are at least 0 and add up to the vocabulary of {vocab}, not {sum(runs)}"
        )
    flags = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    packed = np.packbits(np.pad(flags, (0, -vocab % 32)), bitorder="little")
    return packed.view("<u4").astype(np.uint32)
