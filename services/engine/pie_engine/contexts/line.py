"""The operations that wait behind an unfinished one of a context."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pie_wire.messages import engine as wire

if TYPE_CHECKING:
    from pie_engine.links.runner_link import RunnerLink
    from pie_engine.schedule.work import Queued

TOKENS = 16
"""Tokens, or other numbers, of an operation that take as much room as an operation."""
_BYTES = 4
"""Of masks and texts, for a number."""
_SMALL = 4
"""What an output or an adapter is, in numbers, beside those it holds."""


class Line:
    """First in, first out; what it holds counts for its runner."""

    __slots__ = ("_items", "_link")

    def __init__(self, link: RunnerLink) -> None:
        self._link = link
        self._items: deque[Queued] = deque()

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Queued]:
        return iter(self._items)

    def append(self, item: Queued) -> None:
        """It is the last."""
        self._items.append(item)
        self._link.waiting += weight(item.op)

    def popleft(self) -> Queued:
        """The first, which waits no more."""
        item = self._items.popleft()
        self._link.waiting -= weight(item.op)
        return item

    def remove(self, item: Queued) -> None:
        """It waits no more."""
        self._items.remove(item)
        self._link.waiting -= weight(item.op)

    def take_all(self) -> list[Queued]:
        """All of them, which wait no more."""
        items = list(self._items)
        self._items.clear()
        self._link.waiting -= sum(weight(item.op) for item in items)
        return items


def weight(op: wire.Op) -> int:
    """What it takes to keep an operation, in operations that hold little."""
    return 1 + _numbers(op) // TOKENS


def _numbers(op: wire.Op) -> int:
    """How many numbers, or as many bytes as those take on the way, an operation holds."""
    match op:
        case wire.Append():
            return len(op.tokens)
        case wire.Forward():
            masks = len(op.mask.parents) + sum(map(len, op.mask.runs))
            return len(op.tokens) + len(op.positions) + masks + sum(map(_asked, op.outputs))
        case wire.Verify():
            return len(op.tokens) + len(op.parents) + _asked(op.sampler)
        case wire.OpenRun():
            text = len(op.grammar.text) // _BYTES if op.grammar is not None else 0
            return len(op.stop) + _drawn(op.sampler) + sum(map(_asked, op.probes)) + text
        case wire.SetAdapters():
            return sum(_SMALL + len(use.adapter) // _BYTES for use in op.adapters)
        case _:
            return 0


def _asked(output: wire.Output) -> int:
    return _SMALL + len(output.ids) + len(output.stop) + _drawn(output.sampler)


def _drawn(spec: wire.SamplerSpec) -> int:
    mask = spec.mask
    masked = 0 if mask is None else len(mask) // _BYTES if isinstance(mask, bytes) else len(mask)
    return len(spec.bias_ids) + len(spec.bias) + masked
