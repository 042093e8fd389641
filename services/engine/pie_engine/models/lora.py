"""Applies LoRA adapters to the rows of a pass: `outputs += weight * (inputs @ a.T @ b)` per adapter and row.

A model's linear layers call `LoraPass.add` in passes whose batch names adapters, and nothing in others. The adapters of
a part of the rows lie side by side in one pair of matrices, so that a layer costs two small products however many
adapters there are:

    columns   | adapter 1 | adapter 2 | ..
    row 0     |   0.5     |     -     |        gate: a row's weights; where it has no adapter its product is set to zero
    row 1     |     -     |    1.0    |

Products are float32 whatever the model's format (on a CPU torch's small bfloat16 products take several times as long).
Punica (Chen et al., 2023) and S-LoRA (Sheng et al., 2023) batch adapters on GPUs the same way, with gathers in place of
the gate.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pie_wire.errors import DeviceError
from torch import Tensor

from pie_engine.models.lora_file import LoraAdapter
from pie_engine.passes.batch import AdaptedRows, Batch

_PART_FLOPS = 5e5
"""Wasted multiplications of a layer that cost as much as one part more: its calls take about ten microseconds."""
_STACKS = 8


@dataclass(frozen=True, slots=True)
class StackedLayer:
    """Matrices `[in, columns]` and `[columns, out]` of several adapters side by side; `ranks` has the columns of each,
    0 where it does not adapt this layer."""

    a: Tensor
    b: Tensor
    ranks: tuple[int, ...]


class LoraStore:
    """The adapters that batches may name. Combinations in use are kept stacked, a few at a time."""

    def __init__(self) -> None:
        self._adapters: dict[int, LoraAdapter] = {}
        self._stacks: OrderedDict[tuple[int, ...], Mapping[str, StackedLayer]] = OrderedDict()

    @property
    def adapters(self) -> Mapping[int, LoraAdapter]:
        """Those that are kept, by slot."""
        return self._adapters

    def keep(self, slot: int, adapter: LoraAdapter) -> None:
        self._adapters[slot] = adapter

    def drop(self, slot: int) -> None:
        del self._adapters[slot]
        for slots in [slots for slots in self._stacks if slot in slots]:
            del self._stacks[slots]

    def begin(self, batch: Batch, device: torch.device) -> LoraPass | None:
        """What the layers of this pass call; None when no row has adapters."""
        if not batch.adapted:
            return None
        parts: list[_Part] = []
        for groups in self._divide(batch.adapted):
            slots = tuple(sorted({slot for group in groups for slot, _ in group.adapters}))
            parts.append(_Part(groups, slots, self._stack(slots), batch.rows, device))
        return LoraPass(parts, batch.rows)

    def _divide(self, groups: Sequence[AdaptedRows]) -> Sequence[Sequence[AdaptedRows]]:
        """All groups in one part when what rows waste on each other's columns is less than more calls would cost."""
        adapters = {slot: self._adapters[slot] for group in groups for slot, _ in group.adapters}
        rows = sum(len(group.rows) for group in groups)
        columns = sum(adapter.facts.rank for adapter in adapters.values())
        needed = sum(len(g.rows) * sum(adapters[slot].facts.rank for slot, _ in g.adapters) for g in groups)
        wasted = (rows * columns - needed) * max(adapter.width for adapter in adapters.values())
        return [groups] if wasted <= (len(groups) - 1) * _PART_FLOPS else [[group] for group in groups]

    def _stack(self, slots: tuple[int, ...]) -> Mapping[str, StackedLayer]:
        found = self._stacks.get(slots)
        if found is None:
            found = self._stacks[slots] = _stacked([self._adapters[slot] for slot in slots])
            if len(self._stacks) > _STACKS:
                self._stacks.popitem(last=False)
        else:
            self._stacks.move_to_end(slots)
        return found


