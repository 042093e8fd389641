"""The adapters of a batch for a native Llama pass: addresses of their matrices by layer, weights by row."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from ctypes import Array, addressof
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pie_engine.kernels.llama_pass import Lora, LoraWeight
from pie_engine.models.lora_file import LoraAdapter
from pie_engine.passes.batch import Batch
from pie_engine.passes.outputs import Int32Array

LINEARS: Final = (
    *("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
    *("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
)
"""Of a layer, in the order of `PieLora`."""
_TABLES: Final = 8


@dataclass(frozen=True, slots=True)
class NativeLora:
    """A `PieLora` with the memory it points to. Valid while its adapters are kept."""

    lora: Lora
    rows: Int32Array
    gates: NDArray[np.float32]

    @property
    def address(self) -> int:
        return addressof(self.lora)


class LoraTables:
    """Tables of addresses, kept for the combinations of adapters used last."""

    def __init__(self, layers: int) -> None:
        self._layers = layers
        self._tables: OrderedDict[tuple[int, ...], Array[LoraWeight]] = OrderedDict()

    def drop(self, slot: int) -> None:
        """The adapter in this slot is about to go."""
        for slots in [slots for slots in self._tables if slot in slots]:
            del self._tables[slots]

    def begin(self, batch: Batch, adapters: Mapping[int, LoraAdapter]) -> NativeLora | None:
        """None when no row of the batch has adapters. `adapters` are those that are kept, by slot."""
        if not batch.adapted:
            return None
        slots = tuple(sorted({slot for group in batch.adapted for slot, _ in group.adapters}))
        weights = np.zeros((len(batch.adapted), len(slots)), dtype=np.float32)
        for index, group in enumerate(batch.adapted):
            for slot, weight in group.adapters:
                weights[index, slots.index(slot)] = weight
        rows = np.concatenate([group.rows for group in batch.adapted])
        order = np.argsort(rows)
        rows = np.ascontiguousarray(rows[order], dtype=np.int32)
        gates = np.ascontiguousarray(np.repeat(weights, [len(group.rows) for group in batch.adapted], axis=0)[order])
        table = self._table(slots, adapters)
        lora = Lora(addressof(table), rows.ctypes.data, gates.ctypes.data, len(rows), len(slots))
        return NativeLora(lora, rows, gates)

    def _table(self, slots: tuple[int, ...], adapters: Mapping[int, LoraAdapter]) -> Array[LoraWeight]:
        found = self._tables.get(slots)
        if found is not None:
            self._tables.move_to_end(slots)
            return found
        found = self._tables[slots] = (LoraWeight * (self._layers * len(LINEARS) * len(slots)))()
        names = [f"model.layers.{layer}.{linear}" for layer in range(self._layers) for linear in LINEARS]
        for place, name in enumerate(names):
            for index, slot in enumerate(slots):
                layer = adapters[slot].layers.get(name)
                if layer is not None:
                    weight = LoraWeight(layer.a.data_ptr(), layer.b.data_ptr(), layer.a.shape[0])
                    found[place * len(slots) + index] = weight
        if len(self._tables) > _TABLES:
            self._tables.popitem(last=False)
        return found
