"""A device made of a model and the sampler."""

from __future__ import annotations

import numpy as np
import torch
from pie_wire.errors import DeviceError

from pie_engine.batch import Batch, Int32Array, LogitsProbe, Sampler, TopKProbe
from pie_engine.device import LoadedAdapter, Result, TopK
from pie_engine.kernels.sampler import are_numbers, most_likely, sample
from pie_engine.models.base import Model

_FEW_ROWS = 4


class ModelDevice:
    """`Device`: forward, then every output of the batch from its row's logits.

    With `threads` 0 a pass of a few rows runs on one thread, as reading the weights is then what takes the time and
    a second thread waits for whatever else the machine does; larger passes use all cores.
    """

    def __init__(self, model: Model, *, threads: int = 0) -> None:
        self._model = model
        self._threads = threads
        self._all_threads = torch.get_num_threads()
        self._set: int | None = None

    def execute(self, batch: Batch) -> list[Result]:
        self._use_threads(batch.rows)
        try:
            with torch.inference_mode():
                return self._results(batch, self._model.forward(batch))
        except BaseException:
            self._model.erase(batch.write_slots)
            raise

    def read_adapter(self, folder: str, most: int) -> LoadedAdapter:
        return self._model.read_adapter(folder, most)

    def keep_adapter(self, slot: int, adapter: LoadedAdapter) -> None:
        self._model.keep_adapter(slot, adapter)

    def drop_adapter(self, slot: int) -> None:
        self._model.drop_adapter(slot)

    def _results(self, batch: Batch, logits: torch.Tensor) -> list[Result]:
        results: list[Result] = [DeviceError("the model gave logits that are not numbers")] * len(batch.outputs)
        samplers: list[Sampler] = []
        sampled: list[int] = []
        for index, (output, sound) in enumerate(zip(batch.outputs, are_numbers(logits), strict=True)):
            if not sound:
                self._model.erase(_written_with(batch, output.row))
                continue
            match output.spec:
                case Sampler():
                    samplers.append(output.spec)
                    sampled.append(index)
                case TopKProbe(k=k):
                    ids, probabilities = most_likely(logits[index], k)
                    results[index] = TopK(tuple(ids), tuple(probabilities))
                case LogitsProbe():
                    results[index] = logits[index].float().numpy().copy()
        if samplers:
            asked = logits if len(sampled) == len(logits) else logits[sampled]
            tokens = sample(asked, samplers, [batch.outputs[i].position for i in sampled])
            for index, token in zip(sampled, tokens, strict=True):
                results[index] = token
        return results

    def _use_threads(self, rows: int) -> None:
        wanted = self._threads or (1 if rows <= _FEW_ROWS else self._all_threads)
        if wanted != self._set:
            torch.set_num_threads(wanted)
            self._set = wanted


def _written_with(batch: Batch, row: int) -> Int32Array:
    """Physical slots written by the segment of a row."""
    segment = int(np.searchsorted(batch.segment_rows, row, side="right")) - 1
    return batch.write_slots[batch.segment_rows[segment] : batch.segment_rows[segment + 1]]
