"""What is asked about a row beside a token, and the answers of the engine in the form that programs get."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pie_wire.codec import Buffer
from pie_wire.errors import InternalError
from pie_wire.messages.engine import Output
from pie_wire.messages.runner import Slot

from pie_runner.limits import Usage
from pie_runner.logits import Logits
from pie_runner.resident import Resident
from pie_runner.wasm.hostcall import Case

ENGINE_TOP = 1024
"""Larger or rescaled distributions are made here from the logits; these the engine makes."""

Kind = Literal["logits", "resident", "distribution", "logprobs", "entropy", "hidden"]


class Distribution(NamedTuple):
    """The WIT's `distribution`."""

    ids: list[int]
    probabilities: list[float]


@dataclass(frozen=True)
class Softmax:
    """A distribution to make here from raw logits: of this temperature, the `top` most probable."""

    temperature: float
    top: int


@dataclass(frozen=True)
class Probe:
    """One question, checked. `softmax`: how the answer is made here, where the engine gives the raw logits."""

    kind: Kind
    output: Output
    softmax: Softmax | None = None

    @property
    def is_row(self) -> bool:
        """The engine answers with a row of about the vocabulary's size."""
        return self.output.kind in ("logits", "hidden")


class Answer(NamedTuple):
    """One slot of the engine's, with its bytes if it has any."""

    slot: Slot
    data: Buffer | None


def received(slots: Sequence[Slot], buffers: Sequence[Buffer]) -> list[Answer]:
    """Slots with their own bytes, so that none of them keeps those of others.

    Raises:
        InternalError: the engine named bytes that did not come.
    """
    if any(slot.buffer >= len(buffers) for slot in slots):
        raise InternalError("the engine's answer names bytes that did not come with it")
    return [Answer(slot, buffers[slot.buffer] if slot.buffer >= 0 else None) for slot in slots]


def row_bytes(probes: Sequence[Probe], vocab: int) -> int:
    """Bytes of the rows that answer these probes once."""
    return sum(4 * vocab for probe in probes if probe.is_row)


def resident_bytes(probes: Sequence[Probe], vocab: int) -> int:
    """Bytes of the rows that stay in the host."""
    return sum(4 * vocab for probe in probes if probe.kind == "resident")


def answered(probe: Probe, answer: Answer, usage: Usage) -> Case:
    """The WIT's `probe-output`.

    Raises:
        InternalError: the engine answered something else. LimitExceeded: too many rows are held.
    """
    slot, data = answer
    if slot.kind != probe.output.kind or (probe.is_row and data is None):
        raise InternalError(f"the engine answered {slot.kind!r} where {probe.output.kind!r} was asked")
    match probe.kind:
        case "distribution" if probe.softmax is not None:
            return Case("distribution", _distribution(np.frombuffer(data or b"", dtype="<f4"), probe.softmax))
        case "distribution":
            return Case("distribution", Distribution(slot.ids, slot.probs))
        case "resident":
            return Case("resident", Resident(Logits(np.frombuffer(data or b"", dtype="<f4")), usage))
        case "logits" | "hidden":
            return Case(probe.kind, base64.b64encode(data or b"").decode("ascii"))
        case "logprobs":
            return Case("logprobs", slot.values)
        case "entropy":
            return Case("entropy", slot.values[0])


def _distribution(logits: NDArray[np.float32], softmax: Softmax) -> Distribution:
    scaled = logits.astype(np.float64) / softmax.temperature
    weights = np.exp(scaled - scaled.max())
    weights /= weights.sum()
    order = np.argsort(-weights, kind="stable")[: softmax.top]
    return Distribution(order.tolist(), weights[order].tolist())
