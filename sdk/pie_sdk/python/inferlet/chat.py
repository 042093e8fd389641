"""Chat rendering without a context."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from wit_world.imports import chat as raw

from inferlet.errors import host_errors
from inferlet.model import Model


def render(
    model: Model, messages: Iterable[dict[str, Any]], *, tools: list[dict[str, Any]] | None = None, cue: bool = True
) -> list[int]:
    """The tokens of a whole conversation, as the model's own chat template writes them."""
    with host_errors():
        return raw.render(model.handle, json.dumps(list(messages)), None if tools is None else json.dumps(tools), cue)


def system(model: Model, message: str) -> list[int]:
    """One system turn by itself."""
    return render(model, [{"role": "system", "content": message}], cue=False)


def user(model: Model, message: str) -> list[int]:
    """One user turn by itself (some templates put a default system turn before it)."""
    return render(model, [{"role": "user", "content": message}], cue=False)


def assistant(model: Model, message: str) -> list[int]:
    """One assistant turn by itself."""
    return render(model, [{"role": "assistant", "content": message}], cue=False)


def stop_tokens(model: Model) -> list[int]:
    """Ids that end a turn or a text."""
    return model.stop_ids
