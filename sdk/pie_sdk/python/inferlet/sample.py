"""How tokens are drawn."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from wit_world.imports import generation as raw


@dataclass(frozen=True)
class Sampler:
    """The order is: mask, bias, penalties, temperature, then top-k, top-p, min-p and typical. The defaults keep all.

    `mask` is packed bits (bytes) or run lengths, alternately forbidden and allowed. `min_tokens` keeps stop ids away.
    """

    temperature: float = 1.0
    top_p_: float = 1.0
    top_k_: int = 0
    min_p_: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    bias: Mapping[int, float] = field(default_factory=dict)
    mask: bytes | Sequence[int] | None = None
    min_tokens: int = 0

    @classmethod
    def argmax(cls) -> Sampler:
        """Always the most probable token."""
        return cls(0.0)

    greedy = argmax

    @classmethod
    def top_p(cls, temperature: float = 0.6, p: float = 0.95) -> Sampler:
        """From the smallest set of tokens whose probability reaches `p`."""
        return cls(temperature, p)

    @classmethod
    def top_k(cls, temperature: float = 0.6, k: int = 40) -> Sampler:
        """From the `k` most probable tokens."""
        return cls(temperature, 1.0, k)

    @classmethod
    def top_k_top_p(cls, temperature: float = 0.6, k: int = 40, p: float = 0.95) -> Sampler:
        """From the nucleus `p` of the `k` most probable tokens."""
        return cls(temperature, p, k)

    @classmethod
    def multinomial(cls, temperature: float = 1.0) -> Sampler:
        """From the whole distribution."""
        return cls(temperature)

    @classmethod
    def min_p(cls, temperature: float = 0.6, p: float = 0.1) -> Sampler:
        """From the tokens with at least `p` times the greatest probability."""
        return cls(temperature, min_p_=p)

    def but(self, **fields: Any) -> Sampler:
        """The same with other fields: `Sampler.greedy().but(repetition_penalty=1.2)`."""
        return replace(self, **fields)

    @cached_property
    def wit(self) -> raw.Sampler:
        return raw.Sampler(
            self.temperature,
            self.top_p_,
            self.top_k_,
            self.min_p_,
            self.typical_p,
            self.repetition_penalty,
            self.presence_penalty,
            self.frequency_penalty,
            list(self.bias.items()),
            _mask(self.mask),
            self.min_tokens,
        )


def _mask(mask: bytes | Sequence[int] | None) -> raw.TokenMask | None:
    if mask is None:
        return None
    if isinstance(mask, bytes | bytearray):
        return raw.TokenMask_Bits(base64.b64encode(mask).decode())
    return raw.TokenMask_Runs(list(mask))
