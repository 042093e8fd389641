"""How tokens are drawn."""

from __future__ import annotations

from dataclasses import dataclass

from wit_world.imports import generation as raw

from inferlet.errors import PieError


@dataclass(frozen=True)
class Sampler:
    """temperature 0 is greedy; `top_p` 1 and `top_k` 0 keep all tokens."""

    temperature: float = 1.0
    top_p_: float = 1.0
    top_k_: int = 0

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
        raise PieError("unsupported", "min-p sampling is not offered yet; use top_p or top_k.")

    @property
    def wit(self) -> raw.Sampler:
        return raw.Sampler(self.temperature, self.top_p_, self.top_k_)
