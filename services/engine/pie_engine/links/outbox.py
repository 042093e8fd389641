"""What a step has for one runner, collected column by column.

Programs decide how much they ask of a step, and a message has limits: answers beyond a share of them travel in messages
of their own, ahead of the one that acknowledges.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pie_wire.errors import ErrorInfo, InternalError, PieError
from pie_wire.messages.runner import Exported, ForwardDone, OpFailure, Pressure, Receipt, RunEnd, RunProbes, Slot, Step

from pie_engine.passes.device import Entropy, LogProbs, Pages, Result, TopK, Vector

_ENTRY = 64
"""Bytes of a failure or slot beside its text, ids and probabilities, at most."""
_PROBABILITY = 16
"""Bytes of an id with its probability, at most."""
_PARCEL_BYTES = 1 << 20
_PARCEL_BUFFERS = 64


class Outbox:
    """Collects until `take`."""

    def __init__(self) -> None:
        self._parcels: list[tuple[Step, list[bytes]]] = []
        self._weight = 0
        self._failed: list[OpFailure] = []
        self._flushed: list[int] = []
        self._cached: list[int] = []
        self._tokens: dict[int, list[int]] = {}
        self._probes: dict[int, list[Slot]] = {}
        self._ends: list[RunEnd] = []
        self._outputs: list[ForwardDone] = []
        self._buffers: list[bytes] = []
        self._exports: list[Exported] = []
        self._receipts: list[Receipt] = []
        self._pressure: Pressure | None = None
        self._acked = 0

    def fail(self, op: int, context: int, generation: int, error: ErrorInfo) -> None:
        self._failed.append(OpFailure(op, context, generation, error))
        self._weigh(_ENTRY + 4 * len(error.message))

    def flushed(self, op: int, cached: int = 0) -> None:
        """`cached`: tokens whose KV was found."""
        self._flushed.append(op)
        self._cached.append(cached)

    def token(self, run: int, token: int, probed: Sequence[Result] = ()) -> None:
        """A token of a run, with the answers of the run's probes."""
        self._tokens.setdefault(run, []).append(token)
        if probed:
            slots = [self._slot(result) for result in probed]
            self._probes.setdefault(run, []).extend(slots)
            self._weigh(_weight(slots))

    def end(self, end: RunEnd) -> None:
        self._ends.append(end)

    def receipt(self, receipt: Receipt) -> None:
        self._receipts.append(receipt)

    def pressure(self, pressure: Pressure) -> None:
        """The latest one is sent."""
        self._pressure = pressure

    def forwarded(self, op: int, results: Sequence[Result], cached: int = 0) -> None:
        """`cached`: tokens whose KV was found."""
        slots = [self._slot(result) for result in results]
        self._outputs.append(ForwardDone(op, slots, cached))
        self._weigh(_weight(slots))

    def exported(self, op: int, buffers: Sequence[bytes]) -> None:
        """Parts in order; large ones travel in messages of their own."""
        for part, buffer in enumerate(buffers):
            self._buffers.append(buffer)
            self._exports.append(Exported(op, part, len(buffers), len(self._buffers) - 1))
            self._weigh(_ENTRY + len(buffer))

    def take(self, acked: int, *, alone: bool = True) -> list[tuple[Step, list[bytes]]]:
        """The messages with their buffers, in order; empties the box. Unless `alone`, there is none for the sake of
        the acknowledgement."""
        news = self._failed or self._flushed or self._tokens or self._ends or self._outputs or self._receipts
        news = news or self._exports or self._pressure is not None
        if (acked == self._acked or not alone) and not news and not self._parcels:
            return []
        last = self._step(
            acked,
            flushed=self._flushed,
            cached=self._cached,
            ends=self._ends,
            receipts=self._receipts,
            pressure=self._pressure,
        )
        messages = [*self._parcels, (last, self._buffers)]
        self.__init__()
        self._acked = acked
        return messages

    def _weigh(self, size: int) -> None:
        """Close a parcel when it is large enough."""
        self._weight += size
        if self._weight >= _PARCEL_BYTES or len(self._buffers) >= _PARCEL_BUFFERS:
            self._parcels.append((self._step(self._acked), self._buffers))
            self._failed, self._outputs, self._buffers, self._weight = [], [], [], 0
            self._tokens, self._probes, self._exports = {}, {}, []

    def _step(
        self,
        acked: int,
        flushed: Sequence[int] = (),
        cached: Sequence[int] = (),
        ends: Sequence[RunEnd] = (),
        receipts: Sequence[Receipt] = (),
        pressure: Pressure | None = None,
    ) -> Step:
        return Step(
            acked=acked,
            failed=self._failed,
            flushed=list(flushed),
            cached=list(cached),
            runs=list(self._tokens),
            counts=[len(tokens) for tokens in self._tokens.values()],
            tokens=[token for tokens in self._tokens.values() for token in tokens],
            ends=list(ends),
            outputs=self._outputs,
            exports=self._exports,
            probes=[RunProbes(run, slots) for run, slots in self._probes.items()],
            receipts=list(receipts),
            pressure=pressure,
        )

    def _slot(self, result: Result) -> Slot:
        match result:
            case int():
                return Slot("token", token=result)
            case TopK():
                return Slot("top", ids=list(result.ids), probs=list(result.probabilities))
            case LogProbs():
                return Slot("logprobs", values=list(result.values))
            case Entropy():
                return Slot("entropy", values=[result.nats])
            case Vector():
                self._buffers.append(np.ascontiguousarray(result.values, dtype="<f4").tobytes())
                return Slot(result.kind, buffer=len(self._buffers) - 1)
            case Pages():
                raise InternalError("pages were delivered as an answer of a pass")
            case PieError():
                raise InternalError("a failed row was delivered as an answer")


def _weight(slots: Sequence[Slot]) -> int:
    return sum(_ENTRY + _PROBABILITY * (len(slot.ids) + len(slot.values)) for slot in slots)
