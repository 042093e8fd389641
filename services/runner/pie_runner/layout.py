"""What a context is beside its tokens: sealed pages, room, what it has dropped, and where it stops being plain."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pie_wire.errors import BadRequest

Stretches = tuple[tuple[int, int], ...]
"""[start, stop) of slots, disjoint and ascending."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A value: each operation gives another one, so that undoing is keeping the old one. Below, `length` is the number
    of tokens, `size` that of tokens to a page."""

    committed: int = 0
    """Leading pages that are sealed."""
    reserved: int | None = None
    """Working pages, those behind the committed ones, that it may have; None: as many as it needs."""
    dropped: Stretches = ()
    special: int | None = None
    """The first token whose KV its tokens alone do not tell: it has a mask, position or adapter of its own."""

    @property
    def is_plain(self) -> bool:
        """The tokens are all there is to know."""
        return self.special is None and not self.dropped

    def pages(self, length: int, size: int) -> int:
        """Pages that it takes when all of it has KV."""
        pages = -(-length // size)
        if self.dropped:
            pages -= sum(max(0, high // size - -(-low // size)) for low, high in self.dropped)
        return pages

    def filled(self, length: int, size: int) -> int:
        """Working pages that hold tokens."""
        return -(-length // size) - self.committed

    def working(self, length: int, size: int) -> int:
        """Working pages that it has room for."""
        return self.filled(length, size) if self.reserved is None else self.reserved

    def reserve(self, pages: int, length: int, size: int) -> Layout:
        """Room for more."""
        return replace(self, reserved=self.working(length, size) + pages)

    def commit(self, pages: int, length: int, size: int) -> Layout:
        """The first working pages are sealed. Raises BadRequest where that cannot be."""
        working = self._check(pages, length, size, "committed")
        if (self.committed + pages) * size > length:
            raise BadRequest(f"{pages} pages are not full: the context has {length} tokens")
        return replace(
            self,
            committed=self.committed + pages,
            reserved=None if self.reserved is None else working - pages,
        )

    def release(self, pages: int, length: int, size: int) -> tuple[Layout, int]:
        """Room for fewer, and how many tokens are left. Raises BadRequest where that cannot be."""
        working = self._check(pages, length, size, "released")
        left = min(length, (self.committed + working - pages) * size)
        fewer = replace(self, reserved=None if self.reserved is None else working - pages)
        return fewer.cut(left, size), left

    def drop(self, start: int, stop: int, length: int) -> Layout:
        """Tokens inside are forgotten. Raises BadRequest where that cannot be."""
        if not 0 <= start < stop <= length - 1:
            raise BadRequest(f"tokens {start} to {stop} cannot be dropped of {length}: only such before the last")
        return replace(self, dropped=_united(self.dropped, start, stop))

    def cut(self, length: int, size: int) -> Layout:
        """The first `length` tokens. Raises BadRequest where no context can end there."""
        if length < self.committed * size:
            raise BadRequest(f"the first {self.committed * size} tokens are committed: they cannot be cut")
        for start, stop in self.dropped:
            if start < length <= stop:
                raise BadRequest(
                    f"tokens {start} to {stop} were dropped: the context can be cut at {start} at most, or after {stop}"
                )
        if self.is_plain:
            return self
        special = self.special if self.special is not None and self.special < length else None
        return replace(self, dropped=tuple(part for part in self.dropped if part[1] < length), special=special)

    def mark(self, slot: int) -> Layout:
        """From this token on, at the latest, it is not plain."""
        return self if self.special is not None and self.special <= slot else replace(self, special=slot)

    def _check(self, pages: int, length: int, size: int, what: str) -> int:
        working = self.working(length, size)
        if not 1 <= pages <= working:
            raise BadRequest(f"{pages} pages cannot be {what} of {working} working ones")
        return working


PLAIN = Layout()


def _united(stretches: Stretches, start: int, stop: int) -> Stretches:
    """With another stretch, which joins those it overlaps or touches."""
    apart = [part for part in stretches if part[1] < start or part[0] > stop]
    near = [part for part in stretches if not (part[1] < start or part[0] > stop)]
    joined = (min([start, *(low for low, _ in near)]), max([stop, *(high for _, high in near)]))
    return tuple(sorted([*apart, joined]))
