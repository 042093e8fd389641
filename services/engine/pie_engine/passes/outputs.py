"""What can be wanted of a row of a pass: a token drawn from its logits, or something about them.

A token is drawn in one fixed order of operations:

1. mask and forbidden ids: what is not allowed gets the logit minus infinity;
2. bias: added to the logits of its ids;
3. penalties over the history, each over distinct tokens. Repetition, of prompt and generated tokens (Keskar et al.:
   CTRL, 2019): a positive logit is divided by it, another multiplied. Then frequency, times the count of the token
   among the generated ones, and presence, once for each generated token, are subtracted;
4. temperature: logits are divided by it. With 0 the largest logit is taken, and nothing below happens;
5. top-k: the `top_k` most likely tokens remain;
6. top-p (Holtzman et al.: The curious case of neural text degeneration, 2020): the smallest set of most likely tokens
   that has at least `top_p` of the remaining probability;
7. min-p (Nguyen et al.: Turning up the heat, 2024): tokens with at least `min_p` times the largest probability;
8. typical (Meister et al.: Locally typical sampling, 2023): the smallest set of tokens, those first whose surprisal is
   closest to the entropy of what remains, that has at least `typical_p` of the remaining probability;
9. the draw, by one uniform number that depends on (seed, absolute position of the new token) alone.

Every step sees what the one before it left, renormalised. Among equals the lower id comes first. Probes see the model's
own logits, before all of this. `pie_engine.passes.distribution` has the same as plain arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Int32Array: TypeAlias = NDArray[np.int32]
_ANSWER = 80
"""Bytes of an answer beside its ids and probabilities."""
_PROBABILITY = 16
"""Bytes of an id with its probability."""


class Mask(Protocol):
    """Which tokens may be drawn."""

    def bits(self) -> NDArray[np.uint32]:
        """`[ceil(vocab / 32)]` words: bit `i % 32` of word `i // 32` allows token i; bits beyond the vocabulary mean
        nothing. Called once per pass, after the forward pass, in the device's thread; may wait for a computation."""
        ...


@dataclass(frozen=True, eq=False, slots=True)
class Bias:
    """What is added to logits: `values[i]` to that of token `ids[i]`. Ids are distinct."""

    ids: Int32Array
    values: NDArray[np.float32]


@dataclass(frozen=True, eq=False, slots=True)
class History:
    """The tokens that penalties look at: those up to the row that is asked. `tokens[start:]` were generated."""

    tokens: Int32Array
    start: int


@dataclass(frozen=True, slots=True)
class Sampler:
    """Draw one token; see the module's text. The defaults switch everything off: greedy."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    bias: Bias | None = None
    forbidden: tuple[int, ...] = ()
    mask: Mask | None = None

    @property
    def penalises(self) -> bool:
        """Some penalty is on: the output needs a history."""
        return self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0

    @property
    def edits(self) -> bool:
        """The logits are changed before the temperature."""
        return self.penalises or self.mask is not None or self.bias is not None or bool(self.forbidden)


@dataclass(frozen=True, slots=True)
class LogitsProbe:
    """The raw logits of a row, float32."""


@dataclass(frozen=True, slots=True)
class TopKProbe:
    """The `k` most likely tokens of a row with their probabilities at temperature 1."""

    k: int


@dataclass(frozen=True, slots=True)
class LogProbsProbe:
    """The natural logarithms of the probabilities that these tokens have after a row, at temperature 1."""

    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class EntropyProbe:
    """The entropy of a row's distribution at temperature 1, in nats."""


@dataclass(frozen=True, slots=True)
class HiddenProbe:
    """The hidden state of a row that the output layer reads, float32."""


@dataclass(frozen=True, slots=True)
class PagesProbe:
    """The pages of the pool themselves, as they are after the pass; of the last one only the first `filled` slots, the
    others as zeros: what they held is not the context's."""

    pages: tuple[int, ...]
    filled: int


Probe: TypeAlias = LogitsProbe | TopKProbe | LogProbsProbe | EntropyProbe | HiddenProbe
OutputSpec: TypeAlias = Sampler | Probe | PagesProbe


def answer_bytes(spec: OutputSpec, vocab: int) -> int:
    """What the answer takes on its way to a runner, at most. Tokens are too small to count."""
    match spec:
        case LogitsProbe() | HiddenProbe():
            return 4 * vocab
        case TopKProbe():
            return _ANSWER + _PROBABILITY * spec.k
        case LogProbsProbe():
            return _ANSWER + _PROBABILITY * len(spec.ids)
        case EntropyProbe():
            return _ANSWER
        case Sampler() | PagesProbe():
            return 0


# Not frozen: two are made per request and step, and freezing makes that slow.
@dataclass(slots=True)
class Output:
    """What is wanted of one row. `position` is the absolute position of the token that would follow that row.

    `history` is there for samplers that penalise.
    """

    row: int
    position: int
    spec: OutputSpec
    history: History | None = None