class LoraPass:
    """The adapters of one batch. Valid for its pass only."""

    def __init__(self, parts: Sequence[_Part], rows: int) -> None:
        self._parts = parts
        self._rows = rows

    def add(self, inputs: Tensor, *layers: tuple[str, Tensor]) -> None:
        """Add what the adapters give for `inputs` `[T, in]` to the outputs `[T, out]` of linear layers that have these
        inputs, each with its full name. The outputs may be slices of the columns of a larger tensor.

        Raises DeviceError for inputs that are not the rows of the batch.
        """
        if len(inputs) != self._rows:
            raise DeviceError(f"{layers[0][0]} got {len(inputs)} of the {self._rows} rows: it cannot be adapted")
        for part in self._parts:
            rows: Tensor | None = None
            for name, outputs in layers:
                layer = part.stack.get(name)
                if layer is not None:
                    rows = part.take(inputs) if rows is None else rows
                    part.put(part.gated(rows @ layer.a, layer.ranks) @ layer.b, outputs)


class _Part:
    """Rows that are computed together, with one stack."""

    def __init__(
        self,
        groups: Sequence[AdaptedRows],
        slots: tuple[int, ...],
        stack: Mapping[str, StackedLayer],
        total: int,
        device: torch.device,
    ) -> None:
        self.stack = stack
        self._device = device
        rows = np.concatenate([group.rows for group in groups])
        order = np.argsort(rows)
        rows = rows[order]
        first, count = int(rows[0]), len(rows)
        self._range = (first, count) if int(rows[-1]) - first + 1 == count else None
        self._rows = torch.from_numpy(rows).long().to(device) if self._range is None else None
        self._is_all = count == total
        weights = np.zeros((len(groups), len(slots)), dtype=np.float32)
        for index, group in enumerate(groups):
            for slot, weight in group.adapters:
                weights[index, slots.index(slot)] = weight
        self._mixed = len(groups) > 1
        self._plain = not self._mixed and bool((weights == 1.0).all())
        if self._mixed:
            weights = np.repeat(weights, [len(group.rows) for group in groups], axis=0)[order]
        self._weights = weights
        self._gates: dict[tuple[int, ...], tuple[Tensor, Tensor | None]] = {}

    def take(self, inputs: Tensor) -> Tensor:
        """The part's rows `[n, in]`, float32."""
        if self._rows is not None:
            inputs = inputs.index_select(0, self._rows)
        elif self._range is not None and not self._is_all:
            inputs = inputs.narrow(0, *self._range)
        return inputs.float()

    def gated(self, products: Tensor, ranks: tuple[int, ...]) -> Tensor:
        """`[n, columns]` times the weights of each row, in place; zero where a row has not the column's adapter,
        whatever the product: another's overflow must not reach it."""
        if self._plain:
            return products
        found = self._gates.get(ranks)
        if found is None:
            gate = torch.from_numpy(np.repeat(self._weights, ranks, axis=1)).to(self._device)
            found = self._gates[ranks] = (gate, gate == 0 if self._mixed else None)
        gate, off = found
        products.mul_(gate)
        return products if off is None else products.masked_fill_(off, 0.0)

    def put(self, change: Tensor, outputs: Tensor) -> None:
        """Add `[n, out]` to the part's rows of `outputs`."""
        if self._rows is not None:
            outputs.index_add_(0, self._rows, change.to(outputs.dtype))
        elif self._range is not None:
            outputs.narrow(0, *self._range).add_(change)


def _stacked(adapters: Sequence[LoraAdapter]) -> Mapping[str, StackedLayer]:
    names = dict.fromkeys(name for adapter in adapters for name in adapter.layers)
    stacked: dict[str, StackedLayer] = {}
    for name in names:
        layers = [adapter.layers.get(name) for adapter in adapters]
        there = [layer for layer in layers if layer is not None]
        ranks = tuple(layer.a.shape[0] if layer is not None else 0 for layer in layers)
        # One adapter alone needs no copy.
        a = there[0].a if len(there) == 1 else torch.cat([layer.a for layer in there])
        b = there[0].b if len(there) == 1 else torch.cat([layer.b for layer in there])
        stacked[name] = StackedLayer(a.t(), b, ranks)
    return stacked
