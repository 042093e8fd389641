"""What can be asked about a row beside a token, of a pass or with every token of a generation."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from wit_world.imports import generation as raw

from inferlet.logits import LogitsRow


@dataclass(frozen=True)
class Logits:
    """Raw logits of the whole vocabulary: little-endian float32 as bytes."""

    @property
    def wit(self) -> raw.ProbeKind:
        return raw.ProbeKind_Logits()


@dataclass(frozen=True)
class Resident:
    """The same, kept in the host: a `LogitsRow`."""

    @property
    def wit(self) -> raw.ProbeKind:
        return raw.ProbeKind_Resident()


@dataclass(frozen=True)
class Distribution:
    """The `k` most probable tokens (0: all) after a softmax at this temperature: ids and probabilities."""

    temperature: float = 1.0
    k: int = 0

    @property
    def wit(self) -> raw.ProbeKind:
        return raw.ProbeKind_Distribution(raw.DistributionSpec(self.temperature, self.k))


@dataclass(frozen=True)
class LogProbs:
    """Natural logarithms of the probabilities of these ids."""

    ids: Iterable[int]

    @property
    def wit(self) -> raw.ProbeKind:
        return raw.ProbeKind_Logprobs(list(self.ids))


@dataclass(frozen=True)
class Entropy:
    """Of the distribution at temperature 1, in nats."""

    @property
    def wit(self) -> raw.ProbeKind:
        return raw.ProbeKind_Entropy()


@dataclass(frozen=True)
class Hidden:
    """The last hidden state: little-endian float32 as bytes."""

    @property
    def wit(self) -> raw.ProbeKind:
        return raw.ProbeKind_Hidden()


Probe = Logits | Resident | Distribution | LogProbs | Entropy | Hidden


def answer(output: raw.ProbeOutput) -> Any:
    """The answer in the form that its probe names."""
    if isinstance(output, raw.ProbeOutput_Logits | raw.ProbeOutput_Hidden):
        return base64.b64decode(output.value)
    if isinstance(output, raw.ProbeOutput_Resident):
        return LogitsRow(output.value)
    if isinstance(output, raw.ProbeOutput_Distribution):
        return output.value.ids, output.value.probabilities
    return output.value
