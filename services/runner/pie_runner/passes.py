"""The answer of one explicit forward pass."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import NamedTuple

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


class PendingOutput(Waitable):
    """The WIT's `pending-output`. `shape`: number of rows of each draw; probe slots follow those of the draws."""

    def __init__(self, table: Waitables, shape: Sequence[int]) -> None:
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
        except (IndexError, PieError) as exc:
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
        for rows in self._shape:
            drawn = slots[at : at + rows]
            if len(drawn) != rows or any(slot.kind != "token" for slot in drawn):
                raise InternalError("a drawn token is missing")
            tokens.append([slot.token for slot in drawn])
            at += rows
        return Output(tokens, [_probe(slot, buffers) for slot in slots[at:]])


def _probe(slot: Slot, buffers: Sequence[Buffer]) -> Case:
    if slot.kind == "logits":
        return Case("logits", base64.b64encode(buffers[slot.buffer]).decode("ascii"))
    return Case("distribution", Distribution(slot.ids, slot.probs))
