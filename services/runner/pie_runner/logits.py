"""One row of logits and what custom samplers do with it: docs/sampling.md in numpy.

A row begins with the whole vocabulary. Once something has forbidden most of it, only the ids that are left are kept,
so that whatever follows a filter costs next to nothing. The bytes that a row was made from are copied when it changes
first. A temperature is remembered and applied when values are read or added to, since filters and draws need only the
differences.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pie_wire.codec import Buffer
from pie_wire.errors import BadRequest, TooLarge

from pie_runner.nucleus import LEAST, Nucleus, nucleus
from pie_runner.weights import (
    HUGE,
    LOWEST,
    SCALE_BITS,
    TINY,
    Floats,
    Ids,
    at_least,
    drawn,
    heaviest,
    holding,
    level_factor,
    threshold,
    weights_of,
)

MOST = 1e30
"""Values and biases up to here, either way: far beyond any logit, and far from what float32 cannot hold."""
MAX_BYTES = 4 << 18
"""Of a row that a program brings: no model's vocabulary is larger, and what is done with it holds up the loop."""
MAX_RETURNED = 16_384
"""Values handed over one by one."""

_LEVEL_BITS = 16
"""Fraction bits of a level where typical sampling compares them."""
_HALF_BITS = 20
_FAR = 64 << _LEVEL_BITS


class Entries(NamedTuple):
    """The WIT's `entries`."""

    ids: list[int]
    values: list[float]


