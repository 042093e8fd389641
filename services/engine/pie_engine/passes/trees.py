"""Trees of guesses inside a batch: which of them were drawn, and how their KV moves together.

The guesses of a tree lie behind the token they follow, parents before children, in slots of their own. A row sees what
it would see alone: everything before the tree, its ancestors, itself. Each is sampled at its own depth, and the path
along which every guess is the token drawn in its place is what plain decoding would have given (Miao et al.: SpecInfer,
2023, with equal draws for acceptance).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pie_engine.passes.batch import Batch
from pie_engine.passes.device import Result
from pie_engine.passes.outputs import Int32Array
from pie_engine.passes.segment import Intervals

ROOT = -1
"""Parent of a guess that follows the context's last token."""


def depths(parents: Sequence[int]) -> list[int]:
    """How many guesses come before each one on its path."""
    found: list[int] = []
    for parent in parents:
        found.append(found[parent] + 1 if parent != ROOT else 0)
    return found


def ancestors(parents: Sequence[int], guess: int) -> list[int]:
    """The path to a guess, itself included, from the root on."""
    path: list[int] = []
    while guess != ROOT:
        path.append(guess)
        guess = parents[guess]
    return path[::-1]


def intervals(parents: Sequence[int], first: int, before: Intervals) -> list[Intervals]:
    """What every guess sees, when guess 0 lies in slot `first` and all see `before` of the slots below it."""
    seen: list[Intervals] = []
    for guess in range(len(parents)):
        spans = list(before)
        for slot in (first + other for other in ancestors(parents, guess)):
            if spans and spans[-1][1] == slot:
                spans[-1] = (spans[-1][0], slot + 1)
            else:
                spans.append((slot, slot + 1))
        seen.append(spans)
    return seen


def walk(tokens: Sequence[int], parents: Sequence[int], drawn: Sequence[Result]) -> list[int]:
    """The guesses that were drawn, from the root on; `drawn[0]` follows the root, `drawn[i + 1]` guess i."""
    path: list[int] = []
    at = ROOT
    while True:
        token = drawn[at + 1]
        following = (i for i in range(at + 1, len(parents)) if parents[i] == at and tokens[i] == token)
        child = next(following, None) if isinstance(token, int) else None
        if child is None:
            return path
        path.append(child)
        at = child


def moves(batch: Batch, results: Sequence[Result]) -> Int32Array:
    """`[M, 2]` physical slots (source, destination) that bring the KV of all drawn paths next to what they follow.

    Sources must all be read before a destination is written.
    """
    found: list[tuple[int, int]] = []
    for tree in batch.trees:
        rows = slice(tree.row + 1, tree.row + 1 + len(tree.parents))
        slots = batch.write_slots[rows]
        path = walk(batch.tokens[rows].tolist(), tree.parents, results[tree.output : tree.output + 1 + len(slots)])
        found += [(int(slots[guess]), int(slots[place])) for place, guess in enumerate(path) if guess != place]
    return np.asarray(found, dtype=np.int32).reshape(-1, 2)
