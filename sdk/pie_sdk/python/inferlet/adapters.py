"""LoRA adapters that the operator has loaded; `Context.set_adapters` uses them."""

from __future__ import annotations

from dataclasses import dataclass

from wit_world.imports import adapters as raw

from inferlet.errors import host_errors
from inferlet.model import Model


@dataclass(frozen=True)
class Adapter:
    """One version. `current`: what the bare name means now; others are `name@digest`."""

    name: str
    digest: str
    rank: int
    current: bool


def available(model: Model | None = None) -> list[Adapter]:
    """All versions, by name."""
    with host_errors():
        found = raw.available((model or Model.load()).handle)
    return [Adapter(a.name, a.digest, a.rank, a.current) for a in found]
