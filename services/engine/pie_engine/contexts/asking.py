"""What programs ask of rows, brought from the wire into the device's form. Everything has been checked before."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pie_wire.errors import BadField
from pie_wire.messages import engine as wire

from pie_engine.contexts.context import Context
from pie_engine.passes.outputs import (
    Bias,
    EntropyProbe,
    HiddenProbe,
    History,
    LogitsProbe,
    LogProbsProbe,
    Output,
    OutputSpec,
    Probe,
    Sampler,
    TopKProbe,
)
from pie_engine.passes.token_masks import read_mask


def make_sampler(spec: wire.SamplerSpec, seed: int, vocab: int, forbidden: Sequence[int] = ()) -> Sampler:
    """`forbidden` are the stop ids while `min_tokens` has not been reached."""
    bias = None
    if spec.bias_ids:
        bias = Bias(np.asarray(spec.bias_ids, dtype=np.int32), np.asarray(spec.bias, dtype=np.float32))
    return Sampler(
        temperature=spec.temperature,
        top_p=spec.top_p,
        top_k=spec.top_k,
        seed=seed,
        min_p=spec.min_p,
        typical_p=spec.typical_p,
        repetition_penalty=spec.repetition_penalty,
        presence_penalty=spec.presence_penalty,
        frequency_penalty=spec.frequency_penalty,
        bias=bias,
        forbidden=tuple(dict.fromkeys(forbidden)),
        mask=None if spec.mask is None else read_mask(spec.mask, vocab),
    )


def make_outputs(outputs: Sequence[wire.Output], first: int, context: Context, vocab: int) -> list[Output]:
    """The outputs of a lockstep pass whose row 0 is at slot `first` of a context that has its tokens already; rows
    become slots."""
    penalised = any(output.kind == "token" and penalises(output.sampler) for output in outputs)
    array = np.asarray(context.tokens, dtype=np.int32) if penalised else None
    made: list[Output] = []
    for output in outputs:
        slot = first + output.row
        length = slot + 1
        spec = _spec(output, length, vocab)
        history = None
        if array is not None and isinstance(spec, Sampler) and spec.penalises:
            history = History(array[:length], length if output.start is None else output.start)
        made.append(Output(slot, context.lineage.position(slot) + 1, spec, history))
    return made


def penalises(spec: wire.SamplerSpec) -> bool:
    """Some penalty is on."""
    return spec.repetition_penalty != 1.0 or spec.presence_penalty != 0.0 or spec.frequency_penalty != 0.0


def make_probe(output: wire.Output) -> Probe:
    """Raises BadField for a token, which is no probe."""
    match output.kind:
        case "top":
            return TopKProbe(output.top)
        case "logits":
            return LogitsProbe()
        case "logprobs":
            return LogProbsProbe(tuple(output.ids))
        case "entropy":
            return EntropyProbe()
        case "hidden":
            return HiddenProbe()
        case "token":
            raise BadField("a token is no probe: a sampler draws it")


def _spec(output: wire.Output, position: int, vocab: int) -> OutputSpec:
    if output.kind != "token":
        return make_probe(output)
    generated = 0 if output.start is None else position - output.start
    early = generated < output.sampler.min_tokens
    return make_sampler(output.sampler, output.seed, vocab, output.stop if early else ())
