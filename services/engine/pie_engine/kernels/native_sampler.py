"""The native sampler: `torch_sampler` token by token, some fifty times as fast."""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import c_int32, c_int64, c_void_p
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pie_engine.kernels.native import Native
from pie_engine.kernels.torch_sampler import least_weight, level_factor
from pie_engine.passes.device import Draw, not_numbers, nothing_left
from pie_engine.passes.draws import uniforms
from pie_engine.passes.outputs import History, Output, Sampler

_DRAW: Final = np.dtype(
    [
        *[("row", "i8"), ("draw", "f8"), ("top_p", "f8"), ("typical_p", "f8"), ("least", "i8"), ("top_k", "i8")],
        *[("mask", "u8"), ("bias_ids", "u8"), ("bias", "u8"), ("biased", "i8"), ("forbidden", "u8"), ("forbids", "i8")],
        *[("history", "u8"), ("tokens", "i8"), ("start", "i8")],
        *[("factor", "f4"), ("repetition", "f4"), ("presence", "f4"), ("frequency", "f4")],
    ]
)
"""`pie::Draw` of `native/sampler_edits.h`."""
_NO_EDITS: Final = (0, 0, 0, 0, 0, 0, 0, 0, 0)
_NOT_NUMBERS: Final = -1


class SamplerKernel:
    """The functions of `native/sampler.cpp`."""

    def __init__(self, native: Native) -> None:
        signature = (c_void_p, c_int64, c_int64, c_void_p, c_int64, c_int32, c_void_p)
        self._run = {
            torch.float32: native.function("pie_sample_f32", *signature),
            torch.bfloat16: native.function("pie_sample_bf16", *signature),
        }

    def __call__(self, logits: Tensor, rows: Sequence[int], outputs: Sequence[Output], threads: int) -> list[Draw]:
        """As `torch_sampler.sample`, for logits on the CPU."""
        if logits.dtype not in self._run:
            logits = logits.float()
        if logits.stride(-1) != 1:
            logits = logits.contiguous()
        samplers = [output.spec for output in outputs if isinstance(output.spec, Sampler)]
        draws = uniforms([s.seed for s in samplers], [output.position for output in outputs]).tolist()
        kept: list[NDArray[np.generic]] = []
        packed = np.array(
            [
                _pack(row, draw, sampler, output.history, kept)
                for row, draw, sampler, output in zip(rows, draws, samplers, outputs, strict=True)
            ],
            dtype=_DRAW,
        )
        tokens = np.empty(len(outputs), dtype=np.int64)
        self._run[logits.dtype](
            *(logits.data_ptr(), logits.stride(0), logits.shape[1]),
            *(packed.ctypes.data, len(outputs), threads, tokens.ctypes.data),
        )
        return [token if token >= 0 else _refusal(token) for token in tokens.tolist()]


def _refusal(code: int) -> Draw:
    return not_numbers() if code == _NOT_NUMBERS else nothing_left()


def _pack(
    row: int, draw: float, s: Sampler, history: History | None, kept: list[NDArray[np.generic]]
) -> tuple[float, ...]:
    """One record; `kept` gets the arrays that it points into."""
    factor = level_factor(s.temperature) if s.temperature else 0.0
    least = least_weight(s.min_p) if s.min_p else 0
    chances = (row, draw, s.top_p, s.typical_p, least, min(s.top_k, 1 << 62))
    penalties = (factor, s.repetition_penalty, s.presence_penalty, s.frequency_penalty)
    if not s.edits:
        return (*chances, *_NO_EDITS, *penalties)
    mask = bias_ids = bias = tokens = 0
    forbidden = np.array(s.forbidden, dtype=np.int32)
    kept.append(forbidden)
    if s.mask is not None:
        kept.append(np.ascontiguousarray(s.mask.bits(), dtype=np.uint32))
        mask = kept[-1].ctypes.data
    if s.bias is not None:
        kept += [s.bias.ids, s.bias.values]
        bias_ids, bias = s.bias.ids.ctypes.data, s.bias.values.ctypes.data
    edits = (mask, bias_ids, bias, 0 if s.bias is None else len(s.bias.ids), forbidden.ctypes.data, len(forbidden))
    if s.penalises and history is not None:
        seen = np.ascontiguousarray(history.tokens)
        kept.append(seen)
        tokens = seen.ctypes.data
        return (*chances, *edits, tokens, len(seen), history.start, *penalties)
    return (*chances, *edits, 0, 0, 0, *penalties)
