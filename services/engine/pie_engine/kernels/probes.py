"""Answers to probes, from the model's own logits."""

from __future__ import annotations

import torch
from torch import Tensor

from pie_engine.passes.device import Entropy, LogProbs, Result, TopK, Vector
from pie_engine.passes.outputs import EntropyProbe, LogitsProbe, LogProbsProbe, TopKProbe


def probe(logits: Tensor, spec: LogitsProbe | TopKProbe | LogProbsProbe | EntropyProbe) -> Result:
    """What `spec` asks of one row `[vocab]` whose largest logit is finite."""
    row = logits.float()
    match spec:
        case LogitsProbe():
            # A copy: the row may be part of a buffer that is used again.
            return Vector("logits", row.cpu().numpy().copy())
        case TopKProbe(k=k):
            ids, probabilities = most_likely(row, k)
            return TopK(tuple(ids), tuple(probabilities))
        case LogProbsProbe(ids=ids):
            return LogProbs(tuple((row[list(ids)].double() - _log_sum(row)).tolist()))
        case EntropyProbe():
            logprobs = row.double() - _log_sum(row)
            # Impossible tokens contribute nothing; 0 times infinity would be no number.
            return Entropy(-float((logprobs.exp() * logprobs.clamp(min=-1e4)).sum()))


def most_likely(logits: Tensor, k: int) -> tuple[list[int], list[float]]:
    """The `k` most likely tokens of one row `[vocab]` and their probabilities at temperature 1, most likely first;
    the lower id first among equals."""
    row = logits.float()
    count = min(k, row.numel())
    least = row.topk(count).values[-1]
    # topk leaves the order of equals open, also which of those at its end it takes.
    ids = torch.nonzero(row >= least)[:, 0]
    values = row[ids]
    order = torch.argsort(values, descending=True, stable=True)[:count]
    return ids[order].tolist(), (values[order].double() - _log_sum(row)).exp().tolist()


def _log_sum(row: Tensor) -> Tensor:
    largest = row.amax().double()
    return (row.double() - largest).exp().sum().log() + largest
