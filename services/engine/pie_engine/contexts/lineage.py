"""What must be known beside its tokens to compute a context's KV again: positions and masks that are not plain.

Plain tokens have their slot as position and see all slots up to their own. Most contexts have no others.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from pie_engine.passes.masks import united, without
from pie_engine.passes.segment import Intervals

MAX_STRETCHES = 256
"""Stretches of dropped tokens that a context may have: every row to come goes through them."""


@dataclass(slots=True)
class Lineage:
    """Positions and masks by slot.

    `shifts` are (slot, shift) ascending: from that slot on a token's position is its slot plus the shift, so that
    tokens without a position of their own count on from the one before. `masks` are the rows that are not causal, by
    slot, ascending. `views` are (slot, intervals) ascending: from that slot on a row sees none of the slots in them,
    since they have been dropped; each holds all slots of the one before.
    """

    shifts: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    masks: dict[int, Intervals] = field(default_factory=dict[int, Intervals])
    views: list[tuple[int, Intervals]] = field(default_factory=list[tuple[int, Intervals]])

    @property
    def is_plain(self) -> bool:
        """Nothing is recorded."""
        return not (self.shifts or self.masks or self.views)

    @property
    def dropped(self) -> Intervals:
        """Slots that rows to come do not see, disjoint and ascending."""
        return self.views[-1][1] if self.views else ()

    def position(self, slot: int) -> int:
        """Position of the token at a slot."""
        return slot + self._shift(slot) if self.shifts else slot

    def positions(self, start: int, stop: int) -> Sequence[int]:
        """Positions of the tokens at slots [start, stop)."""
        if not self.shifts:
            return range(start, stop)
        return [slot + self._shift(slot) for slot in range(start, stop)]

    def rows(self, start: int, stop: int) -> list[Intervals] | None:
        """Masks of the rows at slots [start, stop) as `Segment.masks` has them; None if all are causal."""
        if not (self.masks or self.views):
            return None
        own = dict(self._own_masks(start, stop))
        return [own[slot] if slot in own else ((0, slot + 1),) for slot in range(start, stop)] if own else None

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

    def drop(self, start: int, stop: int, slot: int) -> None:
        """Rows from `slot` on, which is the last so far, do not see the slots [start, stop) before it."""
        hidden = united(self.dropped, start, stop)
        if self.views and self.views[-1][0] == slot:
            self.views.pop()
        self.views.append((slot, hidden))

    def copy(self) -> Lineage:
        """One independent of this one."""
        return Lineage(list(self.shifts), dict(self.masks), list(self.views)) if not self.is_plain else Lineage()

    def truncate(self, length: int) -> bool:
        """Forget what concerns tokens from slot `length` on. What is dropped of those before stays dropped, so that the
        row at `length - 1`, which must not be dropped itself, may see less than it did: True then."""
        while self.shifts and self.shifts[-1][0] >= length:
            self.shifts.pop()
        while self.masks and next(reversed(self.masks)) >= length:
            self.masks.popitem()
        if not self.views:
            return False
        left = without(self.dropped, [(length, max(length, self.dropped[-1][1]))])
        while self.views and self.views[-1][0] >= length:
            self.views.pop()
        if left == self.dropped or not left:
            return False
        if self.views and self.views[-1][0] == length - 1:
            self.views.pop()
        self.views.append((length - 1, left))
        return True

    def digest(self, start: int, stop: int) -> bytes:
        """Everything recorded for slots [start, stop), as bytes to hash that no other record gives: the positions, the
        number of rows with masks, and for each its slot and its intervals."""
        rows = list(self._own_masks(start, stop))
        numbers = [*self.positions(start, stop), len(rows)]
        for slot, row in rows:
            numbers += [slot, len(row), *(end for pair in row for end in pair)]
        return np.asarray(numbers, dtype="<i4").tobytes()

    def _own_masks(self, start: int, stop: int) -> Iterator[tuple[int, Intervals]]:
        """(slot, intervals) of the rows that are not causal."""
        if not self.masks and not (self.views and self.views[0][0] < stop):
            return
        for slot in range(start, stop):
            own = self.masks.get(slot)
            index = bisect_right(self.views, slot, key=lambda item: item[0])
            if index:
                yield slot, without(own if own is not None else ((0, slot + 1),), self.views[index - 1][1])
            elif own is not None:
                yield slot, own

    def _shift(self, slot: int) -> int:
        index = bisect_right(self.shifts, slot, key=lambda item: item[0])
        return self.shifts[index - 1][1] if index else 0
