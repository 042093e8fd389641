"""What a model needs of attention: an interface, so that kernels are exchangeable."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from pie_engine.kernels.kv_pool import KvPool
from pie_engine.passes.batch import Batch


class AttentionPass(Protocol):
    """Attention during one pass: knows page tables and masks, is called once per layer."""

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
        """Store `key` and `value` `[T, kv_heads, dim]` in the pages, then attend with `query` `[T, heads, dim]`.

        `window` limits a row to the last so many slots with its own; `softcap` squashes scores by tanh; `sinks`
        `[heads]` adds one score per head that takes weight and gives no value. A row that sees nothing gets zeros.
        Returns `[T, heads, dim]`.
        """
        ...


@runtime_checkable
class NativeAttentionPass(Protocol):
    """An `AttentionPass` that native code can call by itself, without going through Python for every layer."""

    def native_plan(self) -> tuple[int, int]:
        """Addresses of a `pie_attend_fn` (`native/attend.h`) and of its plan; valid as long as this object."""
        ...


class Attention(Protocol):
    """One implementation of attention over a pool."""

    @property
    def name(self) -> str:
        """Shown in status."""
        ...

    def begin(self, batch: Batch, pool: KvPool) -> AttentionPass:
        """Prepare what all layers of a pass share. The result is valid for this pass only."""
        ...
