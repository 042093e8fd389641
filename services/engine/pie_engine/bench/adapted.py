"""What adapters cost: the same decoding steps with none, with one, with four in turns."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from pie_wire.errors import Unsupported

from pie_engine.bench.figure import Figure
from pie_engine.bench.stand import Stand
from pie_engine.bench.traffic import Decodes, Tokens
from pie_engine.models.lora_file import Adaptable, LoraAdapter, LoraLayer
from pie_engine.models.transformers_model import TransformersModel
from pie_engine.passes.batch import AdaptedRows, Batch
from pie_engine.passes.device import AdapterFacts, Result

_REQUESTS = 16
_CONTEXT = 256
_RANK = 16
_ADAPTERS = 4


def adapter_figures(stand: Stand, rounds: int) -> Iterator[Figure]:
    """Sixteen requests around 256 tokens; adapters of rank 16 on every linear layer, taken by requests in turns.

    Which adapters a row has is written into the batch on its way to the device, so that the rest of a step is the same.
    """
    model, execute = stand.model, stand.execute
    if not isinstance(model, TransformersModel):
        raise Unsupported("a model by script has no adapters to measure")
    for slot in range(1, _ADAPTERS + 1):
        model.keep_adapter(slot, _random_adapter(model.adaptable, slot))
    decodes = Decodes(stand, Tokens(model.info.vocab_size, "adapters"), _REQUESTS, _CONTEXT, steps=8)
    samples: dict[int, list[list[float]]] = {0: [], 1: [], _ADAPTERS: []}
    for _ in range(rounds + 1):
        for count, taken in samples.items():

            def adapted(batch: Batch, count: int = count) -> list[Result]:
                return execute(replace(batch, adapted=_in_turns(batch.rows, count)))

            stand.execute = adapted
            taken.append([timing.total for timing in decodes.round()])
    # The first round of each stacks matrices and warms up.
    medians = {count: [statistics.median(each) for each in taken[1:]] for count, taken in samples.items()}
    for count, values in medians.items():
        yield Figure(f"decode-b{_REQUESTS}-lora-{count}", round(statistics.median(values), 4), "ms")
    for count in (1, _ADAPTERS):
        ratios = [mine / none for mine, none in zip(medians[count], medians[0], strict=True)]
        yield Figure(f"lora-{count}-over-none", round(statistics.median(ratios), 4), "x")


def _in_turns(rows: int, adapters: int) -> tuple[AdaptedRows, ...]:
    return tuple(
        AdaptedRows(((slot, 1.0),), np.arange(slot - 1, rows, adapters, dtype=np.int32))
        for slot in range(1, adapters + 1)
        if slot <= rows
    )


def _random_adapter(adaptable: Adaptable, seed: int) -> LoraAdapter:
    generator = torch.Generator().manual_seed(seed)
    layers = {
        name: LoraLayer(
            torch.randn(_RANK, inputs, generator=generator) * 1e-2, torch.randn(_RANK, out, generator=generator) * 1e-2
        )
        for name, (inputs, out) in adaptable.linears.items()
    }
    size = sum(4 * _RANK * (inputs + out) for inputs, out in adaptable.linears.values())
    facts = AdapterFacts(seed.to_bytes(16, "little"), size, _RANK, len(layers))
    return LoraAdapter(facts, layers, max(map(sum, adaptable.linears.values())))
