"""Whether a small model can guess for a large one."""

from __future__ import annotations

import json
from typing import Any

from pie_wire.errors import Unsupported

from pie_engine.models.base import Model

_SAME = ("model", "added_tokens", "normalizer", "pre_tokenizer")
"""Parts of tokenizer.json that decide which text a token id stands for and which ids a text has."""


def check_draft(model: Model, draft: Model) -> None:
    """The draft model must read the same token ids, to the same length. Raises Unsupported with what differs."""
    ours, theirs = model.info, draft.info
    if ours.vocab_size != theirs.vocab_size:
        raise Unsupported(
            f"draft model {theirs.name} has {theirs.vocab_size} tokens and {ours.name} {ours.vocab_size}: choose one of"
            " the same family"
        )
    if theirs.max_context < ours.max_context:
        raise Unsupported(
            f"draft model {theirs.name} reads {theirs.max_context} tokens and {ours.name} {ours.max_context}: choose"
            " one that reads as many"
        )
    mine, other = (_tokenizer(each) for each in (model, draft))
    differing = [part for part in _SAME if mine.get(part) != other.get(part)]
    if differing:
        raise Unsupported(
            f"draft model {theirs.name} has another tokenizer than {ours.name} (its {', '.join(differing)} differ):"
            " choose one of the same family"
        )


def _tokenizer(model: Model) -> dict[str, Any]:
    text = model.tokenizer_files().get("tokenizer.json")
    if text is None:
        raise Unsupported(f"model {model.info.name} has no tokenizer.json, so draft and model cannot be compared")
    return json.loads(text)
