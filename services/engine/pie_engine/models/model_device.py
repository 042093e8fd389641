"""A device made of a model and the sampler."""

from __future__ import annotations

import time
from collections.abc import Mapping, Set

import numpy as np
import torch
from pie_wire.errors import DeviceError

from pie_engine.kernels.probes import LogitProbe, RowProbes
from pie_engine.kernels.sampler import sample
from pie_engine.memory.host_store import HostStore
from pie_engine.models.base import Model, ModelOutput
from pie_engine.models.thread_policy import ThreadPolicy
from pie_engine.passes.batch import Batch
from pie_engine.passes.device import LoadedAdapter, Result, Vector, load_pages, not_numbers, read_probed
from pie_engine.passes.outputs import HiddenProbe, Int32Array, PagesProbe, Sampler
from pie_engine.passes.trees import moves


class ModelDevice:
    """`Device`: forward, then every output of the batch from its row's logits or hidden state.

    With `threads` 0 passes use all cores as long as they have them (`ThreadPolicy`).
    """

    def __init__(self, model: Model, *, threads: int = 0) -> None:
        self._model = model
        self._policy = ThreadPolicy(torch.get_num_threads(), fixed=threads)
        self._set: int | None = None
        self._host = HostStore(model)

    def execute(self, batch: Batch) -> list[Result]:
        if batch.moves is not None:
            self._host.carry_out(batch.moves)
        if not batch.rows:
            return []
        load_pages(self._model, batch)
        self._use_threads(batch.rows)
        try:
            with torch.inference_mode():
                results = self._results(batch, self._watched(batch))
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
        places = {row: place for place, row in enumerate(batch.logit_rows.tolist())}
        unsound = self._unsound(batch, given, places)
        sampled = [output for output in batch.outputs if isinstance(output.spec, Sampler)]
        drawn = sample(given.logits, [places[output.row] for output in sampled], sampled, self._set or 1)
        unsound.update(o.row for o, draw in zip(sampled, drawn, strict=True) if isinstance(draw, DeviceError))
        for row in unsound:
            self._model.erase(_written_with(batch, row))
        answers = _answers(batch, given, places, unsound)
        tokens = iter(drawn)
        results: list[Result] = []
        for index, output in enumerate(batch.outputs):
            match output.spec:
                case PagesProbe():
                    results.append(read_probed(self._model, output.spec, batch.page_size))
                case Sampler():
                    results.append(next(tokens))
                case _ if output.row in unsound:
                    results.append(not_numbers())
                case HiddenProbe():
                    results.append(self._hidden(batch, given, output.row))
                case _:
                    results.append(answers[index])
        return results

    def _unsound(self, batch: Batch, given: ModelOutput, places: Mapping[int, int]) -> set[int]:
        """Rows that probes ask and that are no numbers; what the sampler reads, it looks at itself."""
        unsound: set[int] = set()
        probed = {o.row for o in batch.outputs if not isinstance(o.spec, Sampler | HiddenProbe | PagesProbe)}
        for row in probed:
            if not torch.isfinite(given.logits[places[row]].amax()):
                unsound.add(row)
        if given.hidden is not None:
            whole = torch.isfinite(given.hidden).all(dim=-1).tolist()
            unsound.update(row for row, fine in zip(batch.hidden_rows.tolist(), whole, strict=True) if not fine)
        return unsound

    def _hidden(self, batch: Batch, given: ModelOutput, row: int) -> Result:
        if given.hidden is None:
            return DeviceError("the model gave no hidden states")
        place = int(np.searchsorted(batch.hidden_rows, row))
        return Vector("hidden", given.hidden[place].float().numpy().copy())

    def _watched(self, batch: Batch) -> ModelOutput:
        """The forward pass; the policy learns how much of its time the pass had a core."""
        started, computing = time.perf_counter(), time.thread_time()
        given = self._model.forward(batch)
        self._policy.ran(time.perf_counter() - started, time.thread_time() - computing)
        return given

    def _use_threads(self, rows: int) -> None:
        wanted = self._policy.threads(rows)
        if wanted != self._set:
            torch.set_num_threads(wanted)
            self._set = wanted


def _answers(batch: Batch, given: ModelOutput, places: Mapping[int, int], unsound: Set[int]) -> dict[int, Result]:
    """What is asked of logits, by the index of the output. Row by row: all that is asked of one shares what it can."""
    asked: dict[int, list[tuple[int, LogitProbe]]] = {}
    for index, output in enumerate(batch.outputs):
        if output.row not in unsound and not isinstance(output.spec, Sampler | HiddenProbe | PagesProbe):
            asked.setdefault(output.row, []).append((index, output.spec))
    answers: dict[int, Result] = {}
    for row, questions in asked.items():
        probes = RowProbes(given.logits[places[row]])
        answers.update((index, probes.answer(spec)) for index, spec in questions)
    return answers


def _written_with(batch: Batch, row: int) -> Int32Array:
    """Physical slots written by the segment of a row."""
    segment = int(np.searchsorted(batch.segment_rows, row, side="right")) - 1
    return batch.write_slots[batch.segment_rows[segment] : batch.segment_rows[segment + 1]]
