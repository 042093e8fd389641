"""Paged attention by the native kernels: see `native/attention_block.h` for the method, and decisions 072 and 073.

What a row gets does not depend on the batch it rides in, bit for bit: neither on the rows beside it, nor on the number
of threads, nor on whether it shares its prefix with others.
"""

from __future__ import annotations

import ctypes
from ctypes import byref, c_float, c_int32, c_int64, c_void_p
from typing import Final

import torch
from pie_wire.errors import InternalError
from torch import Tensor

from pie_engine.kernels.kv_pool import KvPool
from pie_engine.kernels.native import Native
from pie_engine.passes.batch import Batch
from pie_engine.passes.outputs import Int32Array

DIM_MULTIPLE: Final = 16
"""Head dimensions the kernels are written for."""
_MOST_SHARE: Final = 1024
"""Query heads per KV head that they are written for."""


class _Pass(ctypes.Structure):
    """`PieAttentionPass` of `native/attention_plan.h`."""

    _fields_ = (
        *((name, c_int32) for name in ("rows", "segments", "page_size", "causal")),
        *((name, c_void_p) for name in ("row_slots", "write_slots", "interval_ptr", "intervals")),
        *((name, c_void_p) for name in ("segment_rows", "page_ptr", "pages", "pool")),
        ("page_elements", c_int64),
        *((name, c_int32) for name in ("pool_pages", "layers", "kv_heads", "head_dim", "wide", "shares")),
    )


class _Call(ctypes.Structure):
    """`PieAttention` of `native/attention.cpp`."""

    _fields_ = (
        *((name, c_void_p) for name in ("query", "key", "value", "out", "sinks")),
        *((name, c_int64) for name in ("query_row", "query_head", "key_row", "key_head", "value_row", "value_head")),
        *((name, c_int32) for name in ("heads", "layer", "window", "threads")),
        *((name, c_float) for name in ("scale", "softcap")),
    )


class NativeAttention:
    """`Attention` by C++ kernels over a pool in main memory."""

    def __init__(self, native: Native, *, shares: bool = True) -> None:
        """`shares`: the KV of a prefix that several decodes have in common is read once a pass for all of them."""
        self.name = f"native-{native.isa}"
        self._shares = shares
        self._begin = native.function("pie_attention_begin", c_void_p, returns=c_void_p)
        self.end = native.function("pie_attention_end", c_void_p)
        self.attend = native.function("pie_attention", c_void_p, c_void_p)
        attend_plainly = native.function("pie_attend", c_void_p, c_void_p)
        self.address = ctypes.cast(attend_plainly, c_void_p).value or 0

    def begin(self, batch: Batch, pool: KvPool) -> NativePass:
        """Raises InternalError when the batch refers to pages, slots or rows that are not there."""
        if pool.head_dim % DIM_MULTIPLE:
            raise InternalError(f"heads of {pool.head_dim} numbers: native kernels need a multiple of {DIM_MULTIPLE}")
        arrays = (
            batch.row_slots,
            batch.write_slots,
            batch.interval_ptr,
            batch.intervals,
            batch.segment_rows,
            batch.page_ptr,
            batch.pages,
        )
        base = pool.tensor
        described = _Pass(
            batch.rows,
            batch.segments,
            batch.page_size,
            batch.causal,
            *(_address(array) for array in arrays),
            base.data_ptr(),
            base.stride(0),
            base.shape[0],
            base.shape[1],
            pool.kv_heads,
            pool.head_dim,
            base.dtype == torch.float32,
            self._shares,
        )
        plan = self._begin(byref(described))
        if plan is None:
            raise InternalError("a batch does not fit the KV pool: its rows, pages and slots contradict each other")
        return NativePass(self, plan, batch, pool)


class NativePass:
    """`AttentionPass` of `NativeAttention`; also a `NativeAttentionPass`."""

    def __init__(self, attention: NativeAttention, plan: int, batch: Batch, pool: KvPool) -> None:
        self._attention = attention
        self._plan = plan
        # The plan refers to the arrays and to the pool.
        self._batch = batch
        self._pool = pool
        self._threads = torch.get_num_threads()

    def __del__(self) -> None:
        self._attention.end(self._plan)

    def native_plan(self) -> tuple[int, int]:
        return self._attention.address, self._plan

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        scale: float,
        window: int | None = None,
        softcap: float | None = None,
        sinks: Tensor | None = None,
    ) -> Tensor:
        pool = self._pool
        rows, heads, dim = query.shape
        stored = (rows, pool.kv_heads, pool.head_dim)
        share = heads // pool.kv_heads
        if (rows, heads, dim) != (self._batch.rows, share * pool.kv_heads, pool.head_dim):
            raise InternalError(f"attention over {tuple(query.shape)}: {self._batch.rows} rows, the pool has {stored}")
        if not 0 <= layer < pool.layers or share > _MOST_SHARE:
            raise InternalError(f"attention in layer {layer}, {share} heads on one: the pool has {pool.layers} layers")
        query = _usable(query, pool.dtype)
        # One head may stand for all, as in the twin.
        key, value = (_usable(tensor, pool.dtype).expand(stored) for tensor in (key, value))
        extra = None if sinks is None else sinks.to(torch.float32).contiguous()
        out = torch.empty((rows, heads, dim), dtype=pool.dtype)
        call = _Call(
            query.data_ptr(),
            key.data_ptr(),
            value.data_ptr(),
            out.data_ptr(),
            None if extra is None else extra.data_ptr(),
            *query.stride()[:2],
            *key.stride()[:2],
            *value.stride()[:2],
            heads,
            layer,
            window or 0,
            self._threads,
            scale,
            softcap or 0.0,
        )
        self._attention.attend(self._plan, byref(call))
        return out


def _usable(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """In the pool's number format, numbers of a head one after the other."""
    tensor = tensor.to(dtype)
    return tensor if tensor.stride(2) == 1 else tensor.contiguous()


def _address(array: Int32Array) -> int:
    if array.dtype != "int32" or not array.flags.c_contiguous:
        raise InternalError("arrays of a batch are contiguous int32")
    return array.ctypes.data