class Logits:
    """One row. Methods raise BadRequest for what makes no sense, TooLarge for too much, and leave the row as it was."""

    __slots__ = ("_ids", "_known", "_mine", "_temperature", "_values", "vocab")

    def __init__(self, values: Floats, ids: Ids | None = None, temperature: float = 1.0, vocab: int = 0) -> None:
        """`values` is not written to. `ids`: what they belong to, ascending; None: the whole vocabulary."""
        self.vocab = vocab or len(values)
        self._values = values
        self._ids = ids
        self._temperature = temperature
        self._mine = False
        """`values` belongs to nobody else."""
        self._known: Ids | None = None
        """Weights of these values at this temperature, where a filter has left them."""

    @classmethod
    def of_bytes(cls, data: Buffer) -> Logits:
        """From little-endian float32."""
        size = len(data)
        if not size or size % 4 or size > MAX_BYTES:
            raise BadRequest(f"a row of logits is 1 to {MAX_BYTES // 4} float32 of 4 bytes, not {size} bytes")
        values = np.frombuffer(data, dtype="<f4")
        # What is no number is the largest, and the least. Minus infinity is looked at again.
        if not values.max() <= MOST or (values.min() < -MOST and bool((values < -MOST)[np.isfinite(values)].any())):
            raise BadRequest(f"logits are numbers up to {MOST:g} either way, or minus infinity")
        return cls(values)

    def fork(self) -> Logits:
        """A copy; costs something once one of the two changes."""
        self._mine = False
        copy = Logits(self._values, self._ids, self._temperature, self.vocab)
        copy._known = self._known
        return copy

    # -- to look at

    def to_bytes(self) -> bytes:
        """Little-endian float32 of the whole vocabulary."""
        self._settle()
        if self._ids is None:
            return self._values.astype("<f4", copy=False).tobytes()
        row = np.full(self.vocab, -np.inf, dtype="<f4")
        row[self._ids] = self._values
        return row.tobytes()

    def topk(self, k: int) -> Entries:
        """The k greatest, greatest first, the lower id first among equals; without forbidden ones."""
        self._check_k(k)
        if k > MAX_RETURNED:
            raise TooLarge(f"at most {MAX_RETURNED} values are returned at once, not {k}: use `read` for the whole row")
        chosen = self._greatest(k)
        self._settle()
        values = self._values[chosen]
        order = np.argsort(-values, kind="stable")
        order = order[: np.count_nonzero(values != -np.inf)]
        return Entries(self._named(chosen[order]).tolist(), values[order].tolist())

    def gather(self, ids: Sequence[int]) -> list[float]:
        """Values of these ids."""
        if len(ids) > MAX_RETURNED:
            raise TooLarge(f"at most {MAX_RETURNED} values are returned at once, not {len(ids)}: ask in parts")
        wanted = self._checked(ids)
        self._settle()
        if self._ids is None:
            return self._values[wanted].tolist()
        at, known = self._places(wanted)
        found = np.full(len(wanted), -np.inf, dtype=np.float32)
        found[known] = self._values[at[known]]
        return found.tolist()

    def argmax(self) -> int:
        """The greatest; the lowest id among equals."""
        self._largest()
        return int(self._named(self._values.argmax()))

    def entropy(self) -> float:
        """Of the softmax, in nats."""
        shifted = self._shifted()
        weights = np.exp(shifted)
        total = float(weights.sum(dtype=np.float64))
        # Impossible tokens contribute nothing; 0 times infinity would be no number.
        return math.log(total) - float((weights * np.maximum(shifted, -1e4)).sum(dtype=np.float64)) / total

    # -- to change

    def bias(self, changes: Sequence[tuple[int, float]]) -> None:
        """Add to these ids."""
        if not changes:
            return
        ids = self._checked([number for number, _ in changes])
        added = np.asarray([value for _, value in changes], dtype=np.float32)
        if not bool(((np.abs(added) <= MOST) | (added == -np.inf)).all()):
            raise BadRequest(f"a bias is a number up to {MOST:g} either way, or minus infinity")
        if self._ids is not None:
            at, known = self._places(ids)
            ids, added = at[known], added[known]
        values = self._writable()
        np.add.at(values, ids, added)
        np.minimum(values, HUGE, out=values)

    def mask(self, bits: bytes) -> None:
        """Forbid what packed bits (bit `i % 8` of byte `i // 8` is token i) do not allow."""
        size = -(-self.vocab // 32) * 4
        if len(bits) != size:
            raise BadRequest(f"a mask of a vocabulary of {self.vocab} has {size} bytes, not {len(bits)}")
        flags = np.unpackbits(np.frombuffer(bits, dtype=np.uint8), count=self.vocab, bitorder="little").view(np.bool_)
        self._keep(flags if self._ids is None else flags[self._ids])

    def allow(self, ids: Sequence[int]) -> None:
        """Forbid all but these ids."""
        allowed = np.unique(self._checked(ids))
        if self._ids is not None:
            at, known = self._places(allowed)
            allowed = at[known]
        self._take(allowed)

    def temperature(self, value: float) -> None:
        """Divide."""
        if not 0 < value <= HUGE:
            raise BadRequest(f"a temperature is {value}: it must be positive and finite")
        if self._temperature != 1.0:
            self._settle()
        self._temperature = max(value, TINY)  # so that one over it is a number too
        self._known = None

    def log_softmax(self) -> None:
        """Become natural logarithms of probabilities."""
        shifted = self._shifted()
        shifted -= np.float32(math.log(float(np.exp(shifted).sum(dtype=np.float64))))
        self._own(shifted)

    def penalize(self, tokens: Sequence[int], repetition: float, presence: float, frequency: float) -> None:
        """Penalties over these tokens: repetition and presence once for each, frequency for each occurrence."""
        if not 1.0 / MOST <= repetition <= MOST:
            raise BadRequest(f"the repetition penalty is {repetition}: it must be positive (1 is none)")
        if not (abs(presence) <= MOST and abs(frequency) <= MOST):
            raise BadRequest(f"presence and frequency penalties are numbers up to {MOST:g} either way")
        if not len(tokens):
            return
        ids, counts = np.unique(self._checked(tokens), return_counts=True)
        if self._ids is not None:
            at, known = self._places(ids)
            ids, counts = at[known], counts[known]
        row = self._writable()
        values = row[ids]
        if repetition != 1.0:
            factor = np.float32(repetition)
            values = np.where(values > 0, np.minimum(values / factor, HUGE), values * factor)
        values -= counts.astype(np.float32) * np.float32(frequency)
        values -= np.float32(presence)
        row[ids] = np.minimum(values, HUGE)

    def keep_top_k(self, k: int) -> None:
        """The k most likely tokens remain."""
        self._check_k(k)
        if k < len(self._values):
            self._take(self._greatest(k))

    def keep_top_p(self, p: float) -> None:
        """The fewest most likely tokens that have this share remain."""
        if not self._check_share("top-p", p):
            return
        found = nucleus(self._values, level_factor(self._temperature), p) if len(self._values) >= LEAST else None
        if found is None:
            weights = self._weights()
            places = heaviest(weights, p)
            found = Nucleus(places, weights[places])
        self._take(*found)

    def keep_min_p(self, p: float) -> None:
        """Tokens with at least this share of the largest probability remain."""
        if not 0.0 <= p <= 1.0:
            raise BadRequest(f"min-p is {p}: it must be between 0 (keeps all) and 1")
        if p:
            least = math.ceil(p * float(1 << SCALE_BITS))
            self._take(*at_least(least, self._values, self._largest(), level_factor(self._temperature)))

    def keep_typical_p(self, p: float) -> None:
        """The fewest tokens that have this share remain, those first whose surprisal is closest to the entropy."""
        if not self._check_share("typical-p", p):
            return
        weights, depths = self._weights(), self._depths()
        # Surprisals less their mean, the entropy, are levels less theirs. In two parts, as the sum would not fit.
        half = weights >> _HALF_BITS
        sums = int(half.dot(depths)) << _HALF_BITS
        sums += int(np.bitwise_and(weights, (1 << _HALF_BITS) - 1, out=half).dot(depths))
        depths -= sums // int(weights.sum())
        nearness = np.subtract(_FAR, np.abs(depths, out=depths), out=depths)
        nearness *= weights > 0
        self._take(holding(weights, nearness, p))

    def sample(self, uniform: float) -> int:
        """A token of the softmax: the inverse of the distribution function, in order of ids."""
        if not 0.0 <= uniform < 1.0:
            raise BadRequest(f"{uniform} is no number in [0, 1) to draw by")
        return int(self._named(drawn(self._weights(), uniform)))

    # -- parts

    def _weights(self) -> Ids:
        if self._known is not None:
            return self._known
        return weights_of(self._values, self._largest(), level_factor(self._temperature))

    def _depths(self) -> Ids:
        """Levels as whole numbers, downwards from the largest value's."""
        with np.errstate(over="ignore"):
            levels = self._values - self._largest()
            levels *= level_factor(self._temperature)
        np.maximum(levels, LOWEST, out=levels)
        levels *= np.float32(-(1 << _LEVEL_BITS))
        return np.rint(levels, out=levels).astype(np.int64)

    def _largest(self) -> np.float32:
        """Raises BadRequest when nothing can be chosen. What is no number is the largest."""
        largest = self._values.max(initial=-np.inf)
        if largest == -np.inf:
            raise BadRequest("every token of these logits is forbidden: nothing is left to choose")
        if not np.isfinite(largest):
            raise BadRequest("these logits are not all numbers: the model computed them so, and nothing can be chosen")
        return largest

    def _greatest(self, k: int) -> Ids:
        """Places of the k greatest values, ascending; the lower id first among equals."""
        values = self._values
        if k >= len(values):
            return np.arange(len(values))
        found = np.flatnonzero(values >= threshold(values, k))
        if len(found) > k:
            found = np.sort(found[np.argsort(-values[found], kind="stable")[:k]])
        return found

    def _checked(self, ids: Sequence[int]) -> Ids:
        checked = np.asarray(ids, dtype=np.int64)
        if len(checked) and not (checked.min() >= 0 and checked.max() < self.vocab):
            wrong = next(number for number in ids if not 0 <= number < self.vocab)
            raise BadRequest(f"token id {wrong} is outside the vocabulary of {self.vocab}")
        return checked

    def _check_k(self, k: int) -> None:
        if not 1 <= k <= self.vocab:
            raise BadRequest(f"k is {k}: it must be 1 to {self.vocab}, the size of the vocabulary")

    def _check_share(self, name: str, p: float) -> bool:
        """Whether something is to be cut."""
        if not 0.0 < p <= 1.0:
            raise BadRequest(f"{name} is {p}: it must be above 0 and at most 1 (keeps all)")
        return p < 1.0

    def _places(self, ids: Ids) -> tuple[Ids, NDArray[np.bool_]]:
        """Where these ids are among the kept ones, and whether they are."""
        kept = self._ids
        if kept is None or not len(kept):
            return ids, np.full(len(ids), kept is None)
        at = np.minimum(np.searchsorted(kept, ids), len(kept) - 1)
        return at, kept[at] == ids

    def _named(self, places: np.intp | int | Ids) -> Ids:
        return np.asarray(places) if self._ids is None else np.asarray(self._ids[places])

    def _keep(self, flags: NDArray[np.bool_]) -> None:
        self._take(np.flatnonzero(flags))

    def _take(self, places: Ids, weights: Ids | None = None) -> None:
        """Keep these places, the largest value among them where their weights are known."""
        values = self._values[places]
        self._ids = places if self._ids is None else self._ids[places]
        self._values, self._mine, self._known = values, True, weights

    def _settle(self) -> None:
        """Apply the temperature."""
        if self._temperature != 1.0:
            with np.errstate(over="ignore"):
                self._own(np.minimum(self._values / np.float32(self._temperature), np.float32(HUGE)))

    def _shifted(self) -> Floats:
        """What values are less than the largest one, at the temperature."""
        with np.errstate(over="ignore"):
            return (self._values - self._largest()) * np.float32(1.0 / self._temperature)

    def _writable(self) -> Floats:
        self._settle()
        if not self._mine:
            self._own(self._values.astype(np.float32))
        self._known = None
        return self._values

    def _own(self, values: Floats) -> None:
        self._values, self._mine, self._temperature, self._known = values, True, 1.0, None
