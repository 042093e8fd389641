"""The answer of one explicit forward pass."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pie_wire.codec import Buffer
from pie_wire.errors import Closed, InternalError, PieError
from pie_wire.messages.runner import Slot

from pie_runner.waitables import Waitable, Waitables
from pie_runner.wasm.hostcall import Case, Err, Ok


class Distribution(NamedTuple):
    """The WIT's `distribution`."""

    ids: list[int]
    probabilities: list[float]


class Output(NamedTuple):
    """The WIT's `output`."""

    tokens: list[list[int]]
    probes: list[Case]


@dataclass(frozen=True)
class Softmax:
    """A distribution to make here from raw logits: of this temperature, the `top` most probable."""

    temperature: float
    top: int


@dataclass(frozen=True)
class Shape:
    """What the slots of an answer are, in order: rows of each draw, then the probes (made here, if not None)."""

    draws: Sequence[int]
    probes: Sequence[Softmax | None]


class PendingOutput(Waitable):
    """The WIT's `pending-output`."""

    def __init__(self, table: Waitables, shape: Shape) -> None:
        super().__init__(table)
        self._shape = shape
        self._answer: Ok | Err | None = None
        self._taken = False

    @property
    def ready(self) -> bool:
        return self._taken or self._answer is not None

    def deliver(self, slots: Sequence[Slot], buffers: Sequence[Buffer]) -> None:
        """The pass ran."""
        try:
            self._set(Ok(self._output(slots, buffers)))
        except (IndexError, ValueError, PieError) as exc:
            self._set(Err(InternalError(f"the engine's answer does not fit the pass: {exc}").info()))

    def fail(self, error: PieError) -> None:
        """The pass did not run."""
        self._set(Err(error.info()))

    def get(self) -> Ok | Err | None:
        if self._taken:
            return Err(Closed("the output of this pass was already taken").info())
        if self._answer is None:
            return None
        answer, self._answer, self._taken = self._answer, None, True
        return answer

    def _set(self, answer: Ok | Err) -> None:
        if not self.ready:
            self._answer = answer
            self.notify()

    def _output(self, slots: Sequence[Slot], buffers: Sequence[Buffer]) -> Output:
        tokens: list[list[int]] = []
        at = 0
        for rows in self._shape.draws:
            drawn = slots[at : at + rows]
            if len(drawn) != rows or any(slot.kind != "token" for slot in drawn):
                raise InternalError("a drawn token is missing")
            tokens.append([slot.token for slot in drawn])
            at += rows
        probes = zip(slots[at:], self._shape.probes, strict=True)
        return Output(tokens, [_probe(slot, softmax, buffers) for slot, softmax in probes])


def _probe(slot: Slot, softmax: Softmax | None, buffers: Sequence[Buffer]) -> Case:
    if softmax is not None:
        return Case("distribution", _distribution(np.frombuffer(buffers[slot.buffer], dtype="<f4"), softmax))
    if slot.kind == "logits":
        return Case("logits", base64.b64encode(buffers[slot.buffer]).decode("ascii"))
    return Case("distribution", Distribution(slot.ids, slot.probs))


def _distribution(logits: NDArray[np.float32], softmax: Softmax) -> Distribution:
    scaled = logits.astype(np.float64) / softmax.temperature
    weights = np.exp(scaled - scaled.max())
    weights /= weights.sum()
    order = np.argsort(-weights, kind="stable")[: softmax.top]
    return Distribution(order.tolist(), weights[order].tolist())
