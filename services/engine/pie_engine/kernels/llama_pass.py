"""The C side of a Llama pass: structures of `native/llama.cpp`, and attention for it by any `AttentionPass`."""

from __future__ import annotations

import ctypes
from ctypes import c_float, c_int32, c_int64, c_void_p
from typing import Any, Final

import torch
from torch import Tensor

from pie_engine.kernels.attention import AttentionPass, NativeAttentionPass
from pie_engine.kernels.linear import LinearWeight


class LlamaLayer(ctypes.Structure):
    """`PieLlamaLayer`."""

    _fields_ = (
        ("inputs", LinearWeight * 3),
        ("input_count", c_int32),
        ("window", c_int32),
        ("output", LinearWeight),
        ("gate", LinearWeight),
        ("up", LinearWeight),
        ("down", LinearWeight),
        ("attention_norm", c_void_p),
        ("mlp_norm", c_void_p),
        ("query_norm", c_void_p),
        ("key_norm", c_void_p),
    )


class Llama(ctypes.Structure):
    """`PieLlama`."""

    _fields_ = (
        ("layers", ctypes.POINTER(LlamaLayer)),
        ("embedding", c_void_p),
        ("norm", c_void_p),
        ("head", LinearWeight),
        ("layer_count", c_int32),
        ("vocab", c_int32),
        ("hidden", c_int32),
        ("heads", c_int32),
        ("kv_heads", c_int32),
        ("head_dim", c_int32),
        ("format", c_int32),
        ("epsilon", c_float),
        ("scale", c_float),
    )


class LlamaPass(ctypes.Structure):
    """`PieLlamaPass`."""

    _fields_ = (
        ("rows", c_int64),
        ("tokens", c_void_p),
        ("cosines", c_void_p),
        ("sines", c_void_p),
        ("wanted_count", c_int64),
        ("wanted", c_void_p),
        ("logits", c_void_p),
        ("state_count", c_int64),
        ("state_rows", c_void_p),
        ("states", c_void_p),
        ("attend", c_void_p),
        ("plan", c_void_p),
        ("threads", c_int32),
        ("lora", c_void_p),
    )


class LoraWeight(ctypes.Structure):
    """`PieLoraWeight` of `native/lora.h`."""

    _fields_ = (("a", c_void_p), ("b", c_void_p), ("columns", c_int64))


class Lora(ctypes.Structure):
    """`PieLora`."""

    _fields_ = (
        ("weights", c_void_p),
        ("rows", c_void_p),
        ("gates", c_void_p),
        ("count", c_int64),
        ("adapters", c_int64),
    )


class _Attend(ctypes.Structure):
    """`PieAttend` of `native/attend.h`."""

    query: int
    key: int
    value: int
    out: int
    stride: int
    layer: int
    window: int
    scale: float
    threads: int

    _fields_ = (  # pyright: ignore[reportIncompatibleVariableOverride]
        ("query", c_void_p),
        ("key", c_void_p),
        ("value", c_void_p),
        ("out", c_void_p),
        ("stride", c_int64),
        ("layer", c_int32),
        ("window", c_int32),
        ("scale", c_float),
        ("threads", c_int32),
    )


_AttendFunction = ctypes.CFUNCTYPE(None, c_void_p, ctypes.POINTER(_Attend))
_ITEM: Final = {torch.float32: ctypes.c_float, torch.bfloat16: ctypes.c_uint16}


class Attending:
    """Function and plan for `LlamaPass`: attention's own where it has them, else calls back into Python.

    An error of such a call is kept, since it cannot pass through native code; `check` raises it.
    """

    def __init__(
        self, attention: AttentionPass, rows: int, heads: int, kv_heads: int, dim: int, dtype: torch.dtype
    ) -> None:
        self._attention = attention
        self._shape = (rows, heads, kv_heads, dim)
        self._dtype = dtype
        self._failure: BaseException | None = None
        if isinstance(attention, NativeAttentionPass):
            self.function, self.plan = attention.native_plan()
        else:
            self._callback = _AttendFunction(self._attend)
            self.function, self.plan = ctypes.cast(self._callback, c_void_p).value, None

    def check(self) -> None:
        """Raise what attention raised."""
        if self._failure is not None:
            raise self._failure

    def _attend(self, plan: int | None, reference: Any) -> None:
        """What native code calls; `reference` points to an `_Attend`."""
        if self._failure is not None:
            return
        call: _Attend = reference.contents
        rows, heads, kv_heads, dim = self._shape
        try:
            attended = self._attention.attend(
                call.layer,
                self._view(call.query, rows, call.stride, heads, dim),
                self._view(call.key, rows, call.stride, kv_heads, dim),
                self._view(call.value, rows, call.stride, kv_heads, dim),
                scale=call.scale,
                window=call.window or None,
            )
            self._view(call.out, rows, heads * dim, heads, dim).copy_(attended)
        except BaseException as exc:  # noqa: BLE001 - raised again by check()
            self._failure = exc

    def _view(self, address: int, rows: int, stride: int, heads: int, dim: int) -> Tensor:
        """`[rows, heads, dim]` of memory where a row begins every `stride` elements."""
        count = (rows - 1) * stride + heads * dim
        flat = torch.frombuffer((_ITEM[self._dtype] * count).from_address(address), dtype=self._dtype)
        return flat.as_strided((rows, heads, dim), (stride, dim, 1))
