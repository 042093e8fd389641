"""What must be known beside its tokens to compute a context's KV again: positions and masks that are not plain.

Plain tokens have their slot as position and see all slots up to their own. Most contexts have no others.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from pie_engine.batch import Intervals


@dataclass(slots=True)
class Lineage:
    """Positions and masks by slot.

    `shifts` are (slot, shift) ascending: from that slot on a token's position is its slot plus the shift, so that
    tokens without a position of their own count on from the one before. `masks` are the rows that are not causal, by
    slot, ascending.
    """

    shifts: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    masks: dict[int, Intervals] = field(default_factory=dict[int, Intervals])

    @property
    def is_plain(self) -> bool:
        """Nothing is recorded."""
        return not (self.shifts or self.masks)

    def position(self, slot: int) -> int:
        """Position of the token at a slot."""
        return slot + self._shift(slot)

    def positions(self, start: int, stop: int) -> Sequence[int]:
        """Positions of the tokens at slots [start, stop)."""
        if not self.shifts:
            return range(start, stop)
        return [slot + self._shift(slot) for slot in range(start, stop)]

    def rows(self, start: int, stop: int) -> list[Intervals] | None:
        """Masks of the rows at slots [start, stop) as `Segment.masks` has them; None if all are causal."""
        if not self.masks or not any(slot in self.masks for slot in range(start, stop)):
            return None
        return [self.masks.get(slot) or ((0, slot + 1),) for slot in range(start, stop)]

    def place(self, slot: int, position: int) -> None:
        """The token at `slot`, the last so far, has this position."""
        shift = position - slot
        if self._shift(slot) != shift:
            self.shifts.append((slot, shift))

    def mask(self, slot: int, intervals: Intervals | None) -> None:
        """The row at `slot`, the last so far, sees these slots; None: all up to its own."""
        if intervals is None:
            self.masks.pop(slot, None)
        else:
            self.masks[slot] = intervals

    def head(self, length: int) -> Lineage:
        """That of the first `length` tokens, independent of this one."""
        return Lineage(
            [item for item in self.shifts if item[0] < length],
            {slot: row for slot, row in self.masks.items() if slot < length},
        )

    def truncate(self, length: int) -> None:
        """Forget what concerns tokens from slot `length` on."""
        while self.shifts and self.shifts[-1][0] >= length:
            self.shifts.pop()
        while self.masks and next(reversed(self.masks)) >= length:
            self.masks.popitem()

    def digest(self, start: int, stop: int) -> bytes:
        """Everything recorded for slots [start, stop), as bytes to hash that no other record gives: the positions, the
        number of rows with masks, and for each its slot and its intervals."""
        rows = [(slot, self.masks[slot]) for slot in range(start, stop) if slot in self.masks] if self.masks else []
        numbers = [*self.positions(start, stop), len(rows)]
        for slot, row in rows:
            numbers += [slot, len(row), *(end for pair in row for end in pair)]
        return np.asarray(numbers, dtype="<i4").tobytes()

    def _shift(self, slot: int) -> int:
        index = bisect_right(self.shifts, slot, key=lambda item: item[0])
        return self.shifts[index - 1][1] if index else 0
