"""Rows of raw logits that stay in the host: a custom sampler says what it wants done, and only answers cross."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping

from wit_world.imports import logits as raw

from inferlet.errors import host_errors


class LogitsRow:
    """One row, changed in place. Methods that change it can be chained: `row.temperature(0.7).keep_top_k(40).draw()`.

    The row is freed when it is released or collected; a program may hold so many bytes of them.
    """

    def __init__(self, handle: raw.Logits) -> None:
        self._handle = handle

    @classmethod
    def from_bytes(cls, data: bytes) -> LogitsRow:
        """From little-endian float32."""
        with host_errors():
            return cls(raw.Logits.from_bytes(base64.b64encode(data).decode()))

    def __len__(self) -> int:
        return self._handle.vocab_size()

    def fork(self) -> LogitsRow:
        """A copy, to try something."""
        with host_errors():
            return LogitsRow(self._handle.fork())

    def to_bytes(self) -> bytes:
        """Little-endian float32 of the whole vocabulary."""
        return base64.b64decode(self._handle.read())

    def topk(self, k: int) -> list[tuple[int, float]]:
        """The k greatest as (id, value), greatest first."""
        with host_errors():
            found = self._handle.topk(k)
        return list(zip(found.ids, found.values, strict=True))

    def gather(self, ids: Iterable[int]) -> list[float]:
        """Values of these ids."""
        with host_errors():
            return self._handle.gather(list(ids))

    def argmax(self) -> int:
        """The greatest."""
        with host_errors():
            return self._handle.argmax()

    def entropy(self) -> float:
        """Of the softmax, in nats."""
        with host_errors():
            return self._handle.entropy()

    def bias(self, changes: Mapping[int, float]) -> LogitsRow:
        """Add to these ids."""
        with host_errors():
            self._handle.bias(list(changes.items()))
        return self

    def mask(self, bits: bytes) -> LogitsRow:
        """Forbid what packed bits do not allow."""
        with host_errors():
            self._handle.mask(base64.b64encode(bits).decode())
        return self

    def allow(self, ids: Iterable[int]) -> LogitsRow:
        """Forbid all but these ids."""
        with host_errors():
            self._handle.allow(list(ids))
        return self

    def temperature(self, value: float) -> LogitsRow:
        """Divide."""
        with host_errors():
            self._handle.temperature(value)
        return self

    def log_softmax(self) -> LogitsRow:
        """Become natural logarithms of probabilities."""
        with host_errors():
            self._handle.log_softmax()
        return self

    def penalize(
        self, tokens: Iterable[int], *, repetition: float = 1.0, presence: float = 0.0, frequency: float = 0.0
    ) -> LogitsRow:
        """Penalties over these tokens."""
        with host_errors():
            self._handle.penalize(list(tokens), repetition, presence, frequency)
        return self

    def keep_top_k(self, k: int) -> LogitsRow:
        """Forbid all but the k most probable."""
        with host_errors():
            self._handle.keep_top_k(k)
        return self

    def keep_top_p(self, p: float) -> LogitsRow:
        """Forbid all but the smallest set whose probability reaches `p`."""
        with host_errors():
            self._handle.keep_top_p(p)
        return self

    def keep_min_p(self, p: float) -> LogitsRow:
        """Forbid what has less than `p` times the greatest probability."""
        with host_errors():
            self._handle.keep_min_p(p)
        return self

    def keep_typical_p(self, p: float) -> LogitsRow:
        """Forbid all but the most typical tokens whose probability reaches `p`."""
        with host_errors():
            self._handle.keep_typical_p(p)
        return self

    def sample(self, uniform: float) -> int:
        """A token of the softmax, by a number in [0, 1)."""
        with host_errors():
            return self._handle.sample(uniform)

    def draw(self) -> int:
        """The same, by a number of the host's, which is recorded with the process."""
        with host_errors():
            return self._handle.draw()

    def release(self) -> None:
        """Free it now."""
        self._handle.__exit__(None, None, None)

    def __enter__(self) -> LogitsRow:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
