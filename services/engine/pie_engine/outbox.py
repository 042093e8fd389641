"""What a step has for one runner, collected column by column."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pie_wire.errors import DeviceError, ErrorInfo, InternalError
from pie_wire.messages.runner import ForwardDone, OpFailure, RunEnd, Slot, Step

from pie_engine.device import Result, TopK


class Outbox:
    """Collects until `take`."""

    def __init__(self) -> None:
        self._failed: list[OpFailure] = []
        self._flushed: list[int] = []
        self._tokens: dict[int, list[int]] = {}
        self._ends: list[RunEnd] = []
        self._outputs: list[ForwardDone] = []
        self._buffers: list[bytes] = []
        self._acked = 0

    def fail(self, op: int, context: int, generation: int, error: ErrorInfo) -> None:
        self._failed.append(OpFailure(op, context, generation, error))

    def flushed(self, op: int) -> None:
        self._flushed.append(op)

    def token(self, run: int, token: int) -> None:
        self._tokens.setdefault(run, []).append(token)

    def end(self, end: RunEnd) -> None:
        self._ends.append(end)

    def forwarded(self, op: int, results: Sequence[Result]) -> None:
        self._outputs.append(ForwardDone(op, [self._slot(result) for result in results]))

    def take(self, acked: int) -> tuple[Step, list[bytes]] | None:
        """The message with its buffers, if there is any news; empties the box."""
        if acked == self._acked and not (self._failed or self._flushed or self._tokens or self._ends or self._outputs):
            return None
        step = Step(
            acked=acked,
            failed=self._failed,
            flushed=self._flushed,
            runs=list(self._tokens),
            counts=[len(tokens) for tokens in self._tokens.values()],
            tokens=[token for tokens in self._tokens.values() for token in tokens],
            ends=self._ends,
            outputs=self._outputs,
        )
        buffers = self._buffers
        self.__init__()
        self._acked = acked
        return step, buffers

    def _slot(self, result: Result) -> Slot:
        if isinstance(result, TopK):
            return Slot("top", ids=list(result.ids), probs=list(result.probabilities))
        if isinstance(result, int):
            return Slot("token", token=result)
        if isinstance(result, DeviceError):
            raise InternalError("a failed row was delivered as an answer")
        self._buffers.append(np.ascontiguousarray(result, dtype="<f4").tobytes())
        return Slot("logits", buffer=len(self._buffers) - 1)
