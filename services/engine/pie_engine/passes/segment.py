"""The rows of one context in a pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from pie_engine.passes.outputs import Output

Intervals: TypeAlias = Sequence[tuple[int, int]]
AdapterSlots: TypeAlias = tuple[tuple[int, float], ...]
"""Adapters by the slots their device keeps them under, ascending, each with the weight of what it adds."""


# Not frozen: one is made per request and step, and freezing makes that slow.
@dataclass(slots=True)
class Segment:
    """The rows of one context in a pass.

    `first_slot` is the logical slot of the first row. With `write_kv` False the KV of the rows is in the pages already
    (perhaps shared pages), so they only ask. `pages` covers every slot up to the last row's. `masks`, when given, has
    the visible slot intervals of every row; without it a row sees every slot up to and with its own. Output rows count
    from the segment's first row.
    """

    tokens: Sequence[int]
    positions: Sequence[int]
    first_slot: int
    pages: Sequence[int]
    outputs: Sequence[Output] = ()
    write_kv: bool = True
    masks: Sequence[Intervals] | None = None
    adapters: AdapterSlots = ()
    parents: Sequence[int] = ()
    """With a tree of guesses as its last rows: for each the guess it follows, -1 for the row before the tree. The
    segment's outputs are then one token for that row and one for each guess."""
    open_rows: int = 0
    """The tokens of so many last rows are still to be guessed, as the segment's first output draws tokens."""
