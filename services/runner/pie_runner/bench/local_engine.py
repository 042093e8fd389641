"""An engine in the runner's own process that computes nothing: its passes answer at once, with what lies ready."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING

import numpy as np
from pie_wire.errors import InternalError
from pie_wire.hub import Hub, Incoming
from pie_wire.messages.common import MemberInfo, ModelFacts
from pie_wire.messages.engine import Forward, GetModel, ModelReply, Ops, Output
from pie_wire.messages.link import Identity
from pie_wire.messages.runner import ForwardDone, Slot, Step
from tokenizers import Tokenizer, decoders, models
from tokenizers.pre_tokenizers import ByteLevel

from pie_runner.engines import PORT_PREFIX

if TYPE_CHECKING:
    from pie_wire.codec import Buffer

    from pie_runner.engines import Engines

VOCAB = 49_152
_SPREAD = 3.0
"""Standard deviation of the rows: a real model's is about that."""
_ROWS = 16
_NAME = "echo"
_TICK_SECONDS = 0.05
_START_SECONDS = 30.0


class LocalEngine:
    """Linked to a runner's hub without sockets. A token that is asked for is the next of a fixed sequence, so that
    drawing costs nothing here; rows of logits are a few random ones in turns."""

    def __init__(self, runner: Hub, engines: Engines) -> None:
        """Raises InternalError when the link does not come up."""
        rng = np.random.default_rng(1)
        self._rows = [(rng.standard_normal(VOCAB) * _SPREAD).astype("<f4").tobytes() for _ in range(_ROWS)]
        self._turn = itertools.cycle(range(_ROWS))
        self._runner = runner
        self._hub = Hub(Identity("engine", _NAME, 1), time.monotonic)
        self._hub.listen("runners")
        self._hub.on(GetModel, self._model)
        self._hub.on(Ops, self._ops)
        self._next_tick = 0.0
        engines.update([MemberInfo("engine", _NAME, 1, "here")])
        deadline = time.monotonic() + _START_SECONDS
        while not engines.names():
            if time.monotonic() > deadline:
                raise InternalError("the engine of the benchmark was not linked")
            self.move()

    def move(self) -> None:
        """Deliver what is under way, until nothing is."""
        now = time.monotonic()
        if now >= self._next_tick:
            self._next_tick = now + _TICK_SECONDS
            self._runner.tick()
            self._hub.tick()
        moved = True
        while moved:
            moved = False
            for item in self._runner.outgoing():
                self._hub.receive("runners", b"runner", item.frames)
                moved = True
            for item in self._hub.outgoing():
                self._runner.receive(PORT_PREFIX + _NAME, b"", item.frames)
                moved = True

    def _model(self, incoming: Incoming[GetModel]) -> None:
        facts = ModelFacts(_NAME, VOCAB, 8192)
        tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(sorted(ByteLevel.alphabet()))}, []))
        tokenizer.decoder = decoders.ByteLevel()
        incoming.reply(ModelReply(facts, ["tokenizer.json"]), buffers=[tokenizer.to_str().encode()])

    def _ops(self, incoming: Incoming[Ops]) -> None:
        message = incoming.message
        done: list[ForwardDone] = []
        buffers: list[Buffer] = []
        for number, op in enumerate(message.ops, message.first):
            if isinstance(op, Forward):
                done.append(ForwardDone(number, [self._slot(output, buffers) for output in op.outputs]))
        acked = message.first + len(message.ops) - 1
        self._hub.send(incoming.peer, Step(acked, outputs=done), buffers=buffers)

    def _slot(self, output: Output, buffers: list[Buffer]) -> Slot:
        turn = next(self._turn)
        if output.kind == "token":
            return Slot("token", token=turn)
        buffers.append(self._rows[turn])
        return Slot("logits", buffer=len(buffers) - 1)
