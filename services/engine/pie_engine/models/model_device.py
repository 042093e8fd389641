"""A device made of a model and the sampler."""

from __future__ import annotations

import numpy as np
import torch
from pie_wire.errors import DeviceError

from pie_engine.batch import Batch, Int32Array
from pie_engine.device import LoadedAdapter, Result, Vector, nothing_left
from pie_engine.host_store import HostStore
from pie_engine.kernels.probes import are_numbers, probe
from pie_engine.kernels.torch_sampler import sample
from pie_engine.models.base import Model, ModelOutput
from pie_engine.outputs import HiddenProbe, Sampler
from pie_engine.trees import moves

_FEW_ROWS = 4


class ModelDevice:
    """`Device`: forward, then every output of the batch from its row's logits or hidden state.

    With `threads` 0 a pass of a few rows runs on one thread, as reading the weights is then what takes the time and
    a second thread waits for whatever else the machine does; larger passes use all cores.
    """

    def __init__(self, model: Model, *, threads: int = 0) -> None:
        self._model = model
        self._threads = threads
        self._all_threads = torch.get_num_threads()
        self._set: int | None = None
        self._host = HostStore(model)

    def execute(self, batch: Batch) -> list[Result]:
        if batch.moves is not None:
            self._host.carry_out(batch.moves)
        if not batch.rows:
            return []
        self._use_threads(batch.rows)
        try:
            with torch.inference_mode():
                results = self._results(batch, self._model.forward(batch))
                moved = moves(batch, results)
                if len(moved):
                    self._model.move(moved)
                return results
        except BaseException:
            self._model.erase(batch.write_slots)
            raise

    def read_adapter(self, folder: str, most: int) -> LoadedAdapter:
        return self._model.read_adapter(folder, most)

    def keep_adapter(self, slot: int, adapter: LoadedAdapter) -> None:
        self._model.keep_adapter(slot, adapter)

    def drop_adapter(self, slot: int) -> None:
        self._model.drop_adapter(slot)

    def _results(self, batch: Batch, given: ModelOutput) -> list[Result]:
        results: list[Result] = [DeviceError("the model gave logits that are not numbers")] * len(batch.outputs)
        sound = dict(zip(batch.logit_rows.tolist(), are_numbers(given.logits), strict=True))
        if given.hidden is not None:
            whole = torch.isfinite(given.hidden).all(dim=-1).tolist()
            for row, fine in zip(batch.hidden_rows.tolist(), whole, strict=True):
                sound[row] = sound.get(row, True) and fine
        for row in (row for row, fine in sound.items() if not fine):
            self._model.erase(_written_with(batch, row))
        places = {row: place for place, row in enumerate(batch.logit_rows.tolist())}
        sampled: list[int] = []
        for index, output in enumerate(batch.outputs):
            if not sound[output.row]:
                continue
            match output.spec:
                case Sampler():
                    sampled.append(index)
                case HiddenProbe():
                    results[index] = self._hidden(batch, given, output.row)
                case asked:
                    results[index] = probe(given.logits[places[output.row]], asked)
        outputs = [batch.outputs[index] for index in sampled]
        tokens = sample(given.logits, [places[output.row] for output in outputs], outputs)
        for index, token in zip(sampled, tokens, strict=True):
            results[index] = nothing_left() if token is None else token
        return results

    def _hidden(self, batch: Batch, given: ModelOutput, row: int) -> Result:
        if given.hidden is None:
            return DeviceError("the model gave no hidden states")
        place = int(np.searchsorted(batch.hidden_rows, row))
        return Vector("hidden", given.hidden[place].float().numpy().copy())

    def _use_threads(self, rows: int) -> None:
        wanted = self._threads or (1 if rows <= _FEW_ROWS else self._all_threads)
        if wanted != self._set:
            torch.set_num_threads(wanted)
            self._set = wanted


def _written_with(batch: Batch, row: int) -> Int32Array:
    """Physical slots written by the segment of a row."""
    segment = int(np.searchsorted(batch.segment_rows, row, side="right")) - 1
    return batch.write_slots[batch.segment_rows[segment] : batch.segment_rows[segment + 1]]
