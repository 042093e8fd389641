"""Which adapters compute which tokens of a context.

A *version* is what one file held, under a name; a *set* is some versions with weights; a context has *spans*: from a
token on, a set. The set of a token decides its KV and what its row answers, so it is part of the context's lineage:
whoever computes a token again, computes it with the set it had.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal


@dataclass(eq=False, slots=True)
class AdapterVersion:
    """One loaded adapter. `slot` names it to the device and is never given twice; `size` counts bytes."""

    name: str
    digest: bytes
    slot: int
    size: int
    rank: int
    modules: int
    state: Literal["current", "superseded", "unloaded"] = "current"
    users: int = 0
    """Spans of contexts that need it."""


@dataclass(frozen=True, slots=True)
class AdapterSet:
    """Versions with their weights, in an order that does not depend on how they were asked for.

    `slots` is the device's form. `identity` is what goes into the content hash of KV: digests, not names, so that equal
    content under two names is shared.
    """

    members: tuple[tuple[AdapterVersion, float], ...] = ()
    slots: tuple[tuple[int, float], ...] = field(init=False)
    identity: bytes = field(init=False)

    def __post_init__(self) -> None:
        members = tuple(sorted(self.members, key=lambda member: member[0].slot))
        parts = sorted(version.digest + struct.pack("<d", weight) for version, weight in members)
        object.__setattr__(self, "members", members)
        object.__setattr__(self, "slots", tuple((version.slot, weight) for version, weight in members))
        object.__setattr__(self, "identity", b"".join(parts))


PLAIN = AdapterSet()
"""No adapters."""


class AdapterSpans:
    """Sets by token index. Holds a use of every version in it, from `begin` to `cut` or `release`.

    starts   | 0 .. plain .. | starts[0] .. sets[0] .. | starts[1] .. sets[1] ..
    """

    __slots__ = ("_sets", "_starts")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._sets: list[AdapterSet] = []

    def at(self, index: int) -> AdapterSet:
        """The set of a token, also of one still to come."""
        if not self._starts:
            return PLAIN
        span = bisect_right(self._starts, index) - 1
        return self._sets[span] if span >= 0 else PLAIN

    def border(self, index: int) -> int | None:
        """The first token behind `index` that begins another span."""
        span = bisect_right(self._starts, index)
        return self._starts[span] if span < len(self._starts) else None

    def begin(self, start: int, adapters: AdapterSet) -> None:
        """Tokens from `start` on have this set."""
        while self._starts and self._starts[-1] >= start:
            self._pop()
        if adapters.slots != self.at(start).slots:
            self._push(start, adapters)

    def cut(self, length: int) -> None:
        """Only `length` tokens are left: the set to come is that of the last of them."""
        while self._starts and self._starts[-1] >= max(length, 1):
            self._pop()

    def copy(self, length: int) -> AdapterSpans:
        """Those of the first `length` tokens, as `cut` leaves them."""
        copied = AdapterSpans()
        for start, adapters in zip(self._starts, self._sets, strict=True):
            if start < max(length, 1):
                copied._push(start, adapters)
        return copied

    def identity(self, start: int, stop: int) -> bytes:
        """What the sets of tokens [start, stop) add to a content hash; empty for the plain model."""
        if not self._starts:
            return b""
        parts: list[bytes] = []
        at: int | None = start
        while at is not None and at < stop:
            named = self.at(at).identity
            if named or parts:
                parts.append(struct.pack("<II", at - start, len(named)) + named)
            at = self.border(at)
        return b"".join(parts)

    def count(self) -> None:
        """Add its uses to those of the versions, which have been set to 0."""
        for adapters in self._sets:
            _count(adapters.members, 1)

    def release(self) -> None:
        """The context has ended."""
        while self._starts:
            self._pop()

    def _push(self, start: int, adapters: AdapterSet) -> None:
        self._starts.append(start)
        self._sets.append(adapters)
        _count(adapters.members, 1)

    def _pop(self) -> None:
        self._starts.pop()
        _count(self._sets.pop().members, -1)


def _count(members: Sequence[tuple[AdapterVersion, float]], change: int) -> None:
    for version, _ in members:
        version.users += change
