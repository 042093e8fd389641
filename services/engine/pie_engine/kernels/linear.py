"""Linear layers with our own kernel: weights laid out once, float32 arithmetic, one order of summation.

A row's result depends on the row alone: not on the rows beside it, nor on the number of threads.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Sequence
from ctypes import c_int32, c_int64, c_void_p
from typing import Any, Final

import torch
from torch import Tensor

from pie_engine.kernels.native import Native

FORMATS: Final = {torch.float32: 0, torch.bfloat16: 1}
"""Number formats as the kernels count them."""

_CHUNK: Final = 64 * 2**20
_ALIGNMENT: Final = 64


class LinearWeight(ctypes.Structure):
    """`pie::Weight` of `native/linear.h`."""

    panels: int
    bias: int | None
    outputs: int
    inputs: int
    format: int

    _fields_ = (  # pyright: ignore[reportIncompatibleVariableOverride]
        ("panels", c_void_p),
        ("bias", c_void_p),
        ("outputs", c_int64),
        ("inputs", c_int64),
        ("format", c_int32),
    )


class WeightMemory:
    """Memory for the weights of one model, in large pages where the system has them; freed with this object."""

    def __init__(self) -> None:
        self._chunks: list[mmap.mmap] = []
        self._address = 0
        self._left = 0

    def take(self, size: int) -> int:
        """Address of `size` bytes."""
        size += -size % _ALIGNMENT
        if size > self._left:
            chunk = mmap.mmap(-1, max(size, _CHUNK))
            if hasattr(mmap, "MADV_HUGEPAGE"):
                chunk.madvise(mmap.MADV_HUGEPAGE)
            self._chunks.append(chunk)
            self._address = ctypes.addressof(ctypes.c_char.from_buffer(chunk))
            self._left = len(chunk)
        address = self._address
        self._address += size
        self._left -= size
        return address


class LinearKernel:
    """The functions of `native/linear.cpp`."""

    def __init__(self, native: Native) -> None:
        self._bytes = native.function("pie_linear_bytes", c_int64, c_int64, c_int32, returns=c_int64)
        self._lay_out = native.function("pie_linear_lay_out", c_void_p, c_int64, c_int64, c_int32, c_void_p, c_int32)
        self._run = native.function(
            "pie_linear", c_void_p, c_void_p, c_int64, c_int64, c_void_p, c_int64, c_int32, c_int32
        )

    def prepare(self, weight: Tensor, bias: Tensor | None, memory: WeightMemory) -> NativeLinear:
        """Lay out `weight` `[out, in]`, float32 or bfloat16 on the CPU; `memory` must outlive the result."""
        weight = weight.detach().contiguous()
        outputs, inputs = weight.shape
        form = FORMATS[weight.dtype]
        size = self._bytes(outputs, inputs, form)
        panels = memory.take(size)
        self._lay_out(weight.data_ptr(), outputs, inputs, form, panels, 1)
        kept = None if bias is None else bias.detach().float().contiguous()
        described = LinearWeight(panels, _address(kept), outputs, inputs, form)
        return NativeLinear(self._run, described, size, memory, kept)


class NativeLinear:
    """`y = x W^T + b` with one weight matrix."""

    def __init__(self, run: Any, weight: LinearWeight, size: int, memory: WeightMemory, bias: Tensor | None) -> None:
        self.weight = weight
        self.run = run
        self.size = size
        self.memory = memory
        self.bias = bias
        self._reference = ctypes.addressof(weight)

    def __call__(self, rows: Tensor, threads: int) -> Tensor:
        """`[..., in]` to `[..., out]` in the format of `rows`, float32 or bfloat16."""
        inputs, outputs = int(self.weight.inputs), int(self.weight.outputs)
        flat = rows.reshape(-1, inputs)
        if flat.stride(1) != 1:
            flat = flat.contiguous()
        result = torch.empty(flat.shape[0], outputs, dtype=rows.dtype)
        self.run(
            *(self._reference, flat.data_ptr(), flat.stride(0), flat.shape[0]),
            *(result.data_ptr(), outputs, FORMATS[rows.dtype], threads),
        )
        return result.view(*rows.shape[:-1], outputs)


def join(linears: Sequence[NativeLinear], panel: int) -> list[NativeLinear]:
    """Those of the same rows as fewer layers with all their columns: one, where the weights lie beside each other.

    `panel` is the number of columns that the kernel lays out together.
    """
    first = linears[0]
    end = first.weight.panels
    for linear in linears:
        if (
            linear.weight.panels != end
            or linear.weight.outputs % panel
            or (linear.bias is None) != (first.bias is None)
        ):
            return list(linears)
        end = linear.weight.panels + linear.size
    bias = None if first.bias is None else torch.cat([linear.bias for linear in linears if linear.bias is not None])
    outputs = sum(int(linear.weight.outputs) for linear in linears)
    size = sum(linear.size for linear in linears)
    whole = LinearWeight(first.weight.panels, _address(bias), outputs, first.weight.inputs, first.weight.format)
    return [NativeLinear(first.run, whole, size, first.memory, bias)]


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
