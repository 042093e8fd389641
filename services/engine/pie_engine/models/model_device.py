"""A device made of a model and the sampler."""

from __future__ import annotations

import torch

from pie_engine.batch import Batch, LogitsProbe, Sampler, TopKProbe
from pie_engine.device import Result, TopK
from pie_engine.kernels.sampler import most_likely, sample
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
        with torch.inference_mode():
            logits = self._model.forward(batch)
            return self._results(batch, logits)

    def _results(self, batch: Batch, logits: torch.Tensor) -> list[Result]:
        samplers: list[Sampler] = []
        rows: list[int] = []
        results: list[Result | None] = []
        for index, output in enumerate(batch.outputs):
            match output.spec:
                case Sampler():
                    samplers.append(output.spec)
                    rows.append(index)
                    results.append(None)
                case TopKProbe(k=k):
                    ids, probabilities = most_likely(logits[index], k)
                    results.append(TopK(tuple(ids), tuple(probabilities)))
                case LogitsProbe():
                    results.append(logits[index].float().numpy().copy())
        if samplers:
            asked = logits if len(rows) == len(logits) else logits[rows]
            tokens = sample(asked, samplers, [batch.outputs[i].position for i in rows])
            for index, token in zip(rows, tokens, strict=True):
                results[index] = token
        return [result for result in results if result is not None]

    def _use_threads(self, rows: int) -> None:
        wanted = self._threads or (1 if rows <= _FEW_ROWS else self._all_threads)
        if wanted != self._set:
            torch.set_num_threads(wanted)
            self._set = wanted
