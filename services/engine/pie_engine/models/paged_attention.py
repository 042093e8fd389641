"""Lets transformers' own models attend through our pages: their attention, and only that, is ours.

transformers looks an attention function up by name and builds no mask for a name it has no mask function for, so a
model runs on a flat row of tokens from many contexts, each row seeing what the pass says.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor, nn
from transformers import AttentionInterface

from pie_engine.kernels.attention import AttentionPass

NAME = "pie_paged"
_current: ContextVar[AttentionPass] = ContextVar("pie_attention_pass")


@contextmanager
def attending(attention: AttentionPass) -> Generator[None]:
    """Within this block models with attention `NAME` attend through `attention`."""
    token = _current.set(attention)
    try:
        yield
    finally:
        _current.reset(token)


def _paged(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    s_aux: Tensor | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """The signature transformers calls: `[1, heads, T, dim]` in, `[1, T, heads, dim]` out."""
    attended = _current.get().attend(
        int(module.layer_idx),  # pyright: ignore[reportArgumentType]
        query[0].transpose(0, 1),
        key[0].transpose(0, 1),
        value[0].transpose(0, 1),
        scale=scaling if scaling is not None else query.shape[-1] ** -0.5,
        window=sliding_window,
        softcap=softcap,
        sinks=s_aux,
    )
    return attended[None], None


AttentionInterface.register(NAME, _paged)
