"""Answers to probes, from the model's own logits."""

from __future__ import annotations

from functools import cached_property
from typing import TypeAlias

import torch
from torch import Tensor

from pie_engine.passes.device import Entropy, LogProbs, Result, TopK, Vector
from pie_engine.passes.outputs import EntropyProbe, LogitsProbe, LogProbsProbe, TopKProbe

LogitProbe: TypeAlias = LogitsProbe | TopKProbe | LogProbsProbe | EntropyProbe


class RowProbes:
    """One row of logits `[vocab]`, the largest of them finite: what is asked twice is computed once."""

    def __init__(self, logits: Tensor) -> None:
        self._row = logits.float()
        self._answers: dict[LogitProbe, Result] = {}

    @cached_property
    def _log_sum(self) -> Tensor:
        return _log_sum(self._row)

    def answer(self, spec: LogitProbe) -> Result:
        """What `spec` asks."""
        known = self._answers.get(spec)
        if known is None:
            known = self._answers[spec] = self._compute(spec)
        return known

    def _compute(self, spec: LogitProbe) -> Result:
        row = self._row
        match spec:
            case LogitsProbe():
                # A copy: the row may be part of a buffer that is used again.
                return Vector("logits", row.cpu().numpy().copy())
            case TopKProbe(k=k):
                ids, values = _largest(row, k)
                return TopK(tuple(ids.tolist()), tuple((values.double() - self._log_sum).exp().tolist()))
            case LogProbsProbe(ids=ids):
                return LogProbs(tuple((row[list(ids)].double() - self._log_sum).tolist()))
            case EntropyProbe():
                logprobs = row.double() - self._log_sum
                # Impossible tokens contribute nothing; 0 times infinity would be no number.
                return Entropy(-float((logprobs.exp() * logprobs.clamp(min=-1e4)).sum()))


def probe(logits: Tensor, spec: LogitProbe) -> Result:
    """What `spec` asks of one row `[vocab]` whose largest logit is finite."""
    return RowProbes(logits).answer(spec)


def most_likely(logits: Tensor, k: int) -> tuple[list[int], list[float]]:
    """The `k` most likely tokens of one row `[vocab]` and their probabilities at temperature 1, most likely first;
    the lower id first among equals."""
    row = logits.float()
    ids, values = _largest(row, k)
    return ids.tolist(), (values.double() - _log_sum(row)).exp().tolist()


def _largest(row: Tensor, k: int) -> tuple[Tensor, Tensor]:
    count = min(k, row.numel())
    least = row.topk(count).values[-1]
    # topk leaves the order of equals open, also which of those at its end it takes.
    ids = torch.nonzero(row >= least)[:, 0]
    values = row[ids]
    order = torch.argsort(values, descending=True, stable=True)[:count]
    return ids[order], values[order]


def _log_sum(row: Tensor) -> Tensor:
    largest = row.amax().double()
    return (row.double() - largest).exp().sum().log() + largest
