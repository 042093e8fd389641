"""Refuses model families that paged attention would not serve faithfully, before their weights are loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import torch
from pie_wire.errors import Unsupported
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from pie_engine.models.base import Model
from pie_engine.models.tiny_config import shrink
from pie_engine.passes.build import build
from pie_engine.passes.outputs import LogitsProbe, Output
from pie_engine.passes.segment import Segment

_LENGTHS: Final = (37, 5, 70)
_TABLES: Final = ((0, 1, 2), (3,), (4, 5, 6, 7, 8))
_PAGES: Final = 9
_PAGE_SIZE: Final = 16
_TOLERANCE: Final = 2e-4


def check_family(config: PreTrainedConfig, paged: Callable[[PreTrainedModel], Model]) -> None:
    """Raise Unsupported unless a tiny random model of this configuration gives the same logits plainly and paged.

    `paged` makes our model of a plain one, which it may change. Contexts of several lengths run mixed, each in three
    chunks of which the last is one row.
    """
    misfit = _misfit(config.get_text_config())
    if misfit is not None:
        raise Unsupported(f"model family {config.model_type!r} {misfit}; choose another model")
    try:
        plain, sequences = _tiny(config)
        with torch.inference_mode():
            expected = [plain(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1] for ids in sequences]
        actual = _run_in_chunks(paged(plain), sequences)
    except (RuntimeError, TypeError, ValueError, KeyError, AttributeError, IndexError, LookupError) as exc:
        raise Unsupported(
            f"model family {config.model_type!r} does not run with paged attention ({type(exc).__name__}: {exc}); "
            "choose another model"
        ) from exc
    for ours, theirs in zip(actual, expected, strict=True):
        if not torch.allclose(ours, theirs, atol=_TOLERANCE * max(1.0, float(theirs.abs().max()))):
            raise Unsupported(
                f"model family {config.model_type!r} gives other results with paged attention; choose another model"
            )


def _misfit(text: PreTrainedConfig) -> str | None:
    """What is known of a family to have no place in pages of keys and values, said better than the check can."""
    if getattr(text, "kv_lora_rank", None):
        return "compresses keys and values together (multi-head latent attention), for which KV pages have no form"
    if getattr(text, "num_attention_heads", None) is None:
        return "has no attention heads, so that its state is not in KV pages"
    kinds = getattr(text, "layer_types", None) or getattr(text, "layers_block_type", None) or ()
    strange = sorted(set(kinds) - {"full_attention", "sliding_attention", "attention"})
    if strange:
        return f"has layers of kind {', '.join(strange)}, whose reach or state KV pages do not express"
    return None


def _tiny(config: PreTrainedConfig) -> tuple[PreTrainedModel, list[list[int]]]:
    """A model and token lists, the same ones at every call, leaving the random state as it was."""
    small = shrink(config)
    state = torch.random.get_rng_state()
    try:
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(small, dtype=torch.float32, attn_implementation="eager").eval()
        vocab = int(small.get_text_config().vocab_size)
        return model, [torch.randint(3, vocab, (length,)).tolist() for length in _LENGTHS]
    finally:
        torch.random.set_rng_state(state)


def _run_in_chunks(model: Model, sequences: Sequence[list[int]]) -> Tensor:
    """Logits after the last token of each sequence."""
    model.allocate(_PAGES, _PAGE_SIZE)
    cuts = [(0, len(ids) // 2, len(ids) - 1, len(ids)) for ids in sequences]
    logits = torch.empty(0)
    for chunk in range(3):
        segments: list[Segment] = []
        for ids, table, cut in zip(sequences, _TABLES, cuts, strict=True):
            start, stop = cut[chunk : chunk + 2]
            last = Output(stop - start - 1, stop, LogitsProbe())
            segments.append(Segment(ids[start:stop], range(start, stop), start, table, outputs=(last,)))
        logits = model.forward(build(segments, page_size=_PAGE_SIZE, scratch_page=_PAGES)).logits
    return logits
